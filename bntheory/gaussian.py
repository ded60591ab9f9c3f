"""Expectations of a nonlinearity over Gaussian variables whose variance may be anything from exp(−10⁶) to exp(10⁶).

Notation: φ the nonlinearity, h ~ N(0, q); (u, v) jointly Gaussian with mean zero, variances q₁ ≥ q₂ and squared
distance d = E (u − v)². Variances and distances enter as logarithms and moments leave as logarithms. Assumed of φ:
smooth except perhaps at 0 and at kinks that are told; varying on the scale 1 near 0 and on the scale of x far from it;
power laws in the tails.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Function = Callable[[Any], Any]

# One input. With x = e^u the integrands f(±x) x exp(−x²/2q) are analytic for |Im u| < π/4, so the trapezoid rule in u
# errs by e^{−π²/2h} = 7e-18 of the whole. It sees the scales 1 and √q alike, and its nodes do not depend on q.
STEP = 0.125
LIMIT = 60.0  # |ln q| from which the leading power law is used: the relative correction to it is about e^{−30}
_REACH_DOWN, _REACH_UP = 38.0, 2.3  # nodes run from min(1, √q) e^{−38} to √q e^{2.3} = 10 √q
_FIRST = -(LIMIT / 2 + _REACH_DOWN)
NODES = np.exp(np.arange(_FIRST, LIMIT / 2 + _REACH_UP + STEP, STEP))
SAMPLE = np.concatenate([-NODES[::-1], [0.0], NODES])  # where a φ of the user's own must be finite
_GAUSS_NODES = 14  # in a unit of u between kinks, where the trapezoid rule would not do: errs by 1e-14 as well
_CHUNK = 256  # variances integrated at once: 256 × 804 nodes are 1.6 MB

# Two inputs. ln q beyond which limits are used, up to corrections of e^{−25}, e^{−20} for a bounded φ and large q
_LOW, _HIGH, _HIGH_BOUNDED = -50.0, 50.0, 80.0
_COLLAPSED = 46.0  # for d < q e^{−46} the result is linear in d up to e^{−23}, the chance of a kink between u and v
_OUTER_STEP = 1 / 6  # e^{−π²/2h} = 1e-13, times about 20
_OUTER_NODES = 10  # in half a unit of ln w between kinks
_ABOUT = (-8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0)  # standard deviations of y
_NEAR = 2e-3  # |u − v| below which φ(u) − φ(v) is taken as the integral of φ′
_TOLERANCE = 1e-6  # how far √d may lie outside its possible range, relative to √q: the drift of a long recursion
_GAUSS = np.polynomial.legendre.leggauss(8)
_PANEL, _PANEL_WEIGHTS = 0.5 * (_GAUSS[0] + 1), 0.5 * _GAUSS[1]


class Rule(NamedTuple):
    """Nodes x > 0, and their weights in ∫ f(x) dx."""

    nodes: Floats
    weights: Floats


@lru_cache(maxsize=64)
def rule(kinks: tuple[float, ...] = (), count: int = _GAUSS_NODES) -> Rule:
    """The rule for integrals over all sizes of h, in u = ln x: between kinks ±c, Gauss's on panels that end there."""
    if not kinks:
        return Rule(NODES, NODES * STEP)
    u, weights = _gauss_panels(
        _FIRST, LIMIT / 2 + _REACH_UP, sorted({math.log(abs(kink)) for kink in kinks}), 1.0, count
    )
    return Rule(np.exp(u), weights * np.exp(u))


def _gauss_panels(
    start: float, stop: float, breaks: Sequence[float], longest: float, count: int
) -> tuple[Floats, Floats]:
    """Gauss–Legendre nodes and weights on (start, stop), on panels that end at all breaks."""
    ends = [start, *(end for end in breaks if start < end < stop), stop]
    pieces = [np.linspace(low, high, math.ceil((high - low) / longest) + 1) for low, high in pairwise(ends)]
    edges = np.unique(np.concatenate(pieces))
    nodes, weights = np.polynomial.legendre.leggauss(count)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (nodes + 1)).ravel(), (half * weights).ravel()


