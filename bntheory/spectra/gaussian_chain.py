"""Networks whose Jacobian is a product of Gaussian matrices and independent coins, read off their description.

J = D_L W_L … D_1 W_1 with independent Gaussian W_l. The slopes D_l depend on the W's, but J Jᵀ has the law it would
have if the diagonal entries of D_l were independent fair coins, 1 or the slope of φ for z < 0 (Hanin, Nica 2020,
Products of many large random matrices and gradients in deep neural networks, Commun. Math. Phys. 376, 287, section 2).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from bntheory import arguments
from bntheory.activations import Activation
from bntheory.layers import MOST_UNITS, Dense, Flatten
from bntheory.networks import Sequential, leaves

MOST_FACTORS = 1_000_000


class GaussianLayer(NamedTuple):
    """A Dense layer and its slopes."""

    inputs: int
    outputs: int
    log_variance: float  # of a weight
    slope: float = 1.0  # of φ for z < 0, where φ′ = 1 for z > 0: 1 linear, 0 relu
    activation: str = "nothing"  # the row that has this slope


def gaussian_chain(net_or_width: Sequential | int, factors: int | None, asked: str) -> list[GaussianLayer]:
    """Read the layers of a network, or those of a product of `factors` square matrices of variance 1/width.

    Parameters
    ----------
    net_or_width, factors
        A network and None, or width and factors, at least 1.
    asked : str
        The caller's name, for errors.

    Raises
    ------
    ValueError
        For a width or a number of factors below 1, both a network and factors, or a network with anything but Dense
        layers with normal weights, each followed by relu, leaky_relu, linear or nothing; the row is named.

    Examples
    --------
    >>> gaussian_chain(8, 2, "moments") == [GaussianLayer(8, 8, -math.log(8))] * 2
    True
    """
    if isinstance(net_or_width, Sequential):
        if factors is not None:
            raise ValueError(f"{asked} takes a network alone, or a width and factors, got a network and {factors=}")
        return _read(net_or_width, asked)
    width = arguments.integer("width", net_or_width, at_most=MOST_UNITS)
    factors = arguments.integer("factors", factors, at_most=MOST_FACTORS)
    return [GaussianLayer(width, width, -math.log(width))] * factors


def _read(net: Sequential, asked: str) -> list[GaussianLayer]:
    rows = list(leaves(net))
    layers: list[GaussianLayer] = []
    free = False  # whether the last Dense layer has no activation yet
    for before, row in zip(rows, rows[1:], strict=False):
        layer, place, refusal = row.layer, f"row {row.name} ({row.operation})", ""
        slopes = layer.homogeneous_slopes if isinstance(layer, Activation) else None
        if isinstance(layer, Dense):
            if layer.init.distribution != "normal":
                refusal = f"its weights are {layer.init.distribution}, not normal"
            layers.append(GaussianLayer(before.shape[0], layer.features, math.log(layer.weight_variance(before.shape))))
            free = True
        elif slopes is None and not isinstance(layer, Flatten):
            refusal = "it is neither Dense nor relu, leaky_relu, linear"
        elif slopes is not None and slopes != (1.0, 1.0):
            if not free:
                refusal = "an activation must follow a Dense layer"
            else:
                layers[-1], free = layers[-1]._replace(slope=slopes[1], activation=place), False
        if refusal:
            raise ValueError(f"{asked} is not available because of {place}: {refusal}")
    if not layers:
        raise ValueError(f"{asked} needs a network with at least one Dense layer, got {net!s:.60}")
    return layers
