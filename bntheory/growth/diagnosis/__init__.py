"""What a prediction means: findings, causes, remedies, tables."""