class GaussianMoments(NamedTuple):
    """Moments of φ(h), h ~ N(0, q), each with the shape of ``log_q``; the logarithm of a zero moment is −inf."""

    mean_sign: Floats  #: sign of E φ(h): −1, 0 or 1
    log_mean: Floats  #: ln |E φ(h)|
    log_second: Floats  #: ln E φ(h)²
    log_derivative: Floats  #: ln E φ′(h)²


class Expectations:
    """Gaussian expectations of one φ by quadrature.

    Parameters
    ----------
    phi, dphi : callable
        φ and φ′, arrays in, arrays out; finite, and below 1e150, for |x| up to 1.2e14.
    even : callable, optional
        φ(x) + φ(−x) for x > 0, free of cancellation. Without it the sum is taken as it stands, and where the mean is
        below 1e-8 √E φ² it is replaced, towards q → 0, by the power law it follows before it drowns in rounding.
    distance : callable, optional
        Closed form of E (φ(u) − φ(v))², given q₁ ≥ q₂ and d.
    kinks : tuple of float
        Where φ is not smooth, 0 apart.
    """

    def __init__(
        self,
        phi: Function,
        dphi: Function,
        even: Function | None = None,
        distance: Callable[[float, float, float], float] | None = None,
        kinks: tuple[float, ...] = (),
    ) -> None:
        self.phi, self.dphi, self._distance, self._kinks = phi, dphi, distance, kinks
        self._lines = sorted({0.0, *kinks, *(-kink for kink in kinks)})  # of u and of −u
        nodes, weights = rule(kinks)
        self._rows = self._integrands(nodes, even) * (weights / math.sqrt(2 * math.pi))
        self._log_nodes, self._half_squares = np.log(nodes), 0.5 * nodes**2
        self._mean_from = -LIMIT if even is not None else self._resolved_mean()
        self._low_power = self._power(-LIMIT, +1.0)
        self._low_power[0] = self._power(self._mean_from, +1.0)[0]
        self._high_power = self._power(LIMIT, -1.0)

    def _integrands(self, nodes: Floats, even: Function | None = None) -> Floats:
        """Integrands of E φ, E φ², E φ′² and E h²φ′², all but the Gaussian."""
        right, left = self.phi(nodes), self.phi(-nodes)
        slopes = self.dphi(nodes) ** 2 + self.dphi(-nodes) ** 2
        mean = right + left if even is None else even(nodes)
        return np.stack([mean, right**2 + left**2, slopes, nodes**2 * slopes])

    def _resolved_mean(self) -> float:
        """Least ln q at which the mean stands clear of rounding; a mean that never does, φ odd, is set to exactly 0."""
        candidates = np.arange(-LIMIT, LIMIT)
        moments = self._integrate(candidates)
        resolved = np.flatnonzero(np.abs(moments[:, 0]) > 1e-8 * np.sqrt(moments[:, 1]))
        if resolved.size == 0:
            self._rows[0] = 0.0
            return -LIMIT
        return float(candidates[resolved[0]])

    def _power(self, end: float, inwards: float) -> Floats:
        """Exponent of q in each moment at an end of the tabulated range: a multiple of ½ wherever the slope is one."""
        with np.errstate(divide="ignore", invalid="ignore"):
            there, inside = np.log(np.abs(self._integrate(np.array([end, end + inwards]))))
            slope = np.nan_to_num((inside - there) * inwards, nan=0.0, posinf=0.0, neginf=0.0)
        halves = np.round(2 * slope) / 2
        return np.where(np.abs(slope - halves) < 1e-3, halves, slope)

    def _integrate(self, log_q: Floats) -> Floats:
        """The four moments, (m, 4), at ``log_q`` (m,), all within ±LIMIT."""
        result = np.empty((len(log_q), 4))
        for start in range(0, len(log_q), _CHUNK):
            part = log_q[start : start + _CHUNK, None]
            weights = np.exp(-self._half_squares * np.exp(-part))
            result[start : start + _CHUNK] = (weights @ self._rows.T) * np.exp(-0.5 * part)
        return result

    def half_step_error(self) -> float:
        """Largest relative difference of E φ² and of E φ′² between every other node and the rest, for |ln q| ≤ 10.

        About e^{−π²/4h} = 3e-9 for a φ as assumed here; a kink that is not told or an oscillation makes it large. With
        kinks, between this rule and one of half as many nodes.
        """
        inverse = np.exp(-np.arange(-10.0, 10.5, 0.5)[:, None])
        if self._kinks:
            nodes, measure = rule(self._kinks, _GAUSS_NODES // 2)
            even = np.exp(-self._half_squares * inverse) @ self._rows[1:3].T
            rows = self._integrands(nodes)[1:3] * (measure / math.sqrt(2 * math.pi))
            odd = np.exp(-0.5 * nodes**2 * inverse) @ rows.T
        else:
            weights = np.exp(-self._half_squares * inverse)
            even, odd = (weights[:, start::2] @ self._rows[1:3, start::2].T for start in (0, 1))
        return float(np.max(np.abs(even - odd) / np.where(even + odd > 0, even + odd, 1.0)))

    def log_moments(self, log_q: ArrayLike) -> GaussianMoments:
        """Signs and logarithms of the moments at any ``log_q``; −inf and +inf give the limits, NaN gives NaN."""
        log_q = np.asarray(log_q, dtype=float)
        if log_q.ndim == 0 and math.isfinite(log_q) and (log_q >= self._mean_from or self._mean_from == -LIMIT):
            return self._moments_at(float(log_q))
        sign, logs = self._extended(log_q.ravel())
        return GaussianMoments(*(column.reshape(log_q.shape)[()] for column in (sign, *logs.T[:3])))

    def _moments_at(self, log_q: float) -> GaussianMoments:
        """One variance, on the nodes that matter for it: the step of a layer-by-layer recursion."""
        inside = min(max(log_q, -LIMIT), LIMIT)
        powers = self._low_power if log_q < 0 else self._high_power
        reach = min(0.5 * inside, 0.0) - _REACH_DOWN, 0.5 * inside + _REACH_UP
        first, last = np.searchsorted(self._log_nodes, reach)
        weights = np.exp(self._half_squares[first : last + 1] * -math.exp(-inside))
        moments = (self._rows[:3, first : last + 1] @ weights).tolist()
        logs = [_log(abs(moment)) - 0.5 * inside for moment in moments]
        if inside != log_q:
            logs = [log + float(power) * (log_q - inside) for log, power in zip(logs, powers, strict=False)]
        values: list[Any] = [np.float64(value) for value in ((moments[0] > 0) - (moments[0] < 0), *logs)]
        return GaussianMoments(*values)

    def _extended(self, log_q: Floats) -> tuple[Floats, Floats]:
        """Sign of the mean, (m,), and logarithms of the four moments, (m, 4), beyond ±LIMIT by power laws."""
        moments = self._integrate(np.clip(log_q, -LIMIT, LIMIT))
        if self._mean_from > -LIMIT:
            moments[:, 0] = self._integrate(np.clip(log_q, self._mean_from, LIMIT))[:, 0]
        below = np.minimum(log_q[:, None] - [self._mean_from, -LIMIT, -LIMIT, -LIMIT], 0.0)
        above = np.maximum(log_q[:, None] - LIMIT, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(np.abs(moments))
            # a moment that tends to a constant has exponent 0 and keeps its value at ln q = ±inf, where 0 · inf is NaN
            logs = logs + np.where(self._low_power == 0, 0.0, self._low_power * below)
            logs = logs + np.where(self._high_power == 0, 0.0, self._high_power * above)
        logs = np.where(moments == 0, -np.inf, logs)
        return np.where(np.isneginf(logs[:, 0]), 0.0, np.sign(moments[:, 0])), logs

    def log_distance(self, log_q1: float, log_q2: float, log_d: float) -> float:
        """ln E (φ(u) − φ(v))² for ``log_q1`` ≥ ``log_q2`` and a ``log_d`` that :func:`ordered` let pass."""
        if math.isnan(log_q1 + log_q2 + log_d):
            return math.nan
        if log_d == -math.inf:
            return -math.inf
        if log_q1 - log_q2 < 1e-12 * (1 + abs(log_q1)):  # rounding, which must not decide how u − v depends on v
            log_q1 = log_q2 = 0.5 * (log_q1 + log_q2)
        if log_d <= min(log_q2, 0.0) - _COLLAPSED:
            return self._collapsed(log_q1, log_q2, log_d)
        bounded = self._high_power[2] < -0.25
        top = _HIGH_BOUNDED if bounded else _HIGH
        if log_q1 < _LOW or (log_q1 > top and not bounded):
            end, power, x = (_LOW, self._low_power[2], NODES[0])
            if log_q1 > top:
                end, power, x = (top, self._high_power[2], NODES[-1])
            if power == 0:  # φ − φ(0) is homogeneous there
                slopes = float(self.dphi(x)), float(self.dphi(-x))
                if slopes == (0.0, 0.0):
                    return -math.inf
                return float(homogeneous_distance(slopes, *(np.asarray(log) for log in (log_q1, log_q2, log_d))))
            shift = log_q1 - end
            return (1 + power) * shift + self.log_distance(end, log_q2 - shift, log_d - shift)
        if log_q1 > top and log_d < log_q1 - top / 2:
            # q₁ = q₂ in effect; √q E (φ(u) − φ(v))² depends on d alone, and as √d once d ≫ 1
            excess = max(log_d - top / 2, 0.0)
            return 0.5 * (excess + top - log_q1) + self.log_distance(top, top, log_d - excess)
        if log_q1 > top:
            log_q1, log_q2, log_d = _same_angle(log_q1, log_q2, log_d, top)  # φ(u) is a step
        log_q2 = max(log_q2, min(log_q1, 0.0) - LIMIT)
        q1, q2, d = math.exp(log_q1), math.exp(log_q2), math.exp(log_d)
        if self._distance is not None:
            return _log(self._distance(q1, q2, d))
        return log_d + _log(self._distance_ratio(q2, q1 * math.expm1(log_q2 - log_q1), d))

    def _collapsed(self, log_q1: float, log_q2: float, log_d: float) -> float:
        """To first order in d: φ(u) − φ(v) = w φ′(v), w = u − v, and E [w² | v] = d (1 − r² + r² v²/q)."""
        log_q, r2 = 0.5 * (log_q1 + log_q2), collinearity(log_q1, log_q2, log_d)
        _, logs = self._extended(np.array([log_q]))
        return log_d + float(np.logaddexp(_log(1 - r2) + logs[0, 2], _log(r2) + logs[0, 3] - log_q))

    def _distance_ratio(self, q2: float, gap: float, d: float) -> float:
        """E (φ(u) − φ(v))² / d, with gap = q₂ − q₁, over w = u − v > 0 and over y = v − βw, which is independent of w.

        Trapezoid rule in ln w; Gauss–Legendre panels in y that end at the kinks v = 0 and u = y + (1 + β) w = 0, and at
        others. Where w is the distance between two kinks, u and v reach them together: panels in ln w end there.
        """
        limit = math.sqrt(q2 / d)
        beta = min(max(-(d + gap) / (2 * d), -limit), limit)
        spread = math.sqrt(max(q2 - beta**2 * d, 1e-18 * q2))
        # downwards to where w, and the parts of u and v that go along with it, are small against 1
        reach = min(8 + max(0.0, 0.5 * math.log(d) + math.log(1 + abs(beta))), 22.0)
        if self._kinks:
            places = self._outer_breaks(beta, spread)
            log_omega, step = _gauss_panels(-reach, 2.2, np.log(places / math.sqrt(d)).tolist(), 0.5, _OUTER_NODES)
        else:
            log_omega = np.arange(-reach, 2.2, _OUTER_STEP)
            step = np.full_like(log_omega, _OUTER_STEP)
        omega = np.exp(log_omega)
        outer = omega * np.exp(-0.5 * omega**2) * step / (math.pi * spread)
        w = math.sqrt(d) * omega
        lines = np.array([line - share * w for share in (1 + beta, beta) for line in self._lines])
        start, stop, row = _panels(np.sort(lines.T, axis=1), spread)
        width = (stop - start)[:, None]
        y = start[:, None] + width * _PANEL
        weight = width * _PANEL_WEIGHTS * np.exp(-0.5 * (y / spread) ** 2) * outer[row, None]
        v, w = y + (beta * w)[row, None], w[row, None]
        u = v + w
        square = self._increment(v, u, w) ** 2
        if gap:  # w < 0 is w > 0 for φ(−x); with equal variances it is u and v changing places
            square = 0.5 * (square + self._increment(-u, -v, w) ** 2)
        return float(np.sum(weight * square / d))

    def _outer_breaks(self, beta: float, spread: float) -> Floats:
        """Values of w at which two kinks are reached together, and about which y carries u or v across a kink."""
        places = [high - low for low, high in combinations(self._lines, 2)]
        for share in (abs(1 + beta), abs(beta)):
            sharp = [line for line in self._lines if line > spread and share > 0]
            places += [(line + spread * by) / share for line in sharp for by in _ABOUT]
        return np.unique([place for place in places if place > 0])

    def _increment(self, v: Floats, u: Floats, w: Floats) -> Floats:
        """φ(u) − φ(v), without cancellation at small w = u − v > 0, on panels (n, 8) that do not straddle a kink."""
        crossing = np.any([(v[:, 0] < line) & (u[:, 0] > line) for line in self._lines], axis=0)
        clear = np.minimum(np.abs(u), np.abs(v)).min(axis=1)
        near = w[:, 0] < _NEAR * np.where(crossing, 1.0, np.maximum(1.0, clear))
        whole, split = near & ~crossing, near & crossing
        result = np.empty_like(v)
        result[~near] = self.phi(u[~near]) - self.phi(v[~near])
        result[whole] = self._rise(v[whole], w[whole])
        start, total = v[split], np.zeros_like(v[split])
        for line in self._lines:
            stop = np.clip(line, start, u[split])
            total, start = total + self._rise(start, stop - start), stop
        result[split] = total + self._rise(start, u[split] - start)
        return result

    def _rise(self, start: Floats, width: Floats) -> Floats:
        """φ(start + width) − φ(start) as an integral of φ′ by the two-point Gauss rule."""
        inner = 0.5 - 0.5 / math.sqrt(3)
        return 0.5 * width * (self.dphi(start + inner * width) + self.dphi(start + (1 - inner) * width))


def collinearity(log_q1: float, log_q2: float, log_d: float) -> float:
    """(√q₁ − √q₂)² / d for ``log_q1`` ≥ ``log_q2``: 0 for equal variances, 1 for parallel inputs."""
    if log_q1 == log_q2:
        return 0.0
    return math.exp(min(0.0, log_q1 + 2 * math.log(-math.expm1(0.5 * (log_q2 - log_q1))) - log_d))


def _same_angle(log_q1: float, log_q2: float, log_d: float, top: float) -> tuple[float, float, float]:
    """Variances cut at ``top``, and the distance at which two inputs of those variances enclose the angle they had."""
    half_sine2 = (1 - collinearity(log_q1, log_q2, log_d)) * math.exp(min(log_d - 0.5 * (log_q1 + log_q2), top)) / 4
    half_sine2 = min(max(half_sine2, math.exp(-top)), 1.0)  # parallel inputs would otherwise become one
    half = 0.5 * (min(log_q2, top) - top)
    return top, min(log_q2, top), top + math.log(math.expm1(half) ** 2 + 4 * math.exp(half) * half_sine2)


def _panels(lines: Floats, spread: float) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Panels (start, stop, row) that cover ±8 ``spread`` in every row, graded by powers of 2 about increasing lines."""
    edge = 8 * spread
    middle = 0.5 * (lines[:, :-1] + lines[:, 1:])
    offsets = 2.0 ** np.arange(max(0, math.ceil(math.log2(2 * edge))))
    uniform = np.broadcast_to(np.linspace(-edge, edge, 9), (len(lines), 9))
    graded = [lines[:, :1] - offsets, lines[:, -1:] + offsets]
    for line, between, following in zip(lines.T, middle.T, lines.T[1:], strict=False):
        graded.append(np.minimum(line[:, None] + offsets, between[:, None]))
        graded.append(np.maximum(following[:, None] - offsets, between[:, None]))
    edges = np.sort(np.clip(np.concatenate([uniform, lines, *graded], axis=1), -edge, edge), axis=1)
    row, column = np.nonzero(np.diff(edges, axis=1) > 0)
    return edges[row, column], edges[row, column + 1], row


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


def ordered(log_q1: Floats, log_q2: Floats, log_d: Floats) -> tuple[Floats, Floats, Floats]:
    """The larger and the smaller ln q, and ln d, after a check that |√q₁ − √q₂| ≤ √d ≤ √q₁ + √q₂."""
    high, low = np.maximum(log_q1, log_q2), np.minimum(log_q1, log_q2)
    with np.errstate(invalid="ignore"):  # NaN in, NaN out
        least, most = 2 * _half_log_gap(high, low), 2 * np.logaddexp(0.5 * high, 0.5 * low)
        shortest = 2 * np.logaddexp(0.5 * log_d, 0.5 * high + math.log(_TOLERANCE))
    if np.any(infinite := np.isposinf(high)):
        raise ValueError(f"log_q1 and log_q2 must be below infinity, got {float(high[infinite][0])!r}")
    if np.any(outside := (log_d > most + 2 * _TOLERANCE) | (least > shortest)):
        q1, q2, d, a, b = (float(part[outside][0]) for part in (log_q1, log_q2, log_d, least, most))
        raise ValueError(f"log_d must lie between {a:.9g} and {b:.9g} for log_q1 = {q1!r}, log_q2 = {q2!r}, got {d!r}")
    return high, low, np.minimum(log_d, most)


def _half_log_gap(high: Floats, low: Floats) -> Floats:
    """ln |√q₁ − √q₂|."""
    ratio = np.subtract(low, high, out=np.zeros_like(high), where=~np.isinf(high))
    with np.errstate(divide="ignore"):
        return 0.5 * high + np.log(-np.expm1(0.5 * ratio))


def homogeneous_moments(slopes: tuple[float, float], log_q: Floats) -> GaussianMoments:
    """Moments of φ(x) = a max(x, 0) + b min(x, 0): E φ = (a − b) √(q/2π), E φ² = q E φ′² = q (a² + b²)/2."""
    a, b = slopes
    unknown = np.where(np.isnan(log_q), np.nan, 0.0)
    derivative = unknown + np.logaddexp(2 * _log(abs(a)), 2 * _log(abs(b))) - math.log(2)
    mean = unknown - np.inf if a == b else log_q / 2 + (math.log(abs(a - b)) - math.log(2 * math.pi) / 2)
    sign = unknown + np.where(np.isneginf(mean), 0.0, np.sign(a - b))
    return GaussianMoments(*(part[()] for part in (sign, mean, derivative + log_q, derivative)))


def homogeneous_distance(slopes: tuple[float, float], high: Floats, low: Floats, log_d: Floats) -> Floats:
    """ln E (φ(u) − φ(v))² for φ(x) = a max(x, 0) + b min(x, 0), from Cho & Saul 2009, without cancellation.

    d (a² + b²)/2 − (a − b)² √(q₁q₂) (sin θ − θ cos θ)/π with θ the angle between the inputs.
    """
    a, b = (slope / max(map(abs, slopes)) for slope in slopes)
    with np.errstate(invalid="ignore"):  # −∞ − (−∞) where q₁ = q₂ = 0 or d = 0
        collinear = np.where(high == low, 0.0, np.exp(np.minimum(2 * _half_log_gap(high, low) - log_d, 0.0)))
        half_sine2 = (1 - collinear) * np.exp(np.minimum(log_d - 0.5 * (high + low), 700.0)) / 4
    theta = 2 * np.arcsin(np.sqrt(np.clip(half_sine2, 0.0, 1.0)))
    small = np.minimum(theta, 0.1)
    series = small * (1 / 3 - small**2 * (1 / 30 - small**2 * (1 / 840 - small**2 / 45360)))
    series /= np.sinc(small / (2 * math.pi)) ** 2
    large = np.maximum(theta, 0.1)
    bend = np.where(theta < 0.1, series, (np.sin(large) - large * np.cos(large)) / (4 * np.sin(large / 2) ** 2))
    share = (a - b) ** 2 / (a**2 + b**2) * 2 / math.pi * (1 - collinear) * bend
    scale = 2 * math.log(max(map(abs, slopes))) + math.log((a**2 + b**2) / 2)
    with np.errstate(divide="ignore"):
        return np.where(np.isneginf(log_d), -np.inf, scale + log_d + np.log1p(-np.minimum(share, 1.0)))


def homogeneous_product(slopes: tuple[float, float], cosine: ArrayLike) -> Any:
    """E φ(u) φ(v) for φ(x) = a max(x, 0) + b min(x, 0) and (u, v) of variances 1, from Cho & Saul 2009.

    a b cos θ + (a − b)² [sin θ + (π − θ) cos θ]/2π with θ the angle between the inputs.
    """
    a, b = slopes
    cosine = np.asarray(cosine)
    bend = np.sqrt(1 - cosine**2) + (math.pi - np.arccos(cosine)) * cosine
    return a * b * cosine + (a - b) ** 2 / (2 * math.pi) * bend


def erf_distance(q1: float, q2: float, d: float) -> float:
    """(2/π) (A₁ + A₂ − 2A₁₂) with sin A₁ = 2q₁/(1+2q₁), sin A₁₂ = 2c/√((1+2q₁)(1+2q₂)), c = E uv (Williams 1997).

    With 2M = A₁ + A₂ it is (4/π) (M − A₁₂), and sin(M − A₁₂) sin(M + A₁₂) = sin²M − sin²A₁₂ is a sum of positive terms.
    """
    r1, r2 = math.sqrt(1 + 4 * q1), math.sqrt(1 + 4 * q2)
    c = 0.5 * (q1 + q2 - d)
    determinant4 = max(d - (math.sqrt(q1) - math.sqrt(q2)) ** 2, 0) * max((math.sqrt(q1) + math.sqrt(q2)) ** 2 - d, 0)
    rest = math.sqrt(1 + 2 * (q1 + q2) + determinant4)
    mean = 0.5 * (math.atan2(2 * q1, r1) + math.atan2(2 * q2, r2))
    cross = math.atan2(2 * c, rest)
    if c <= 0:
        return 4 / math.pi * (mean - cross)
    complement = 0.5 * (math.atan2(r1, 2 * q1) + math.atan2(r2, 2 * q2)) + math.atan2(rest, 2 * c)
    product = (4 * ((q1 - q2) / (r1 + r2)) ** 2 + determinant4) / ((1 + 2 * q1) * (1 + 2 * q2))
    return 4 / math.pi * math.asin(min(1.0, product / math.sin(min(mean + cross, complement))))
