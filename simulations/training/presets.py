"""Three scales of training, and what a run of each costs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from simulations.training import devices
from simulations.training.modules import build, torch
from simulations.training.recipe import Recipe

RATES = {True: 0.1, False: 1e-4}  # the paper's at depth 110, with and without BatchNorm
TIMED = 3  # steps


@dataclass(frozen=True)
class Preset:
    """Words for a network, and fields of a recipe.

    Parameters
    ----------
    network : dict
        Arguments of the architecture's function, with its name.
    recipe : dict
        Fields of `Recipe`.
    """

    network: dict[str, Any]
    recipe: dict[str, Any]


PRESETS = {
    "quick": Preset(
        {"architecture": "resnet", "depth": 20, "image": (3, 8, 8)},
        {"data": "digits", "epochs": 20},
    ),
    "standard": Preset(
        {"architecture": "resnet", "depth": 20, "image": (3, 32, 32)},
        {"data": "fashion-mnist", "epochs": 15, "augment": True},
    ),
    "full": Preset(
        {"architecture": "resnet", "depth": 110, "image": (3, 32, 32)},
        {"epochs": 165, "augment": True},  # data is a folder with CIFAR-10
    ),
}


def seconds_of_step(recipe: Recipe, place: str) -> float:
    """Return the time of a step, measured on a few of a network of its own on noise, after one to warm up."""
    images = torch.randn(recipe.batch_size, *(recipe.net.input_shape or ()), generator=torch.Generator().manual_seed(0))
    images = images.to(place)
    model = devices.put(build(recipe.net), place)
    start = 0.0
    for step in range(TIMED + 1):
        if step == 1:
            start = time.perf_counter()
        with torch.autocast(place, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            loss = model(images).square().mean()
        loss.backward()
        loss.item()  # which waits for the device
    if place == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / TIMED
