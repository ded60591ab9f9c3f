"""Pickles of plain data and arrays of bytes: nothing that such a file names is imported or called."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from typing import Any

import numpy as np


def plain_pickle(content: bytes) -> Any:
    """Return what was pickled: dicts, lists, bytes, numbers, and arrays of uint8 as values of the outermost dict.

    A pickle is a program that may call whatever it names. This one may name the three things that make an array, and
    gets stand-ins for them, so that the array is made here from checked parts.

    Parameters
    ----------
    content : bytes
        Of the file. Strings of Python 2 come as bytes, and so do keys of the outermost dict written by Python 3.

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If the pickle is damaged, names anything else, or an array is not of bytes.

    Examples
    --------
    >>> plain_pickle(pickle.dumps({"labels": [3, 1]}))
    {b'labels': [3, 1]}
    >>> plain_pickle(pickle.dumps(print))
    Traceback (most recent call last):
    ValueError: is no pickle of plain data: it names builtins.print
    """
    try:
        _check_memo(content)
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle may fail in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"is no pickle of plain data: {reason:.120}") from None
    if not isinstance(found, dict):
        return found
    return {_bytes(key): value.array if isinstance(value, _Array) else value for key, value in found.items()}


def _check_memo(content: bytes) -> None:
    """Refuse numbers of remembered objects that no file of this length needs: memory is taken for all below them."""
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(f"it remembers {argument:,} objects in {len(content):,} bytes")


def _bytes(value: object) -> object:
    return value.encode() if isinstance(value, str) else value


class _Type:
    """Stands for numpy.dtype: of bytes, or refused."""

    def __init__(self, code: object, *_: object) -> None:
        if _bytes(code) != b"u1":
            raise ValueError(f"arrays must hold bytes ('u1'), got {code!r:.20}")

    def __setstate__(self, state: object) -> None:
        """Byte order and the like: a byte has none."""


class _Array:
    """Stands for the array that _reconstruct begins and its state completes."""

    array = np.empty(0, np.uint8)

    def __init__(self, *_: object) -> None:
        """All that counts comes with the state."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _Type) or not isinstance(content, bytes) or len(content) != math.prod(shape):
            raise ValueError(f"an array of shape {shape!r:.60} must have as many bytes")
        self.array = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


_STANDS_FOR: dict[str, Any] = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,  # as NumPy 2 calls it
    "numpy.ndarray": "numpy.ndarray",  # an argument of the former
    "numpy.dtype": _Type,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _STANDS_FOR:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _STANDS_FOR[f"{module}.{name}"]
