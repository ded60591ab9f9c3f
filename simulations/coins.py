"""Networks of Dense layers followed by relu, leaky_relu or nothing: the masks of their Jacobian are fair coins.

J = D_L W_L … D_1 W_1 at one input h ≠ 0, D_l = diag(φ′(z_l)), z_l = W_l h_{l−1} + b_l. Write W_l = S_l W̃_l and
b_l = S_l b̃_l with independent uniform signs S_l on a diagonal. If the law of W_l and b_l does not change under flips of
rows and columns, as for independent symmetric entries and for orthogonal matrices drawn uniformly, then W̃_l has W_l's
law; given all W̃ and the S before, the signs of z_l = S_l z̃_l are independent fair coins. S_l commutes with D_l, and
W̃_{l+1} S_l has W̃_{l+1}'s law again: the singular values of J are those with masks drawn independently of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bntheory.activations import Activation
from bntheory.layers import Dense, Flatten
from bntheory.networks import Sequential, leaves
from simulations.graded import Factor
from simulations.weights import draw_weights


class Masked(NamedTuple):
    """A Dense layer and the slope of what follows it for z < 0: 1 linear, 0 relu; for z > 0 it is 1."""

    dense: Dense
    inputs: int
    slope: float = 1.0

    @property
    def variance(self) -> float:
        """Of a weight."""
        return self.dense.weight_variance((self.inputs,))


def described(net: Sequential) -> list[Masked] | None:
    """Return the layers of such a network; None for any other.

    Examples
    --------
    >>> from bntheory import mlp
    >>> [(layer.inputs, layer.dense.features, layer.slope) for layer in described(mlp(1, 4, input_width=3))]
    [(3, 4, 0.0)]
    >>> described(mlp(1, 4, "tanh"))
    """
    rows = list(leaves(net))
    layers: list[Masked] = []
    shape = rows[0].shape
    for leaf in rows[1:]:
        layer = leaf.layer
        slopes = layer.homogeneous_slopes if isinstance(layer, Activation) else None
        if isinstance(layer, Dense):
            layers.append(Masked(layer, shape[0]))
        elif slopes is not None and (layers or slopes == (1.0, 1.0)):
            if layers:
                before = layers[-1].slope  # a negative slope makes z < 0 positive
                layers[-1] = layers[-1]._replace(slope=before * (slopes[1] if before > 0 else 1.0))
        elif not isinstance(layer, Flatten):
            return None
        shape = leaf.shape
    return layers


def blocks(layers: list[Masked], inputs: int, rng: np.random.Generator) -> list[int]:
    """Draw how many units masks leave, of the input and of every layer: k ~ Binomial(n, ½) after a relu, else n."""
    counts = (rng.binomial(layer.dense.features, 0.5) if layer.slope == 0 else layer.dense.features for layer in layers)
    return [inputs, *map(int, counts)]


def factors(layers: list[Masked], sizes: list[int], rng: np.random.Generator) -> Iterator[Factor]:
    """Yield D_l W_l without the rows and columns that masks set to zero, of which `sizes` are left.

    Examples
    --------
    >>> from bntheory import mlp
    >>> layers = described(mlp(2, 6, init="orthogonal"))
    >>> [factor.matrix.shape for factor in factors(layers, [6, 3, 2], np.random.default_rng(0))]
    [(3, 6), (2, 3)]
    """
    for layer, columns, rows in zip(layers, sizes, sizes[1:], strict=False):
        matrix = _corner(layer, columns, rows, rng)
        if layer.slope not in (0.0, 1.0):
            matrix *= np.where(rng.random(rows) < 0.5, 1.0, layer.slope)[:, None]
        yield Factor(matrix)


def _corner(layer: Masked, columns: int, rows: int, rng: np.random.Generator) -> np.ndarray:
    """The first rows and columns of a weight matrix: the law of any others."""
    inputs, outputs = layer.inputs, layer.dense.features
    if layer.dense.init.distribution != "orthogonal":
        drawn = (columns, rows)
    else:  # columns of a matrix with orthonormal columns are such a matrix
        drawn = (inputs, rows) if inputs >= outputs else (columns, outputs)
    return draw_weights(layer.dense.init, layer.variance, drawn, rng)[:columns, :rows].T.copy()
