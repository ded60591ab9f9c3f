"""The machine's memory, asked before it is used up."""

from __future__ import annotations

import os


def refuse_beyond(what: str, needed: int, remedy: str) -> None:
    """Raise ValueError, with a remedy, if that many bytes are more than the machine has.

    Examples
    --------
    >>> refuse_beyond("the network", 10**30, "a smaller one")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the network needs 1e+21 GB of the machine's ... GB: use a smaller one
    """
    if needed > there():
        raise ValueError(f"{what} needs {needed / 1e9:.3g} GB of the machine's {there() / 1e9:.3g} GB: use {remedy}")


def fitting(wanted: int, needed: int) -> int:
    """Return how many of the wanted threads fit, if each needs that many bytes: at least one."""
    return max(1, min(wanted, int(0.8 * there() / max(needed, 1))))


def there() -> int:
    """Return the machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
