"""ResNet-110 without BN, draw by draw: how large it is at the start, and which step along its gradient ruins it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

STEPS = np.geomspace(3e-5, 1e-2, 15)
LAYERS = {"gradients": 55, "channels": 102}  # of figure 2, and the last of figure 5 before the classifier


def at_start(parameters: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Measure one network on the first mini-batch that it would be trained on.

    Parameters
    ----------
    parameters : mapping
        As those of `simulations.training.sweep.trained`, so that both measure the same network.
    seed : int
        Taken where the parameters have no seed.

    Returns
    -------
    dict
        log_size: ½ ln of the outputs' mean square; log_std, log_mean: ln of the channels' standard deviation and
        |mean|, averaged over the channels of layer 102; loss; diverging_step: where the loss along the gradient passes
        1000 times that (infinite if it does not up to 0.01); half_width: of the gradients of layer 55.
    """
    import torch

    from simulations import channel_moments, gradient_histogram, loss_along_step
    from simulations.training import batches
    from simulations.training.devices import one_torch_thread, put
    from simulations.training.modules import build
    from simulations.training.sweep import recipe_of

    recipe = recipe_of({"seed": seed, **parameters})
    learn, _ = batches.examples(recipe, "cpu")
    chosen, _ = batches.order(recipe, 0, len(learn))
    images, labels = learn.batch(chosen[: recipe.batch_size])
    model = put(build(recipe.net, recipe.seed), "cpu")
    with one_torch_thread(), torch.no_grad():
        square = float(model(images).double().square().mean())
    with one_torch_thread():
        along = loss_along_step(model, images, labels, steps=STEPS)
        gradients = gradient_histogram(model, images, labels)
        channels = channel_moments(model, images)
    shown = {name: channels.averages(name)[0] for name in ("log_std", "log_mean")}
    return {
        "log_size": math.log(square) / 2,
        **{name: float(values[channels.numbers.index(LAYERS["channels"])]) for name, values in shown.items()},
        "loss": along.loss,
        "diverging_step": math.inf if along.diverging_step is None else along.diverging_step,
        "half_width": float(gradients.half_width[gradients.numbers.index(LAYERS["gradients"])]),
    }
