"""Laws of products of free factors, from the equation ln x = Σ h_i(p) of their S-transforms.

The density of ln x is r Im p/π on the curve in the upper half-plane where Σ h_i is real (Voiculescu 1987; Speicher and
Rao 2007), and its integral is Σ ∫ p dh_i in closed form. Points of the curve are found without choosing among branches:

- at −x the moment generating function is real and monotone in x, one root in p ∈ (0, 1);
- turning the argument of x from π to 0 carries it to the curve, for y(x) has no singularity off the positive axis;
- at the upper edge p*, where d ln x/d p = 0, the Taylor series of ln x about p* gives p in powers of √(ln x_max/x).

The curve is traced once, at some hundred points; others start between two of these and are finished by Newton.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.special import expit

from bntheory.spectra.edges import Edge, InfiniteEdge, taylor
from bntheory.spectra.factors import Array, Complex, Factor, Local
from bntheory.spectra.law import solve_monotone

TURNS_ABOUT_ZERO = 16
NODES = 160  # at which the curve is traced first
HALVINGS, MOST = 40, 600  # of intervals in which it bends too much, while there are so few points
COARSE = 0.5  # change from node to node
ROUNDING = 1e-13  # of Im p beside |p|
EARLY = 6  # turns, from where most points go straight to the curve
CLOSE = 0.2  # from there, in ln p and ln y
FLAT = 1e-6  # Im p beside |p|, in gaps
VISITED, RAREST, FAINT = 40, 1e-12, 1e-4  # of a tail's end: depths, share below, Im p beside |p|
TURNS = -np.pi * 0.5 ** np.arange(36)  # arguments of x on the way to the curve, from below: Im p > 0
STEPS = 60  # of Newton's method at most
FARTHEST = 60.0  # ln p/(1 − p) on the negative axis
UNRESOLVED = 1e-13  # of the terms of ln x
NO_ATOM = 1e-12  # mass
DISTANCE = 1e-4  # from an atom in ln x beside its mass: y there is its inverse
NEARLY = 1e-6  # ln x of a point next to a pole
ROUGHLY, FINELY = 1e-3, 1e-9  # last step of Newton's method, whose error is its square
PARTS = 9  # of those places, one after another
FAR = np.logspace(-9, 9, 720)  # of y, where edges are looked for; not 1, where factors may be singular


Mask = NDArray[np.bool_]


class Point(NamedTuple):
    """(p, y) and the variables of the factors."""

    pair: Complex
    own: tuple[Complex, ...]

    def part(self, where: Any) -> Point:
        """Some of the points."""
        return Point(self.pair[:, where], tuple(v[:, where] for v in self.own))

    def copy(self) -> Point:
        """The same points, to be moved."""
        return Point(self.pair.copy(), tuple(v.copy() for v in self.own))

    def put(self, where: Any, other: Point) -> None:
        """Overwrite some of the points by as many others."""
        for old, new in zip((self.pair, *self.own), (other.pair, *other.own), strict=True):
            old[:, where] = new


def _of_p(p: Any) -> Complex:
    return np.array([p, p - 1], complex)


def _of_y(y: Any) -> Complex:
    return np.array([1 + y, y], complex)


def _moved(pair: Complex, step: Complex) -> Complex:
    """The smaller of p and y is moved, and the other set from it."""
    p, y = pair + step
    by_y = np.abs(y) < np.abs(p)
    return np.array([np.where(by_y, 1 + y, p), np.where(by_y, y, p - 1)])


@dataclass(frozen=True)
class Curve:
    """The continuous part of the law of Σ h_i: where it lies, and Im p along it.

    Logarithms of x, probabilities as shares of all nonzero eigenvalues.

    Parameters
    ----------
    factors
    atoms : tuple of (ln x, mass)
        Above zero. They are poles of y and lie in gaps of the support: next to one the curve counts as at a small
        distance, where y is large but finite.
    """

    factors: tuple[Factor, ...]
    atoms: tuple[tuple[float, float], ...] = ()

    def _clear(self, log_x: Array) -> Array:
        """ln x at a small distance from atoms; an atom's own place counts as above it."""
        for place, mass in self.atoms:
            beside = log_x - place
            log_x = np.where(
                np.abs(beside) < DISTANCE * mass, place + np.where(beside < 0, -1, 1) * DISTANCE * mass, log_x
            )
        return log_x

    def atoms_below(self, depth: Array) -> Array:
        """Share in atoms at or below x."""
        total = np.zeros(depth.size)
        for place, mass in self.atoms:
            total += (self.upper.log_x - depth >= place) * mass
        return total

    # -- ln x and its derivatives --------------------------------------------------------------------------------

    def _locals(self, point: Point) -> list[Local]:
        return [factor.local(point.pair, v) for factor, v in zip(self.factors, point.own, strict=True)]

    def _log_x(self, point: Point) -> Complex:
        return np.sum([local.log for local in self._locals(point)], axis=0)

    def _slope(self, point: Point) -> Complex:
        return np.sum([local.slope for local in self._locals(point)], axis=0)

    def _start(self, pair: Complex) -> Point:
        return Point(pair, tuple(factor.start(pair) for factor in self.factors))

    def _below_highest(self, pair: Complex) -> Point:
        return Point(pair, tuple(factor.start_inside(pair, True) for factor in self.factors))

    def _above_lowest(self, pair: Complex) -> Point:
        return Point(pair, tuple(factor.start_inside(pair, False) for factor in self.factors))

    def _follow(self, pair: Complex, point: Point) -> Point:
        return Point(pair, tuple(factor.follow(pair, v) for factor, v in zip(self.factors, point.own, strict=True)))

    def below(self, point: Point) -> Array:
        """Share of the eigenvalues below, not counting zeros."""
        parts = [factor.integral(point.pair, v) for factor, v in zip(self.factors, point.own, strict=True)]
        return np.sum(parts, axis=0) / np.pi

    def around_zero(self, y: Complex) -> Complex:
        """ln x on a circle about y = 0, up to multiples of 2πi."""
        radius, angle = np.abs(y), np.angle(y)
        point = self._start(_of_y(radius))
        for share in np.arange(1, TURNS_ABOUT_ZERO + 1) / TURNS_ABOUT_ZERO:
            point = self._follow(_of_y(radius * np.exp(1j * share * angle)), point)
        return self._log_x(point)

    # -- where it lies -------------------------------------------------------------------------------------------

    @cached_property
    def order(self) -> float:
        """d ln x/d ln p as p → 0: 1/order is the exponent of the law at zero; 1 if its support ends above."""
        return sum(factor.order for factor in self.factors)

    @cached_property
    def residue(self) -> float:
        """Mass of the atom at the top if positive: lim y (ln x − ln x_∞) as y → ∞, where x(∞) is finite."""
        if self._degree > 0:
            return -math.inf
        return float(sum((factor.residue for factor in self.factors), 0))

    @property
    def smooth(self) -> bool:
        """Whether a Gaussian matrix smooths factors that stand for densities."""
        return self._degree > 0 or not any(factor.has_density for factor in self.factors)

    @property
    def _degree(self) -> float:
        return sum(factor.degree for factor in self.factors)

    @cached_property
    def upper(self) -> Edge | InfiniteEdge:
        """The upper edge."""
        if abs(self.residue) < NO_ATOM:
            return self._expanded_at_infinity(1)
        bound = max(factor.lowest for factor in self.factors)
        if self.residue < 0:
            return self._edge(_of_y, FAR)
        places = -FAR[::-1] if math.isinf(bound) else bound - FAR[::-1]
        return self._edge(_of_p, places, self._below_highest)

    @cached_property
    def lower(self) -> Edge | InfiniteEdge | None:
        """The lower edge; None if the support reaches to zero."""
        if self.order != 1 or any(factor.reaches_zero for factor in self.factors):
            return None
        residue = float(sum(factor.lower_residue for factor in self.factors)) if self._degree == 0 else -math.inf
        bound = max(factor.lowest for factor in self.factors)
        if abs(residue) < NO_ATOM:
            return self._expanded_at_infinity(-1)
        if math.isinf(bound):
            return self._edge(_of_y, FAR[::-1], self._above_lowest) if residue > 0 else self._edge(_of_p, -FAR)
        # beyond the bound if factors are singular there that are not their product: u and 1/(1 + y_D)
        inside = np.concatenate([np.logspace(-12, -1, 200), expit(np.linspace(-2, 16, 400))])
        return self._edge(_of_p, bound * np.concatenate([inside, 1 + FAR[FAR > 1e-7]]))

    def _edge(
        self,
        pair_of: Callable[[Array], Complex],
        places: Array,
        start: Callable[[Complex], Point] | None = None,
    ) -> Edge:
        """Where the slope of ln x first becomes positive along a line of p or of y."""
        start = start or self._start
        slopes: list[Array] = []
        for some in np.array_split(places, PARTS):  # most edges lie in the first of them
            slopes.append(self._slope(start(pair_of(some))).real)
            if (slopes[-1] >= 0).any():
                break
        change = np.flatnonzero(np.concatenate(slopes) >= 0)
        if not len(change) or change[0] == 0:
            raise ValueError("no law has this x(y): no edge of the support was found")

        def slope(place: float) -> float:
            return float(self._slope(start(pair_of(np.array([place])))).real[0])

        low, high = places[change[0] - 1], places[change[0]]
        place = float(optimize.brentq(slope, low, high, xtol=4e-16 * abs(low), rtol=1e-15))
        return self._expanded(start(pair_of(np.array([place]))))

    def _expanded(self, start: Point) -> Edge:
        p, y = start.pair[:, 0].real
        radius = 0.5 * min(abs(y), abs(p), abs(p - max(factor.lowest for factor in self.factors)))

        def slope(w: Complex) -> Complex:
            point = start.part(np.zeros(len(w), int))
            for share in (0.25, 0.5, 0.75, 1.0):
                point = self._follow(_moved(start.pair, share * w), point)
            return self._slope(point)

        return Edge(float(self._log_x(start).real[0]), *taylor(slope, radius))

    def _expanded_at_infinity(self, sign: int) -> InfiniteEdge:
        """The edge where y = ±∞."""
        start = self._start(_of_y(np.array([sign * 1e6])))

        def slope(w: Complex) -> Complex:
            point = start.part(np.zeros(len(w), int))
            for y in (1e6 * w / np.abs(w), 1e3 * w / np.abs(w), 1 / w):
                point = self._follow(_of_y(y), point)
            return -self._slope(point) / w**2

        at_infinity = self._start(_of_y(np.array([sign * 1e30])))
        return InfiniteEdge(float(self._log_x(at_infinity).real[0]), *taylor(slope, 0.25))

    def failure(self, what: str) -> ValueError:
        """What to raise where no solution is found: among nodes of a density that nothing smooths there may be none."""
        if any(factor.has_density for factor in self.factors):
            what = (
                "too little smooths the density of a factor, whose nodes show where the law's is small: give "
                "density_law or slope_law more points"
            )
        return ValueError(f"not available because {what}")

    # -- tracing it ----------------------------------------------------------------------------------------------

    def _solved(self, log_x: Array, angle: float, point: Point, tolerance: float = FINELY) -> Mask:
        """Newton's method in p and all v together for ln x = log_x + i·angle; where it has not converged.

        `point` is moved. An element that has settled stays: it does not depend on its company.
        """
        moving, last = np.arange(len(log_x)), np.full(len(log_x), np.inf)
        for _ in range(STEPS):
            here = point.part(moving)
            locals_ = self._locals(here)
            error = np.sum([local.log for local in locals_], axis=0) - (log_x[moving] + 1j * angle)
            error = error.real + 1j * (error.imag - 2 * np.pi * np.round(error.imag / (2 * np.pi)))
            step = -error / np.sum([local.slope for local in locals_], axis=0)
            steps = [local.miss + local.rate * step for local in locals_]
            size = np.abs(step) / np.abs(here.pair).min(axis=0)
            step = step * np.minimum(1, 0.5 / np.maximum(size, 1e-300))
            inside = np.where((here.pair[0] + step).imag < 0, -here.pair[0].imag / 2, step.imag)  # of the half-plane
            own = [factor.moved(v, dv) for factor, v, dv in zip(self.factors, here.own, steps, strict=True)]
            point.put(moving, Point(_moved(here.pair, step.real + 1j * inside), tuple(own)))
            for v, dv in zip(here.own, steps, strict=True):
                size = np.maximum(size, np.max(np.abs(dv) / np.abs(v), axis=0, initial=0))
            # next to a pole steps end in rounding of ln x; in gaps they halve Im p
            unresolved = UNRESOLVED * (1 + np.sum([np.abs(local.log) for local in locals_], axis=0))
            at_rounding = (np.abs(error) < unresolved) & (size < 1e-2) & (size > 0.75 * last[moving])
            last[moving] = size
            moving = moving[~((size <= tolerance) | at_rounding)]
            if not len(moving):
                break
        return np.isin(np.arange(len(log_x)), moving)

    def _turned(self, log_x: Array) -> Point:
        """Points of the curve from the negative axis."""
        point, lost = self._attempted(log_x)
        if lost.any():
            raise self.failure(f"no point of the law's curve was found at ln x = {log_x[lost][0]:.17g}")
        return point

    def _attempted(self, log_x: Array) -> tuple[Point, Mask]:
        """The same, and which were not found."""
        log_x = self._clear(log_x)

        def on_negative_axis(logit: Array) -> tuple[Array, Array]:
            point = self._start(np.array([expit(logit), -expit(-logit)], complex))
            return self._log_x(point).real, self._slope(point).real * expit(logit) * expit(-logit)

        logit = solve_monotone(on_negative_axis, log_x, np.zeros_like(log_x), FARTHEST, -FARTHEST)
        point = self._start(np.array([expit(logit), -expit(-logit)], complex))
        for start, end in pairwise(TURNS[: EARLY + 1]):
            self._carried(log_x, start, end, point)
        ahead = point.copy()
        lost = self._solved(log_x, 0.0, ahead)
        p = ahead.pair[0]
        lost |= _far(ahead, point, CLOSE) | (p.imag < FLAT * np.abs(p))
        if lost.any():
            found, still = self._turned_on(log_x[lost], point.part(lost))
            ahead.put(lost, found)
            lost[lost] = still
        return ahead, lost

    def _carried(self, log_x: Array, start: float, end: float, point: Point, halvings: int = 6) -> None:
        """Take points from one argument of x to another, by half of the way first where Newton's method goes astray."""
        before = point.copy()
        astray = self._solved(log_x, end, point, ROUGHLY) | _far(point, before, 1.0)
        if astray.any() and halvings:
            some, middle = before.part(astray), (start + end) / 2
            self._carried(log_x[astray], start, middle, some, halvings - 1)
            self._carried(log_x[astray], middle, end, some, halvings - 1)
            point.put(astray, some)

    def _turned_on(self, log_x: Array, point: Point) -> tuple[Point, Mask]:
        """Points that are not reached in one go: where the curve bends sharply, and in gaps."""
        for start, end in pairwise(TURNS[EARLY:]):
            self._carried(log_x, start, end, point)
        nearly = point.copy()
        lost = self._solved(log_x, 0.0, point)
        astray = lost | _far(point, nearly, 1.0)  # next to a pole of the density
        point.put(astray, nearly.part(astray))
        error = self._log_x(nearly) - log_x - 1j * TURNS[-1]
        lost &= ~(np.abs(np.sin(error.imag / 2)) + np.abs(error.real) < NEARLY)
        return point, lost

    @cached_property
    def ends(self) -> tuple[float, float]:
        """Depths below the upper edge between which the curve is traced."""
        first = self.upper.reach / 4
        if self.lower is not None:
            return first, self.total - self.lower.reach / 4
        least = max(factor.resolution for factor in self.factors)
        smallest = self._log_x(self._start(_of_p(np.array([least])))).real[0]
        last = self.upper.log_x - float(smallest)
        return first, last if self.smooth else self._visible(first, last)

    def _visible(self, first: float, last: float) -> float:
        """The depth to which a tail that no Gaussian matrix makes is traced: below, Im p is lost in rounding."""
        depths, end = np.geomspace(max(first, 1), last, VISITED), first
        for depth in np.split(depths, VISITED // 2):  # far too deep ones take long
            point, lost = self._attempted(self.upper.log_x - depth)
            p = point.pair[0]
            seen = ~lost & (p.imag > FAINT * np.abs(p)) & (self.below(point) > RAREST)
            end = max([end, *depth[seen]])
            if not seen.all():
                break
        return float(end)

    @cached_property
    def total(self) -> float:
        """Depth of the lower edge."""
        return math.inf if self.lower is None else self.upper.log_x - self.lower.log_x

    def stretched(self, depth: Array) -> Array:
        """A variable in which the curve is smooth: ln depth near an edge, linear in ln x towards zero."""
        if self.lower is None:
            return np.log(-np.expm1(-depth / self.order)) + depth / self.order
        return np.log(depth) - np.log(self.total - depth)

    def unstretched(self, place: Array) -> tuple[Array, Array, Array]:
        """The depth, what it lacks to the lower edge, and its derivative."""
        if self.lower is None:
            return self.order * np.logaddexp(0, place), np.full_like(place, np.inf), self.order * expit(place)
        depth, rest = self.total * expit(place), self.total * expit(-place)
        return depth, rest, depth * expit(-place)

    @cached_property
    def traced(self) -> tuple[Array, Complex]:
        """Places in the stretched variable, and there ln p, ln y and the logarithms of the factors' variables.

        Linear interpolation is right to a thousandth or so: intervals where it is not, at inner edges and poles of the
        density, are halved. Points that are not found are left out.
        """
        first, last = self.stretched(np.array(self.ends))
        place, found = self._logarithms(np.linspace(first, last, NODES))
        for _ in range(HALVINGS):
            middle = (place[:-1] + place[1:]) / 2
            off = np.abs(np.exp(found[:, 1:] - found[:, :-1]) - 1).max(axis=0) > COARSE
            off &= np.diff(place) > 1e-9 * np.maximum(1, np.abs(middle))
            flat = np.sin(found[0].imag) < FLAT
            off &= ~(flat[1:] & flat[:-1])  # in a gap p and y may pass through zero and infinity
            if not off.any() or len(place) > MOST:
                break
            middle, points = self._logarithms(middle[off])
            new = np.searchsorted(place, middle)
            found, place = np.insert(found, new, points, axis=1), np.insert(place, new, middle)
        return place, found.real + 1j * np.unwrap(found.imag, axis=1)

    def _logarithms(self, place: Array) -> tuple[Array, Complex]:
        point, lost = self._attempted(self.upper.log_x - self.unstretched(place)[0])
        if lost.all():
            raise self.failure(f"no point of the law's curve was found around {place[0]:.6g}")
        return place[~lost], np.log(np.concatenate([point.pair, *point.own])[:, ~lost])

    def at(self, depth: Array) -> Point:
        """Points of the curve between the reaches of the edges' series, at depths below the upper edge."""
        nodes, found = self.traced
        place = self.stretched(depth)
        values = np.exp([np.interp(place, nodes, row.real) + 1j * np.interp(place, nodes, row.imag) for row in found])
        ends = np.cumsum([factor.rows for factor in self.factors])[:-1]
        guess = Point(_moved(values[:2], np.zeros(1, complex)), tuple(np.split(values[2:], ends)))
        log_x, point = self._clear(self.upper.log_x - depth), guess.copy()
        lost = self._solved(log_x, 0.0, point) | _far(point, guess, 1.0)
        if lost.any():
            point.put(lost, self._turned(log_x[lost]))
        return self._lifted(point)

    def _lifted(self, point: Point) -> Point:
        """In a gap p is real: what rounding leaves of Im p must not be negative, and v must belong to it."""
        flat = point.pair[0].imag < FLAT * np.abs(point.pair[0])
        if flat.any():
            some = point.part(flat)
            height = np.maximum(some.pair[0].imag, ROUNDING * np.abs(some.pair[0]))
            point.put(flat, self._follow(some.pair.real + 1j * height, some))
        return point


def _far(point: Point, other: Point, change: float) -> Mask:
    """Whether Newton's method has gone to another sheet."""
    return ~(np.abs(np.log(point.pair / other.pair)).max(axis=0) <= change)
