"""What a command looks at: a torch module, named by what makes it, or the checkpoint of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bntheory.commands import made_module
from simulations.comparison import Crosscheck, crosscheck
from simulations.training.checkpoints import load_model
from simulations.training.history import History
from simulations.training.modules import torch


class Target(NamedTuple):
    """A module, with what is known of it.

    words : what it is;  shape : of one input, if that is known;  data : what it was trained on;  make : makes one anew,
    if that is possible;  history : of a checkpoint.
    """

    module: torch.nn.Module
    words: str
    shape: tuple[int, ...] | None = None
    data: str | None = None
    make: Callable[[], torch.nn.Module] | None = None
    history: History | None = None


def found_target(target: str, seed: int) -> Target:
    """Return what is named: "package.module:factory", checkpoint.pt, or the folder of a run.

    Raises
    ------
    ValueError
        As `bntheory.torch_models.factories.factory` and `load_model`, or if it is neither.
    """
    if Path(target).exists() or (":" not in target and (target.endswith(".pt") or "/" in target)):
        module, history = load_model(target)
        net = history.recipe.net
        return Target(module, f"{target}: {net}, {_when(history)}", net.input_shape, history.recipe.data, None, history)
    module, make = made_module(target, seed)
    described: Any = vars(module).get("description")
    return Target(module, target, getattr(described, "input_shape", None), None, make)


def crosscheck_target(
    found: Target, values: Any, trials: int, seed: int, redraw: str | None = None, init: str | None = None
) -> Crosscheck:
    """Cross-check what a factory makes, which is called again for every draw unless a law or another way is given.

    Parameters
    ----------
    found : Target
    values : array (B, *input shape)
    trials, seed : int
    redraw, init : str, optional
        As `crosscheck` takes them; "factory" calls the factory again.
    """
    way: Any = redraw
    again = found.make is not None and found.make() is not found.module
    if redraw == "factory" or (redraw is None and init is None and again):

        def way(model: Any) -> None:
            model.load_state_dict(found.make().state_dict())

    return crosscheck(found.module, values, trials, seed, way or "theory", init)


def _when(history: History) -> str:
    """How far the run is."""
    epochs = f"after {len(history.epochs)} of {history.recipe.epochs} epochs on {history.data}"
    if history.divergence is not None:
        return f"{epochs}, where it {history.divergence}"
    return f"{epochs} (step {len(history.losses)})"
