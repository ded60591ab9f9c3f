"""What probes have found as aligned text and as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def aligned(heads: Sequence[str], lines: Sequence[Sequence[object]], most: int = 24) -> str:
    """Columns set flush right, words in the first left; numbers in four digits; of many lines both ends, `most` in all.

    >>> print(aligned(("step", "loss"), [(0.1, 2.0), (1, 0.12345)]))
    step    loss
     0.1       2
       1  0.1235
    """
    cells = [tuple(_cell(value) for value in line) for line in lines]
    first = bool(lines) and not isinstance(lines[0][0], str)
    right = [first, *(True,) * (len(heads) - 1)]
    if len(cells) > most:
        half = max(1, most // 2)
        cells = [*cells[:half], ("…",) * len(heads), *cells[-half:]]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in (heads, *cells)
    )


def plain(value: Any) -> Any:
    """Data for strict JSON, as `Samples.to_dict` writes them: −inf is None, +inf is "inf", NaN is "nan".

    >>> plain({"steps": np.array([0.5, np.inf]), "best": -math.inf})
    {'steps': [0.5, 'inf'], 'best': None}
    """
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (float, np.floating)) and not math.isfinite(value):
        return None if value == -math.inf else str(float(value))
    return value.item() if isinstance(value, np.generic) else value


def short(value: float | None, digits: int = 4) -> str:
    """A number as text, empty if it is None or NaN.

    >>> short(2 / 3), short(None)
    ('0.6667', '')
    """
    return "" if value is None or math.isnan(value) else f"{value:.{digits}g}"


def power(logarithm: float) -> str:
    """exp(logarithm) in three digits, whatever its size.

    >>> power(0.0), power(10000.0), power(math.inf)
    ('1', '8.81e+4342', 'inf')
    """
    if not math.isfinite(logarithm):
        return "inf" if logarithm > 0 else "0"
    if abs(logarithm) < 700:
        return f"{math.exp(logarithm):.3g}"
    decades = logarithm / math.log(10)
    return f"{10 ** (decades - math.floor(decades)):.3g}e{math.floor(decades):+d}"


def _cell(value: object) -> str:
    if value is None:
        return "·"
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)
