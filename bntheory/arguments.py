"""Checks of arguments: each returns the value in its plain type or raises ValueError in one line that names it."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable


def integer(name: str, value: object, at_least: int = 1, at_most: int | None = None) -> int:
    """Return `value` as an int of at least `at_least` and at most `at_most`.

    >>> integer("depth", 3)
    3
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} must be an integer of at least {at_least}, got {value!r}")
    plain = int(value)
    if plain < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}")
    if at_most is not None and plain > at_most:
        raise ValueError(f"{name} must be at most {at_most:,}, got {value!r:.40}")
    return plain


def number(name: str, value: object, *, above: float = -math.inf, at_least: float = -math.inf) -> float:
    """Return `value` as a finite float, strictly above `above` and at least `at_least`.

    >>> number("gain", 2, above=0)
    2.0
    """
    allowed = "finite"
    if above > -math.inf:
        allowed += f" and above {above:g}"
    if at_least > -math.inf:
        allowed += f" and at least {at_least:g}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} must be a number, {allowed}, got {value!r}")
    try:
        plain = float(value)
    except OverflowError:
        plain = math.inf
    if not (math.isfinite(plain) and plain > above and plain >= at_least):
        raise ValueError(f"{name} must be {allowed}, got {value!r:.60}")
    return plain


def probability(name: str, value: object) -> float:
    """Return `value` as a float strictly between 0 and 1.

    >>> probability("level", 0.9)
    0.9
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < 1:
        raise ValueError(f"{name} must be in (0, 1), got {value!r:.60}")
    return float(value)


def flag(name: str, value: object) -> bool:
    """Return `value` if it is True or False.

    >>> flag("batch_norm", True)
    True
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return value


def choice(name: str, value: object, known: Iterable[str]) -> str:
    """Return `value` if it is one of the known words; otherwise say which are known and which is nearest.

    >>> choice("mode", "fan_in", ["fan_in", "fan_out"])
    'fan_in'
    """
    words = list(known)
    if isinstance(value, str) and value in words:
        return value
    nearest = difflib.get_close_matches(value, words, n=1, cutoff=0.3) if isinstance(value, str) else []
    hint = f" (did you mean {nearest[0]}?)" if nearest else ""
    raise ValueError(f"{name} must be one of {', '.join(words)}; got {value!r}{hint}")
