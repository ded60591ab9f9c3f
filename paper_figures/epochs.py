"""Accuracy after every epoch of a run, as a study of training keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

ACCURACIES = ("train_accuracy", "test_accuracy")


def accuracies(parameters: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Train one network on one thread.

    Parameters
    ----------
    parameters : mapping
        As those of `simulations.training.sweep.trained`.
    seed : int
        Taken where the parameters have no seed.

    Returns
    -------
    dict
        train_accuracy: in the batches of an epoch; test_accuracy: after it; (epochs,), 0 from the epoch in which the
        run diverged.
    """
    from simulations.training.devices import one_torch_thread
    from simulations.training.loop import train
    from simulations.training.sweep import recipe_of

    recipe = recipe_of({"seed": seed, **parameters})
    with one_torch_thread():
        history = train(recipe, device="cpu", progress=False)
    found = {name: np.zeros(recipe.epochs) for name in ACCURACIES}
    for name, values in found.items():
        values[: len(history.epochs)] = [epoch[name] for epoch in history.epochs]
    return found
