"""Table 1 without BN, where the way back has the weights of the way there, and where it has independent ones.

Theory takes gradients for independent of activations. In the second kind of network they are: values are those of one
draw of the weights, gradients go back through the convolutions of another. Gradients at the output are white, with the
correlation that table 1's prediction assumes, in both kinds: they differ in nothing but these weights.
Too slow for the test suite; `tests/paper_figures/test_table1.py` reads the JSON file and judges it.

    python tests/benchmarks/gradient_independence.py [--draws 240] [--images 16] [--seed 0]      5 minutes, one core
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import studies
import torch

import bntheory
from paper_figures import networks
from paper_figures.table1 import ALIKE, LAYERS
from simulations import kernel_alignment
from simulations.training.modules import build

DEPTH, CLASSES = 110, 10


def go_back_through(model: torch.nn.Module, other: torch.nn.Module) -> None:
    """Leave a model's values as they are, and have gradients go back through the convolutions of another."""

    def hook(convolution: torch.nn.Module, _: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        back = convolution(inputs[0])
        return back + (output - back).detach()

    for own, foreign in zip(model.modules(), other.modules(), strict=True):
        if isinstance(own, torch.nn.Conv2d):
            own.register_forward_hook(functools.partial(hook, foreign))


def output_gradient(images: int, rng: np.random.Generator) -> np.ndarray:
    """White, with the correlation of two images that theory is asked for."""
    own, common = rng.standard_normal((images, CLASSES)), rng.standard_normal(CLASSES)
    return (math.sqrt(1 - ALIKE) * own + math.sqrt(ALIKE) * common).astype(np.float32)


def ratios(images: np.ndarray, draws: int, seed: int, independent: bool) -> np.ndarray:
    """mean(a)/mean(b) of table 1's layers, a network a row."""
    net, found = networks.resnet(DEPTH, "nobn"), np.empty((draws, len(LAYERS)))
    for draw in range(draws):
        model = build(net, seed, draw=draw)
        if independent:
            go_back_through(model, build(net, seed, draw=draws + draw))
        gradient = output_gradient(len(images), np.random.default_rng((seed, draw)))
        probed = kernel_alignment(model, images, gradient, lambda outputs, given: (outputs * given).sum())
        found[draw] = [probed.ratio[probed.numbers.index(layer)] for layer in LAYERS]
    return found


def summary(found: np.ndarray) -> dict[str, list[float]]:
    """Median over networks, and quartiles, layer by layer."""
    parts = {"lower_quartile": 0.25, "median": 0.5, "upper_quartile": 0.75}
    return {name: rounded(np.quantile(found, level, axis=0)) for name, level in parts.items()}


def rounded(values: np.ndarray) -> list[float]:
    """Four digits."""
    return [float(f"{value:.4g}") for value in values]


def results(draws: int = 240, images: int = 16, seed: int = 0) -> dict[str, Any]:
    """Theory beside both kinds of networks."""
    given = networks.batch(images, seed).images
    net = networks.resnet(DEPTH, "nobn")
    path = np.flatnonzero(networks.main_path(bntheory.leaves(net)))[np.array(LAYERS) - 1]
    theory = bntheory.kernel_alignment(net, given.astype(float), alike=ALIKE)[path]
    return {
        "what": "mean(a)/mean(b) of table 1, white gradients at the output, weights of the way back the same or others",
        "setting": networks.setting(DEPTH, images, draws),
        "alike": ALIKE,
        "layers": LAYERS,
        "theory": rounded(theory),
        "same": summary(ratios(given, draws, seed, independent=False)),
        "independent": summary(ratios(given, draws, seed, independent=True)),
    }


if __name__ == "__main__":
    studies.run(results)
