"""Fluctuations of gradients: ln ‖∂ℓ/∂h_l‖² − ln ‖∂ℓ/∂h_L‖² of one input, to first order in 1/width.

The gradient of the last row is white and independent of the weights. Given the forward pass, Wᵀ g has independent
Gaussian entries of variance s² |g|² but for its component along the h that entered, so that with γ ~ N(0, 1)

    h, before Dense    |g_h|² = s² |g_z|² Σ γ²
    z, before φ        |g_z|² = s² |g|² Σ φ′(z)² γ²
    before LayerNorm   |g|² / (v + ε), less the components along 1 and ĥ
    before a block     |g|² (1 + α² s² Σ φ′² γ²) and a cross term of variance 4 p (1 − p)/n, p the branch's share

and all are linear, at first order, in the state (u, X_k) of the stream (`first_order_streams`) and in fresh noise. The
component along h is c = ĥ·Wᵀg = s |g| · √w t, t = z·g_z/(√v |g_z|), w the weights' share of v; with E c² = 1 + D,

    D = w [E z²φ′²/(v E φ′²) − 1 + D′ (E zφφ′)²/(v E φ² E φ′²)],   D′ that of the layer above (plain networks)

shifts means by D/n. Linear and ReLU networks with Gaussian weights: masks are fair coins independent of all singular
values (Hanin and Nica 2018), so that mean and variance are those of sums of ln χ², at any width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bntheory import arguments
from bntheory.activations import Activation
from bntheory.growth.finite_width import first_order, first_order_lattice, first_order_streams, log_growth
from bntheory.growth.finite_width import fluctuations as log_chi2
from bntheory.growth.finite_width.first_order import Fluctuations, Place
from bntheory.growth.finite_width.first_order_mixtures import Mixture, point
from bntheory.growth.finite_width.first_order_streams import Base, Scalar
from bntheory.growth.finite_width.first_order_stretches import Stretch, stretches
from bntheory.growth.finite_width.first_order_tables import ORDERS, squared_slopes, squares
from bntheory.growth.finite_width.fluctuations import LogChi2
from bntheory.layers import Affine, Dense
from bntheory.networks import Leaf, Sequential, leaves

_ROOT2 = math.sqrt(2)
_LARGEST = 0.1  # of what has to be a small correction: the share of |g|² along h, the bending of a broad law


def gradient_fluctuations(net: Sequential, log_start: float, batch: float = math.inf) -> Fluctuations:
    """Mean and standard deviation of ln ‖∂ℓ/∂h_l‖² − ln ‖∂ℓ/∂h_L‖² for every row, over weight draws.

    Parameters
    ----------
    net : Sequential
        A description with an input shape.
    log_start : float
        ln of the input's mean square.
    batch : float
        Not used: with BatchNorm there is no rule.

    Returns
    -------
    Fluctuations
        The last row's is 0. Bands are those of a normal law.

    Raises
    ------
    ValueError
        If net is not a description with an input shape, or log_start is not finite.

    Notes
    -----
    "exact" (mean and variance, at any width, given that the row is alive): linear and ReLU networks of Gaussian Dense
    layers, with any Gaussian biases. "first-order": any activation, LayerNorm, pre-activation blocks whose branch is
    [LayerNorm,] φ, Dense. There is no rule but for the last row if another layer is in the network; and none, going
    back, from where over 10% of a gradient would lie along h. Where sizes fluctuate so much that φ is not nearly a
    power over their range (gelu next to its unstable size), only plain networks have a rule. Of residual networks the
    mean leaves out what the weights are known along h: it is off by up to a tenth of the standard deviation.

    References
    ----------
    Hanin and Nica 2018, "Products of many large random matrices and gradients in deep neural networks"; Hanin 2018,
    "Which neural net architectures give rise to exploding and vanishing gradients?"

    Examples
    --------
    >>> from bntheory import mlp
    >>> law = gradient_fluctuations(mlp(100, 128), log_start=0.0)
    >>> print(f"{law.mean[0]:.3f} {law.std[0]:.3f} {law.method[0]}")
    -1.979 2.006 exact
    """
    rows = tuple(leaves(net))
    log_start = arguments.number("log_start", log_start)
    chain = log_growth.chain(net, rows, log_start)
    if len(chain.ends) == len(rows) - 1 and chain.gaussian:
        return first_order.of_laws(rows, _exact(rows), "exact")
    laws: list[Mixture | None] = [None] * (len(rows) - 1) + [point(0.0)]
    parts = stretches(net, rows, log_start) or []
    if any(_bending(stretch) > _LARGEST for stretch in parts):
        laws[:-1] = _broad(parts, rows, log_start)
        return first_order.of_laws(rows, laws)
    for row, (base, y) in _backward(parts, of_weights=False):
        laws[row] = Mixture(base.weights, y.mean, y.variance(base))
    return first_order.of_laws(rows, laws)


def weight_gradient_fluctuations(net: Sequential, log_start: float, batch: float = math.inf) -> Fluctuations:
    """The same of ln ‖∂ℓ/∂W‖² − ln ‖∂ℓ/∂h_L‖², for the rows that have weights.

    Given one input, ‖∂ℓ/∂W‖² = |g_z|² |h|²: the gradient of what leaves the layer times the size of what enters it.

    Parameters
    ----------
    net, log_start, batch
        As for `gradient_fluctuations`.

    Returns
    -------
    Fluctuations
        NaN, "unsupported", for rows without weights. Always "first-order".

    Raises
    ------
    ValueError
        If net is not a description with an input shape, or log_start is not finite.

    Examples
    --------
    >>> from bntheory import mlp
    >>> law = weight_gradient_fluctuations(mlp(50, 128, "tanh", "lecun_normal"), log_start=0.0)
    >>> print(f"{law.mean[1]:.2f} {law.std[1]:.2f}")
    0.10 1.01
    """
    rows = tuple(leaves(net))
    log_start = arguments.number("log_start", log_start)
    laws: list[Mixture | None] = [None] * len(rows)
    parts = stretches(net, rows, log_start) or []
    parts = [] if any(_bending(stretch) > _LARGEST for stretch in parts) else parts
    for row, (base, y) in _backward(parts, of_weights=True):
        laws[row] = Mixture(base.weights, y.mean, y.variance(base))
    return first_order.of_laws(rows, laws)


def _exact(rows: tuple[Leaf, ...]) -> list[Mixture | None]:
    """Sums of independent ln χ² from the last row back; a ReLU at the end divides χ²_K by the χ²_n that has it all."""
    laws: list[Mixture | None] = [None] * len(rows)
    total, above = np.zeros(2), np.zeros(2)  # mean and variance: of the row's ln |g|², of the last Dense row's
    units, relu = rows[-1].shape[0], False
    last: np.ndarray | None = np.array(log_chi2.mean_and_variance(LogChi2(units, halved=False)))
    for index in range(len(rows) - 1, -1, -1):
        laws[index] = Mixture(np.ones(1), total[:1].copy(), np.maximum(total[1:], 0.0))
        layer = rows[index].layer
        if isinstance(layer, Dense):
            units, relu, last, above = rows[index - 1].shape[0], False, None, total
            above = above + np.array([math.log(layer.weight_variance(rows[index - 1].shape)), 0.0])
        elif isinstance(layer, Affine) and layer.factor:
            above = above + np.array([2 * math.log(abs(layer.factor)), 0.0])
        elif isinstance(layer, Activation):
            relu = relu or layer.homogeneous_slopes == (1, 0)
        total = above + log_chi2.mean_and_variance(LogChi2(units, relu))
        if last is not None:
            total = total - last
    return laws


def _broad(parts: Sequence[Stretch], rows: tuple[Leaf, ...], log_start: float) -> list[Mixture | None]:
    """Laws of all rows but the last where sizes are too broad for derivatives: plain networks only."""
    if any(stretch.block is not None or stretch.place.epsilon is not None for stretch in parts):
        return [None] * (len(rows) - 1)
    excesses = _excesses(parts)
    known = first_order_lattice.laws(parts, excesses, rows[0].shape, log_start)
    lost = [stretch.rows[-1][0] for stretch, excess in zip(parts, excesses, strict=True) if _lost(stretch, excess)]
    return [None if row <= max(lost, default=-1) else known[row] for row in range(len(rows) - 1)]


def _bending(stretch: Stretch) -> float:
    """Largest half curvature of ln E φ² and ln E φ′², within two deviations, times Var u: they are to be straight."""
    place, variance = stretch.place, stretch.place.base.variance
    if place.phi is None or place.epsilon is not None:
        return 0.0
    u = place.base.mean + np.array([-2.0, 0.0, 2.0]) * np.sqrt(variance)
    curvatures = [table.size(u).curvature for table in (squares(place.phi), squared_slopes(place.phi))]
    return float(np.max(np.abs(curvatures)) * variance[0] / 2)


def _constant(value: float, rest: float = 0.0) -> Scalar:
    return Scalar(np.full(1, value), np.zeros(1), np.zeros((1, ORDERS)), np.full(1, rest))


def _backward(parts: Sequence[Stretch], of_weights: bool) -> list[tuple[int, tuple[Base, Scalar]]]:
    """For every row, its ln |g|² (or that of the weights) as a scalar over the base of its stretch."""
    found: list[tuple[int, tuple[Base, Scalar]]] = []
    above, following, uneven = _constant(0.0), None, np.zeros(ORDERS)
    for stretch, excess in zip(reversed(parts), reversed(_excesses(parts)), strict=True):
        base = stretch.place.base
        over = above if following is None else _pulled(above, stretch, following)
        if _lost(stretch, excess):
            break
        across = _across(stretch, excess)
        for (row, word), t in zip(stretch.rows, across, strict=True):
            if word and not of_weights:
                found.append((row, (base, first_order_streams.added(over, t))))
        for at, (row, _) in enumerate(stretch.dense):
            found.append((row, (base, first_order_streams.added(over, _of_dense(stretch, at, of_weights)))))
        t, uneven = _around(stretch, across[0], uneven)
        above = first_order_streams.added(over, t)
        if not of_weights:
            found += [(row, (base, above)) for row, word in stretch.rows if not word]
        following = stretch
    return found


def _excesses(parts: Sequence[Stretch]) -> list[float]:
    """D of every stretch, from that of the one above."""
    excesses, known = [], 0.0
    for stretch in reversed(parts):
        excesses.append(known * _weights_share(stretch))
        known = _known(stretch, excesses[-1])
    return excesses[::-1]


def _lost(stretch: Stretch, excess: float) -> bool:
    """Whether the component along h is no small part of the gradient."""
    return excess > _LARGEST * stretch.place.units


def _pulled(above: Scalar, stretch: Stretch, following: Stretch) -> Scalar:
    """A scalar over the next base as one over this: u′ = u(u, X), X′ = decay X + fresh."""
    u, base, units = stretch.u, stretch.place.base, following.place.base.units
    assert u is not None
    beta, xi = above.of_u, above.of_x
    decay = np.zeros((1, ORDERS))
    if stretch.identity:
        decay = first_order_streams.decay(base.mean - u.mean)
    fresh = np.sum(xi**2 * (1 - decay**2), axis=1) / units
    rest = above.rest + beta**2 * u.rest + fresh
    return Scalar(above.mean, beta * u.of_u, beta[:, None] * u.of_x + decay * xi, rest)


def _across(stretch: Stretch, excess: float) -> list[Scalar]:
    """ln |g|² of the rows of a stretch, less that of the row after its (branch's) Dense layer; the stream's row first.

    Without a Dense layer the gradient of the last of these rows is the white one, whose size is divided out.
    """
    place, base, units = stretch.place, stretch.place.base, stretch.place.units
    white = not stretch.dense
    log_gain = 0.0 if white else math.log(units) + stretch.dense[0][1]
    log_scale = 2 * math.log(stretch.block.scale) if stretch.block is not None else 0.0
    last = _constant(0.0) if white else _constant(log_gain + log_scale + (excess - 1) / units, 2 / units)
    through = last
    if place.phi is not None:
        table = squared_slopes(place.phi)
        if place.epsilon is None:
            y, at = first_order_streams.read(base, table), base.mean
        else:
            y, at = first_order_streams.read_normalized(base, place.epsilon, table), _log_share(base, place.epsilon)
        spread = float(table.size(at).spread[0])
        own = (2 * spread if white else 2 * (1 + spread)) / units
        both = 1 + np.sum(squares(place.phi).hermite(at)[0] * table.hermite(at)[0])
        shift = log_gain + log_scale - own / 2 + excess * float(both) / units
        through = y._replace(mean=y.mean + shift, rest=y.rest + own)
    before = through if place.epsilon is None else first_order_streams.added(through, _norm(place, base, excess))
    result, here = [], before
    for _, word in stretch.rows:
        here = {"norm": through, "phi": last}.get(word, here)
        result.append(here)
    return result


def _norm(place: Place, base: Base, excess: float) -> Scalar:
    """LayerNorm, back: −ln(v + ε), and of the components along 1 and ĥ what it removes."""
    assert place.epsilon is not None
    y = first_order_streams.normalized(base, place.epsilon)  # ln v − ln(v + ε)
    v = first_order_streams.square(base)
    v = v._replace(mean=v.mean - base.omega[:, 0] / base.units)
    kept = math.exp(float(y.mean[0]))
    constant, along = 1.0, 1 + excess
    if place.phi is not None:
        u = np.log(np.full(1, kept))
        constant, along = 1 + excess * _overlap(place.phi, u, of_constant=True), _along(place.phi, u, excess)
    removed = (constant + kept * (2 - kept) * along) / base.units
    return Scalar(y.mean - v.mean - removed, y.of_u - v.of_u, y.of_x - v.of_x, y.rest + v.rest)


def _along(phi: Activation, u: np.ndarray, excess: float) -> float:
    """E t² in the row before φ: E z²φ′²/(v E φ′²) + D (E zφφ′)²/(v E φ² E φ′²)."""
    direct = 1 + _ROOT2 * float(squared_slopes(phi).hermite(u)[0][0, 1])
    return direct + excess * _overlap(phi, u, of_constant=False)


def _overlap(phi: Activation, u: np.ndarray, of_constant: bool) -> float:
    """(E zφφ′)²/(v E φ² E φ′²) or (E φφ′)²/(E φ² E φ′²), by Stein: E zφφ′ = v dE φ²/dv, E φφ′ = E φ²g/2√v."""
    size = squares(phi).size(u)
    root = squares(phi).hermite(u)[0][:, 0] / 2 if of_constant else size.slope
    return float((root**2 * np.exp(size.value - u - squared_slopes(phi).size(u).value))[0])


def _log_share(base: Base, epsilon: float) -> np.ndarray:
    return -np.logaddexp(0.0, math.log(epsilon) - base.mean) if epsilon else np.zeros(1)


def _of_dense(stretch: Stretch, at: int, of_weights: bool) -> Scalar:
    """A Dense row's own ln |g|², or that of its weights, less that of the row where branch and shortcut meet."""
    scale = 2 * math.log(stretch.block.scale) if stretch.block is not None and at == 0 else 0.0
    if not of_weights:
        return _constant(scale)
    place = stretch.place if at == 0 else Place(stretch.place.base, None, stretch.place.units)
    y = place.reading()
    return y._replace(mean=y.mean + math.log(place.units) + scale)


def _around(stretch: Stretch, branch: Scalar, uneven: np.ndarray) -> tuple[Scalar, np.ndarray]:
    """ln |g|² of the stream's row, less that of the next stream's, and how uneven it is.

    Given h a unit's g² is its mean times 1 + Σ uneven_k He_k/√k!. At a block that weighs the cross term of branch and
    shortcut, which has variance 4 p (1 − p)/n if both are even.
    """
    place, base = stretch.place, stretch.place.base
    own = np.zeros(ORDERS)
    if place.phi is not None:
        at = base.mean if place.epsilon is None else _log_share(base, place.epsilon)
        own = squared_slopes(place.phi).hermite(at)[0][0]
    if stretch.block is None:
        return branch, own
    shortcut, kept = _constant(0.0), np.zeros(ORDERS)
    if stretch.identity:
        assert stretch.u is not None
        kept = uneven * first_order_streams.decay(base.mean - stretch.u.mean)[0]
    else:
        shortcut = _constant(math.log(base.units) + stretch.dense[1][1] - 1 / base.units, 2 / base.units)
    both = first_order_streams.total(shortcut, branch, base, 0.0)
    p = min(float(np.exp(branch.mean - both.mean)[0]), 1.0)
    cross = 4 * p * (1 - p) * max(1 + float(own @ kept), 0.0) / base.units
    both = both._replace(mean=both.mean - cross / 2, rest=both.rest + cross)
    return both, (1 - p) * kept + p * own


def _weights_share(stretch: Stretch) -> float:
    """w of a plain stretch's Dense layer: the share of its weights in the variance of what leaves it."""
    if stretch.block is not None or stretch.u is None:
        return 0.0
    log_weights = float(stretch.place.reading().mean[0]) + math.log(stretch.place.units) + stretch.dense[0][1]
    return math.exp(min(log_weights - float(stretch.u.mean[0]), 0.0))


def _known(stretch: Stretch, excess: float) -> float:
    """E t² − 1 in the stream's own row; LayerNorm leaves (1 − τ)² of t², τ = v/(v + ε). Not known for blocks: 0."""
    place = stretch.place
    if stretch.block is not None:
        return 0.0
    u = place.base.mean if place.epsilon is None else _log_share(place.base, place.epsilon)
    left = 1.0 if place.epsilon is None else float(np.expm1(u)[0]) ** 2
    return left * (1 + excess if place.phi is None else _along(place.phi, u, excess)) - 1
