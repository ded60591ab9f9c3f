"""Modules by name: "package.module:factory", found from the current folder as `python -m` would."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

Factory = Callable[[], nn.Module]


def factory(place: str) -> Factory:
    """What makes the module that is named: a function without arguments, a class, or a module as it is.

    Parameters
    ----------
    place : str
        "package.module:name", where name may have dots.

    Returns
    -------
    callable
        Without arguments, returning a `torch.nn.Module`.

    Raises
    ------
    ValueError
        If there is no colon, if the import fails (with its reason), or if the name is not there (nearest ones named).
    """
    path, colon, name = place.partition(":")
    if not (path and colon and name):
        raise ValueError(f"a network is named package.module:factory, for example models:resnet20; got {place!r}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(path)
    except Exception as error:  # whatever that file does
        raise ValueError(f"cannot import {path!r} from {os.getcwd()}: {type(error).__name__}: {error}") from error
    for word in name.split("."):
        if not hasattr(found, word):
            near = difflib.get_close_matches(word, [known for known in dir(found) if not known.startswith("_")])
            hint = f"; the nearest: {', '.join(near)}" if near else ""
            raise ValueError(f"{path!r} has no {name!r}{hint}")
        found = getattr(found, word)
    if isinstance(found, nn.Module):
        return lambda: found
    if not callable(found):
        raise ValueError(f"{place} must make a torch.nn.Module, got {type(found).__name__}")
    return lambda: _made(found, place)


def _made(make: Callable[[], Any], place: str) -> nn.Module:
    try:
        module = make()
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # not from inside the factory
            raise ValueError(f"{place} is called without arguments: {error}") from None
        raise
    if not isinstance(module, nn.Module):
        raise ValueError(f"{place} must make a torch.nn.Module, got {type(module).__name__}")
    return module
