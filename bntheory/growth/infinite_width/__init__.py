"""Wide networks: second moments of points and distances between them, layer by layer."""
