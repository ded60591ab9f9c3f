"""Images whose scale varies from one to the next: how they are made, and three ways for a network to meet them.

After A. Borthakur, T. A. Cleland, "Signal conditioning for learning in the wild", NICE 2019: sensors in the wild see
the same thing at concentrations orders of magnitude apart, and each sample is brought to one scale before anything is
learned. Here samples are scikit-learn's digits, each times a gain e^(σ ξ), ξ ~ N(0, 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from bntheory.networks import Sequential

SPREADS = (0.0, 1.0, 2.0, 3.0)  # σ, in nats
TREATMENTS = {"raw": "no normalization", "sample": "each image normalized", "batch": "BN"}
HELD_BACK = 5  # one image in so many is tested on


class Images(NamedTuple):
    """Digits with gains; the first part to learn from, the other to test on.

    Attributes
    ----------
    learn, test : ndarray, (number, 64)
        Standardised images times their gains, over the root mean square of all those to learn from.
    learn_labels, test_labels : ndarray of int64, (number,)
    normals, test_normals : ndarray, (number,)
        ξ of every image.
    """

    learn: np.ndarray
    learn_labels: np.ndarray
    normals: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    test_normals: np.ndarray


def images(spread: float, seed: int = 0) -> Images:
    """Return the digits with gains of ln g ~ N(0, spread²).

    Parameters
    ----------
    spread : float
        σ, at least 0.
    seed : int
        Of ξ, the same for all spreads.

    Returns
    -------
    Images
    """
    from simulations import streams
    from simulations.training.datasets import load

    whole = load("digits")
    pixels = whole.standardised().reshape(len(whole), -1)
    normals = streams.input_stream(streams.root(seed)).standard_normal(len(whole))
    scaled = pixels * np.exp(spread * normals)[:, None]
    learn = np.arange(len(whole)) % HELD_BACK != 0
    scaled /= np.sqrt(np.mean(scaled[learn] ** 2))
    parts = ((scaled[part], whole.labels[part], normals[part]) for part in (learn, ~learn))
    return Images(*(array for part in parts for array in part))


def network(treatment: str, depth: int, width: int, classes: int | None = 10) -> Sequential:
    """Describe a ReLU network with He's weights, and how it meets scales: not at all, image by image, or by BN.

    Parameters
    ----------
    treatment : str
        A key of `TREATMENTS`. Normalization of each image has no ε, so that nothing is left of its scale.
    depth, width : int
    classes : int, optional
        None: no output layer.
    """
    from bntheory.architectures import mlp
    from bntheory.layers import LayerNorm
    from bntheory.networks import Sequential

    net = mlp(depth, width, batch_norm=treatment == "batch", input_width=64, output_width=classes)
    return Sequential((LayerNorm(epsilon=0), *net.layers), (64,)) if treatment == "sample" else net


def moments_by_layer(inputs: np.ndarray, depth: int, batch_norm: bool) -> np.ndarray:
    """Return E h hᵀ over the batch after every layer of a ReLU network with He's weights, at infinite width.

    Parameters
    ----------
    inputs : ndarray, (B, units)
    depth : int
    batch_norm : bool

    Returns
    -------
    ndarray, (depth + 1, B, B)
        Means over units; entry 0 is of the inputs.
    """
    from bntheory import Activation, BatchNorm
    from bntheory.growth.infinite_width.batch_products import activated, normalized_and_activated

    relu, layers = Activation("relu"), [inputs @ inputs.T / inputs.shape[1]]
    for _ in range(depth):
        before = 2 * layers[-1]
        after = normalized_and_activated(relu, before, BatchNorm().epsilon) if batch_norm else activated(relu, before)
        layers.append(after)
    return np.array(layers)


def effective_share(sizes: np.ndarray) -> np.ndarray:
    """Return (Σ n)² / (B Σ n²): which share of a batch carries it; 1 if all n are equal, 1/B if one has everything.

    For n = g², ln g ~ N(0, σ²), it tends to e^(−4σ²) as the batch grows.

    Parameters
    ----------
    sizes : ndarray, (…, B)
        Squared norms, at least 0.

    Examples
    --------
    >>> effective_share(np.array([1.0, 1.0, 0.0, 0.0]))
    np.float64(0.5)
    """
    relative = sizes / sizes.max(axis=-1, keepdims=True)
    return relative.sum(axis=-1) ** 2 / (relative**2).sum(axis=-1) / sizes.shape[-1]
