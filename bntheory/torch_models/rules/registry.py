"""The rules, by the names of torch's functions, and what several of them need.

A rule is called with the `Call` and the arguments of the function, under torch's own names; it returns what the result
is, or None where no layer does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bntheory.layers import Affine

if TYPE_CHECKING:
    from bntheory.torch_models.tracing import Call, Value

Rule = Callable[..., "Value | None"]
RULES: dict[str, Rule] = {}
Pair = int | tuple[int, int]


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a rule under the names of its functions, without the underscore of those that work in place."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


def pair(size: Any, sides: int, alone: int) -> tuple[int, int]:
    """(height, width) of a size given as torch takes it; a sequence is a map of width 1."""
    sizes = tuple(size) if isinstance(size, Sequence) else (size,) * sides
    if len(sizes) < sides:
        sizes = sizes * sides
    return (int(sizes[0]), int(sizes[1]) if sides == 2 else alone)


def number(sizes: tuple[int, int]) -> Pair:
    """One number for two equal sizes."""
    return sizes[0] if sizes[0] == sizes[1] else sizes


def scaled(call: Call, value: Value, gamma: Any, beta: Any, always: bool = False) -> Value:
    """γ h + β, a row of its own unless it changes nothing."""
    if (gamma, beta) == (1.0, 0.0) and not always:
        return value
    return call.leaf(value, Affine(gamma, beta), value.layout)


def numbers(*values: Any) -> bool:
    """Whether values are plain numbers, those after the first perhaps left out."""
    return all(isinstance(value, (int, float)) or value is None for value in values) and values[:1] != (None,)
