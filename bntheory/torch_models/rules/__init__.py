"""What each torch function is in a description, one rule a function; `registry` says how rules are written."""

from bntheory.torch_models.rules import activations, arithmetic, normalizations, shapes, weights  # noqa: F401
from bntheory.torch_models.rules.registry import RULES

__all__ = ["RULES"]
