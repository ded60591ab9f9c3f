"""The law of a network's input–output Jacobian, read off its description."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from bntheory.activations import Activation
from bntheory.growth.prediction import predict_growth
from bntheory.layers import Affine, BatchNorm, Dense, Dropout, Flatten
from bntheory.networks import Join, Leaf, Residual, Sequential, leaves
from bntheory.spectra.densities import slope_law
from bntheory.spectra.diagonal import Diagonal
from bntheory.spectra.factors import merged
from bntheory.spectra.residual import ResidualBranch, ResidualGaussian
from bntheory.spectra.s_transform import Part, STransformLaw

SAMPLE = "`bntheory simulate spectrum` samples the network"  # the way out


def jacobian_law(net: Sequential) -> STransformLaw:
    """Return the limiting law of the eigenvalues of J Jᵀ, J the Jacobian of a wide network at initialization.

    Widths go to infinity in the proportions of the description, at fixed depth. Factors are free:

        Dense, iid weights       Gaussian matrix of the variance of a weight, whatever their distribution
        Dense, orthogonal        gain times a matrix with orthonormal rows or columns
        relu                     mask that keeps half of the units;  leaky_relu: 1 or slope², half each
        other activations        φ′(√q g)², q the mean-field variance of the row before
        BatchNorm, evaluating    a factor γ²/(1 + ε); Affine of one γ and β = 0, a factor γ²
        Dropout                  mask that keeps 1 − p of the units, times 1/(1 − p)², after a Dense layer or a sum
        x + a·W φ(x), …          I + aB, B the product of the branch, slopes included

    Parameters
    ----------
    net : Sequential
        Of Dense layers, activations, Dropout and blocks with identity shortcuts, on a flat input, which is taken for
        Gaussian of second moment 1.

    Returns
    -------
    STransformLaw
        Of all n_out eigenvalues, zeros included. Its ``method`` is "limit", or "approximate" where slopes of several
        blocks are correlated by the identity between them (see Notes).

    Raises
    ------
    ValueError
        "not available because …", with the row's name: for BatchNorm, LayerNorm, convolutions and pooling, where a
        mask depends on what it multiplies (an activation of what is not Gaussian) or acts on the same units as the mask
        before it (Dropout after an activation), and for residual branches that are orthogonal, have blocks inside, or
        weigh less than 1e-8 or, unless a single Gaussian matrix, more than 30 times what the identity does.

    Notes
    -----
    If all weights are orthogonal, nothing smooths the laws of the slopes: one smooth activation between square matrices
    leaves that of φ′² itself, several their free product, which takes some seconds to trace. Not available are two
    layers of elu or selu, whose atoms just miss one of the product, and laws narrower than 1e-3 (tanh of small inputs).

    Slopes of different blocks are taken for independent. The identity between them correlates those that act on its
    units, before a Dense layer of their branch, so that the law of several such blocks is approximate at any width.
    Kolmogorov distances from simulated networks: relu, 10 blocks of scale 0.5, 0.03, and E x² a sixth too small; tanh
    of scale 0.5, 0.02 for 3 blocks and 0.03 for 10; leaky_relu(0.2) of scale 1, 0.03 and 0.04. Of one block, or of
    x + a·W₂ φ(W₁ x) in any number, it is a limit law: 0.01 at 200 units.

    References
    ----------
    Pennington, Schoenholz, Ganguli 2017 (arXiv:1711.04735) and 2018 (arXiv:1802.09979); Hanin, Nica 2018; Ling, Qiu
    2019 (residual networks). Freeness: Pastur 2020; Collins, Hayase 2023.

    Examples
    --------
    >>> from bntheory import mlp
    >>> law = jacobian_law(mlp(depth=2, width=512))
    >>> print(f"{law.support[1]:.6f}", law.atoms, [round(law.moment(k), 9) for k in (1, 2, 3, 4)])
    11.090170 ((0.0, 0.5),) [1.0, 5.0, 33.0, 249.0]
    """
    rows = tuple(leaves(net))
    if len(rows[0].shape) != 1:
        raise ValueError(
            f"not available because the input has shape {rows[0].shape}: only flat inputs have a law; {SAMPLE}"
        )
    product = _Product(rows[0].shape[0])
    product.take(net, _Walk(rows, net))
    return product.law(rows[-1].shape[0])


class _Walk:
    """The rows of a network, in order, and their mean-field variances."""

    def __init__(self, rows: tuple[Leaf, ...], net: Sequential) -> None:
        self.rows, self.net, self.next = rows, net, 1
        self._log_q: Any = None

    def step(self) -> Leaf:
        """Return the next row."""
        self.next += 1
        return self.rows[self.next - 1]

    def log_q(self, row: int) -> float:
        """ln of the second moment of a row."""
        if self._log_q is None:
            self._log_q = predict_growth(self.net, covariances=False).log_second_moment
        return float(self._log_q[row])


@dataclass
class _Product:
    """Factors from the input on: T = n_L y, powers of c + T, and whether the units are Gaussian."""

    width: int
    gaussian: bool = True
    log_scale: float = 0.0
    powers: list[tuple[Fraction, int]] = field(default_factory=list)
    parts: list[tuple[Any, int]] = field(default_factory=list)
    mixing: bool = False  # whether a Dense layer is among them
    diagonal: bool = False  # whether the last of them is a mask
    sloped: bool = False  # whether slopes have acted on the units, or on others that identities carry to them
    direct: bool = False  # whether slopes have acted before its first Dense layer
    method: str = "limit"

    def __post_init__(self) -> None:
        self.inputs = self.width

    def take(self, sequence: Sequential, walk: _Walk) -> None:
        """Multiply the layers of a sequence."""
        for layer in sequence.layers:
            if isinstance(layer, Sequential):
                self.take(layer, walk)
            elif isinstance(layer, Residual):
                self._block(layer, walk)
            elif isinstance(layer, Join):
                row = next(row for row in walk.rows[walk.next :] if row.layer is layer)
                raise ValueError(
                    f"not available because of row {row.name} ({row.operation}): free probability has no rule for "
                    f"branches; {SAMPLE}"
                )
            else:
                self._leaf(walk)

    def _leaf(self, walk: _Walk) -> None:
        before = walk.next - 1
        row = walk.step()
        layer, refusal = row.layer, ""
        if isinstance(layer, Dense):
            self._dense(layer)
        elif isinstance(layer, Activation) and str(layer) != "linear":
            if not self.gaussian:
                refusal = "it acts on units that are not Gaussian"
            else:
                try:
                    self._activation(layer, walk, before)
                except ValueError as error:
                    refusal = str(error)
        elif isinstance(layer, Dropout) and self.diagonal and layer.rate:
            refusal = "its mask acts on the same units as that of the row before"
        elif isinstance(layer, Dropout):
            kept = Fraction(1 - layer.rate)
            self._mask(kept.limit_denominator(10**9) or kept)
            self.log_scale -= 2 * math.log1p(-layer.rate)
            self.gaussian &= layer.rate == 0
            self.diagonal |= layer.rate > 0
        elif isinstance(layer, Affine) and layer.factor:
            self.log_scale += 2 * math.log(abs(layer.factor))
        elif isinstance(layer, BatchNorm) and not layer.training and layer.gamma > 0:
            self.log_scale += 2 * math.log(layer.gamma) - math.log1p(layer.epsilon)
        elif not isinstance(layer, (Activation, Flatten)):
            refusal = "free probability has no rule for it"
        if refusal:
            coupled = isinstance(layer, BatchNorm) and layer.training
            way_out = "one input has no Jacobian of its own: use BatchNorm(training=False)" if coupled else SAMPLE
            raise ValueError(f"not available because of row {row.name} ({row.operation}): {refusal}; {way_out}")

    def _dense(self, layer: Dense) -> None:
        inputs, outputs = self.width, layer.features
        if layer.init.distribution == "orthogonal":
            self.log_scale += 2 * math.log(layer.init.gain)
            self.powers += [(Fraction(min(inputs, outputs)), 1), (Fraction(inputs), -1)]
        else:
            self.log_scale += math.log(layer.weight_variance((inputs,)))
            self.powers.append((Fraction(outputs), 1))
        self.width, self.gaussian, self.mixing, self.diagonal = outputs, True, True, False
        self.sloped = False

    def _activation(self, phi: Activation, walk: _Walk, before: int) -> None:
        self.gaussian, self.diagonal = False, True
        self.method = "approximate" if self.sloped else self.method
        self.sloped, self.direct = True, self.direct or not self.mixing
        law = slope_law(phi, 0.0 if phi.homogeneous_slopes is not None else walk.log_q(before))
        self.log_scale += law.log_scale
        self.powers += [(c * self.width, k) for c, k in law.powers]
        self.powers += [(Fraction(0), 1), (Fraction(self.width), -1)]
        self.parts += [(part.factor, self.width) for part in law.parts]

    def _mask(self, kept: Fraction) -> None:
        if kept < 1:
            self.powers += [(kept * self.width, 1), (Fraction(self.width), -1)]

    def _block(self, block: Residual, walk: _Walk) -> None:
        inside = _Product(self.width, self.gaussian, diagonal=self.diagonal, sloped=self.sloped, method=self.method)
        inside.take(block.branch, walk)
        if block.shortcut.layers:
            shortcut = walk.step()
            raise ValueError(
                f"not available because of row {shortcut.name} ({shortcut.operation}): only blocks with identity "
                f"shortcuts have a law; {SAMPLE}"
            )
        row = walk.step()
        what = "" if inside.mixing else "its branch has no Dense layer"
        if any(not isinstance(factor, Diagonal) for factor, _ in inside.parts):
            what = "a block is in its branch"
        elif inside.mixing and inside.rigid:
            what = "its branch is orthogonal"
        factor = inside.branch(block.scale) if not what else None
        what = factor.refusal() if factor else what
        if factor is None or what:
            raise ValueError(f"not available because of row {row.name} ({row.operation}): {what}; {SAMPLE}")
        self.parts.append((factor, self.width))
        self.gaussian, self.mixing, self.diagonal = self.gaussian and inside.gaussian, True, False
        self.sloped, self.method = self.sloped or inside.direct, inside.method

    @property
    def rigid(self) -> bool:
        """Whether it is a multiple of an orthogonal matrix, or of one and of slopes that nothing smooths."""
        return not merged(tuple(self.powers)) or (bool(self.parts) and sum(k for _, k in self.powers) == 0)

    def branch(self, scale: float) -> ResidualBranch | ResidualGaussian:
        """I + scale · this product, as a factor; the product is square."""
        width = self.width
        slopes = _counted([Part(factor, Fraction(size, width)) for factor, size in self.parts])
        terms = tuple((c / width, k) for c, k in self.powers)
        log_scale = self.log_scale + sum(k for _, k in self.powers) * math.log(width)
        if terms == ((Fraction(1), 1),):
            return ResidualGaussian(scale * math.exp(log_scale / 2), 1)
        units = [
            (part.factor.smoothed().shared(float(part.factor.rank)), float(part.factor.rank * part.size))
            for part in slopes
            if isinstance(part.factor, Diagonal)
        ]
        return ResidualBranch(scale, merged(terms), log_scale, 1, tuple(units))

    def law(self, outputs: int) -> STransformLaw:
        """The law of the product, of dimension `outputs`."""
        powers = [(Fraction(0), -1), (Fraction(self.inputs), 1), *self.powers]
        log_scale = self.log_scale + sum(k for _, k in powers) * math.log(outputs)
        parts = _counted([Part(factor, Fraction(size, outputs)) for factor, size in self.parts])
        return STransformLaw([(c / outputs, k) for c, k in powers], log_scale, parts, self.method)


def _counted(parts: list[Part]) -> tuple[Part, ...]:
    """Equal parts together."""
    found: dict[Part, int] = {}
    for part in parts:
        one = replace(part, factor=part.factor.counted(1))
        found[one] = found.get(one, 0) + part.factor.count
    return tuple(replace(part, factor=part.factor.counted(count)) for part, count in found.items())
