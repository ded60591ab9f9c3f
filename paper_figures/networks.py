"""What the figures at initialization are measured on: ResNets with and without BN, and mini-batches of real images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from bntheory.networks import Sequential
    from simulations.training.datasets import ImageSet

KINDS = {"nobn": "without BN", "bn": "with BN"}
COLORS = {"nobn": "C1", "bn": "C0"}
SIDE = 32  # of the paper's images


class Batch(NamedTuple):
    """A mini-batch.

    Attributes
    ----------
    images : ndarray of float32, (number, 3, 32, 32)
    labels : ndarray of int64, (number,)
    """

    images: np.ndarray
    labels: np.ndarray


@functools.cache
def image_set() -> ImageSet:
    """Fashion-MNIST where it is installed, otherwise scikit-learn's digits."""
    from simulations.training.datasets import load

    try:
        return load("fashion-mnist")
    except ValueError:  # not on this machine
        return load("digits")


def setting(depth: int, images: int, draws: int) -> str:
    """Say on what a figure was measured: network, draws, data.

    Parameters
    ----------
    depth, images, draws : int
        Of the networks, of a mini-batch, and how many of both.

    Returns
    -------
    str
        Two lines for the face of a figure.
    """
    data = image_set()
    treated = f"padded to {SIDE}×{SIDE}" if data.name == "fashion-mnist" else f"8×8, enlarged to {SIDE}×{SIDE}"
    name = {"fashion-mnist": "Fashion-MNIST", "digits": "scikit-learn's digits"}[data.name]
    count = "1 draw" if draws == 1 else f"{draws} draws"
    return f"ResNet-{depth}, Xavier normal, at initialization; {count}\n{images} images of {name}, {treated}×3"


def batch(images: int, seed: int, index: int = 0) -> Batch:
    """Draw a mini-batch, standardised, in three equal channels of 32×32.

    Parameters
    ----------
    images : int
    seed, index : int
        Of the draw.
    """
    from simulations import streams
    from simulations.training.datasets import batch_of

    data = image_set()
    chosen = batch_of(np.arange(len(data)), images, streams.own_seed(seed, index))
    return Batch(data.standardised(chosen, **_fitted()), data.labels[chosen])


def _fitted() -> dict[str, Any]:
    """How images are brought to 3×32×32."""
    fit = {"pad": 2} if image_set().name == "fashion-mnist" else {"size": SIDE}
    return {"channels": 3, "dtype": "float32", **fit}


def resnet(depth: int, kind: str) -> Sequential:
    """Describe the paper's network: version-1 blocks, projection shortcuts, Xavier normal."""
    from bntheory import resnet

    return resnet(depth, batch_norm=kind == "bn", init="xavier_normal", image=(3, SIDE, SIDE), shortcut="projection")


def measured(
    probe: Callable[..., Any], draws: Iterable[tuple[int, int]], depth: int, images: int, seed: int, device: str
) -> dict[str, list[Any]]:
    """Apply a probe to networks of both kinds.

    Parameters
    ----------
    probe : callable
        (kind, model, images, labels) ↦ result.
    draws : iterable of (int, int)
        Numbers of the network and of the mini-batch, the same with BN and without.
    depth, images : int
        Of the networks and of a mini-batch.
    seed : int
    device : {"cpu", "cuda"}

    Returns
    -------
    dict
        "nobn" and "bn": a result a draw.
    """
    from simulations.ensemble import run_trials
    from simulations.training.devices import one_torch_thread
    from simulations.training.modules import build

    tasks = [(kind, *draw) for draw in draws for kind in KINDS]

    def task(index: int) -> Any:
        kind, network, number = tasks[index]
        model = build(resnet(depth, kind), seed, draw=network).to(device)
        return probe(kind, model, *batch(images, seed, number))

    image_set().standardised(slice(0, 1), **_fitted())  # read and averaged once, not in every thread
    with one_torch_thread():
        found = run_trials(task, len(tasks), workers=None if device == "cpu" else 1, label="ResNets")
    return {kind: [result for own, result in zip(tasks, found, strict=True) if own[0] == kind] for kind in KINDS}


def predicted(theory: Callable[[str], Any]) -> dict[str, Any]:
    """Evaluate kind ↦ theory for both kinds at once, in threads with a single-threaded BLAS each."""
    from simulations.ensemble import run_trials

    kinds = list(KINDS)
    return dict(zip(kinds, run_trials(lambda index: theory(kinds[index]), len(kinds), label="theory"), strict=True))


def alone(draws: int) -> list[tuple[int, int]]:
    """Numbers of networks that have a mini-batch of their own."""
    return [(draw, draw) for draw in range(draws)]


def layer_of(model: Any, number: int) -> str:
    """Name of a module by its number along the main path, as the paper counts: the stem is 1."""
    from simulations.training.probes.weight_layers import chosen, weights

    return chosen(number, weights(model))


def main_path(rows: Any) -> np.ndarray:
    """Which rows of a prediction are convolutions and linear layers of the main path; the first is layer 1."""
    from bntheory.layers import Conv, Dense

    return np.array([isinstance(row.layer, (Conv, Dense)) and "shortcut" not in row.name for row in rows])
