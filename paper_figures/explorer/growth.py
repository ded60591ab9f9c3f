"""Tables of growth: second moments, bands and gradients by layer.

In networks of equal widths second moments do not depend on the width (but for biases of variance 1/(3 width)), and the
rows of a network are the first rows of a deeper one. So is, but for a constant, the gradient without BatchNorm: with C
that of a network deeper than all, the gradient of depth D is C(ℓ) − C(D). With BatchNorm a term remains, `ends`, since
the last gradient is white and those before it are not: it depends on D and on ℓ/D. The gain scales linear and ReLU
networks and does nothing else: two nodes, between which logarithms are linear. Bands behind BatchNorm in every layer do
not know it.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np

from bntheory import initialization, mlp, predict_growth
from bntheory.growth.diagnosis.layer_trends import layer_rows
from bntheory.growth.prediction import Growth
from bntheory.networks import Sequential
from paper_figures.explorer.choices import BATCH, FEW_WIDTHS, GELU_WIDTHS, LEVEL, MANY_WIDTHS, WIDTHS, upto
from paper_figures.explorer.tables import Table

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
DEPTHS = (1, 2, 4, 8, 16, 40, 100)
HOMOGENEOUS = ("relu", "linear")


class Kind(NamedTuple):
    """A family of networks: mlp(depth, width, activation, …)."""

    activation: str
    batch_norm: bool
    residual: bool

    def net(self, init: str, gain: float, depth: int, width: int) -> Sequential:
        """One of them; `init` is "normal", "orthogonal" or "torch_default", whose gain is its own."""
        law: Any = "torch_default"
        if init != "torch_default":
            law = initialization({"normal": "lecun_normal"}.get(init, init), gain)
        return mlp(depth, width, self.activation, law, batch_norm=self.batch_norm, residual=self.residual)

    def predicted(self, init: str, gain: float, depth: int, width: int) -> Growth:
        """What theory says of it."""
        batch = BATCH if self.batch_norm else None
        return predict_growth(self.net(init, gain, depth, width), batch_size=batch, covariances=self.batch_norm)

    @property
    def key(self) -> str:
        """Its name in the page."""
        return self.activation + "+bn" * self.batch_norm + "+residual" * self.residual


def moments(growth: Growth, depth: int | None = None) -> np.ndarray:
    """ln of the second moment and of the squared gradient (2, layers + 1), the input first; to a depth."""
    rows = layer_rows(growth.rows)[: None if depth is None else depth + 1]
    return np.array([growth.log_second_moment[rows], growth.log_gradient[rows]])


def offsets(growth: Growth, depth: int | None = None) -> np.ndarray:
    """Mean of ln(mean of h²) and ends of its band, less ln of the second moment (3, layers + 1); to a depth."""
    rows = layer_rows(growth.rows)[: None if depth is None else depth + 1]
    return (np.array([growth.log_growth_mean, *growth.band(LEVEL)]) - growth.log_second_moment)[:, rows]


def growth_tables(kind: Kind, gains: tuple[float, ...], depth: int) -> dict[str, Any]:
    """Tables of one kind of network.

    Parameters
    ----------
    kind : Kind
    gains : tuple of float
        Increasing; at least two.
    depth : int
        Of the deepest network.

    Returns
    -------
    dict
        For "normal" and "torch_default" weights "moments", a Table of (2, depth + 1), "offsets", one of (3, depth + 1),
        and "methods", words for moments, bands and gradients; "ends", a Table or None.
    """
    of_moments, of_bands = _gains(kind, gains)
    return {
        "normal": _tables(kind, "normal", of_moments, of_bands, _widths(kind), depth),
        "torch_default": _default_tables(kind, depth),
        "ends": _ends(kind, of_bands, depth) if kind.batch_norm else None,
    }


def _gains(kind: Kind, gains: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes for moments and for bands; a single one stands for all."""
    if not kind.residual and kind.batch_norm:
        return gains, (1.0,)  # but for ε
    if not kind.residual and kind.activation in HOMOGENEOUS:
        return (gains[0], gains[-1]), (1.0,)
    if kind.batch_norm:  # the band is narrow, and changes little
        return gains, (gains[0], gains[-2], gains[-1]) if len(gains) > 2 else gains
    return gains, gains


def _widths(kind: Kind) -> tuple[int, ...]:
    if kind.residual:
        return FEW_WIDTHS
    return GELU_WIDTHS if kind.activation == "gelu" and not kind.batch_norm else WIDTHS


def _tables(
    kind: Kind,
    init: str,
    of_moments: tuple[float, ...],
    of_bands: tuple[float, ...],
    widths: tuple[int, ...],
    depth: int,
) -> dict[str, Any]:
    made = {(gain, width): kind.predicted(init, gain, depth + 1, width) for gain, width in product(of_bands, widths)}
    one = widths[len(widths) // 2]
    for gain in of_moments:
        if (gain, one) not in made:
            made[gain, one] = kind.predicted(init, gain, depth + 1, one)
    sizes = np.array([moments(made[gain, one], depth) for gain in of_moments])
    bands = np.array([[offsets(made[gain, width], depth) for width in widths] for gain in of_bands])
    return {
        "moments": Table({"gain": of_moments}, sizes),
        "offsets": Table({"gain": of_bands, "width": tuple(map(float, widths))}, bands),
        "methods": _methods(made[of_bands[-1], widths[-1]]),
    }


def _default_tables(kind: Kind, depth: int) -> dict[str, Any]:
    """Of PyTorch's own weights, whose biases become small in wide networks."""
    many, some = (FEW_WIDTHS, FEW_WIDTHS) if kind.batch_norm else (MANY_WIDTHS, _widths(kind))
    made = {width: kind.predicted("torch_default", 1.0, depth + 1, width) for width in {*many, *some}}
    sizes = np.array([moments(made[width], depth) for width in many])
    bands = np.array([offsets(made[width], depth) for width in some])
    return {
        "moments": Table({"width": tuple(map(float, many))}, sizes),
        "offsets": Table({"width": tuple(map(float, some))}, bands),
        "methods": _methods(made[some[-1]]),
    }


def _methods(growth: Growth) -> list[str]:
    """Words for second moments, bands and gradients, the last layer's and the input's."""
    return [growth.moment_method[-1], growth.band_method[-1], growth.gradient_method[0]]


def _ends(kind: Kind, gains: tuple[float, ...], depth: int) -> Table:
    """What C(ℓ) − C(D) lacks, for ℓ = 0, D/4, D/2, 3D/4 and, in the limit, D."""
    depths = upto(DEPTHS, depth)
    values = np.empty((len(gains), len(depths), len(PLACES)))
    for i, gain in enumerate(gains):
        whole = moments(kind.predicted("normal", gain, depth + 1, 64), depth)[1]
        for k, shallow in enumerate(depths):
            own = moments(kind.predicted("normal", gain, shallow, 64))[1]
            lacking = own[:-1] - (whole[:shallow] - whole[shallow])
            limit = 0.0 if kind.residual else lacking[-1]  # without shortcuts the last layer differs from all others
            values[i, k] = np.interp(np.array(PLACES) * shallow, np.arange(shallow + 1), [*lacking, limit])
    return Table({"gain": gains, "depth": tuple(map(float, depths)), "place": PLACES}, values)
