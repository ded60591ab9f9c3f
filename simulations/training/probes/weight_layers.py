"""Layers of a module by name, and by their number along the main path as the paper counts them."""

from __future__ import annotations

import numbers
from collections.abc import Iterable

from simulations.training.modules import torch
from simulations.training.probes.evaluation import refuse_other_models

nn = torch.nn
OFF_THE_PATH = {"shortcut", "downsample"}  # parts of names: ours, torchvision's


def weights(model: nn.Module) -> dict[str, str]:
    """Names of layers and of their weights: all parameters of two axes or more, shared ones once.

    Raises
    ------
    ValueError
        If there are none, or not yet.
    TypeError
        If `model` is no module.

    Examples
    --------
    >>> weights(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1)))
    {'0': '0.weight', '2': '2.weight'}
    """
    refuse_other_models(model)
    found = {_layer(name): name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    if not found:
        what = "weights" if next(model.parameters(), None) is not None else "parameters"
        raise ValueError(f"{type(model).__name__} has no {what}, so there is no gradient to look at")
    return found


def numbered(names: Iterable[str]) -> dict[str, int]:
    """Numbers of layers along the main path, from 1, in the order of their names.

    In ResNets of depth 6 n + 2 the stem is layer 1, the classifier the last; projections on shortcuts have none.

    Examples
    --------
    >>> numbered(["0", "3.branch.0", "3.shortcut.0", "6"])
    {'0': 1, '3.branch.0': 2, '6': 3}
    """
    main = (name for name in names if not OFF_THE_PATH.intersection(name.split(".")))
    return {name: number for number, name in enumerate(main, start=1)}


def chosen(layer: str | int, names: Iterable[str]) -> str:
    """Return the name of a layer that is given by name or by number.

    Raises
    ------
    ValueError
        If there is no such layer.

    Examples
    --------
    >>> chosen(2, ["0", "3.branch.0"]), chosen("0", ["0", "3.branch.0"])
    ('3.branch.0', '0')
    """
    names = list(names)
    if isinstance(layer, numbers.Integral) and not isinstance(layer, bool):
        main = list(numbered(names))
        if not 1 <= layer <= len(main):
            raise ValueError(f"layer must be from 1 to {len(main)}, the layers along the main path, got {layer}")
        return main[int(layer) - 1]
    if layer not in names:
        shown = ", ".join(names[:4]) + (f", …, {names[-1]}" if len(names) > 5 else "")
        raise ValueError(f"layer must be a number along the main path or one of {shown}; got {layer!r}")
    return str(layer)


def _layer(parameter: str) -> str:
    """The module that holds a weight; the parameter itself if it is called otherwise."""
    return (parameter.removesuffix(".weight") if parameter != "weight" else "model") or "model"
