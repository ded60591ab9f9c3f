"""Sums over the evenly spaced nodes of a density, made right next to the density.

The rule Σ W_k u/(u − λ_k) for E u/(u − λ) is exponentially accurate in the distance of the poles of the integrand, the
places κ with λ(κ) = u, from the nodes, which are the integers here. Close to the density that distance vanishes; but
then the poles are known, from λ's interpolating polynomials, and with them the error of the rule: with
E = exp(2πi σ κ), σ the sign of Im κ, W du/(u dκ) the residue, and c = 2πi σ,

    E u/(u − λ)  =  Σ W_k u/(u − λ_k)  +  c W/(ln λ)′ · E/(1 − E),
    E ln(1 − u/λ)  =  Σ W_k ln(1 − u/λ_k)  +  W Li_1(E) − W′ Li_2(E)/c + W″ Li_3(E)/c² − …

(Trefethen, Weideman 2014, SIAM Review 56, 385: the rule and its error by residues.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import spence

from bntheory.spectra.factors import Array, Complex, summed

STENCIL = 13  # nodes of an interpolating polynomial
FLAT = 1e-14  # change of ln λ from node to node: rounding
FARTHEST = 5.0  # of Im κ: e^−31
RECENTRED, SETTLED = 12, 1e-9  # steps of Newton's method, and the last of them, whose error is its square
SMALLEST = 1e-100  # divisor
BESIDE = 0.1  # κ from a node
CLOSE = 1e-9  # of two poles that are one, and of ln λ to ln u
TERMS = 8  # of the logarithm's correction
SERIES = np.arange(1, 501)  # of Li_3 and higher


def _matrices() -> Array:
    """From the values at offsets j − 12 … j to the polynomial's coefficients, for j = 0 … 12."""
    return np.array([np.linalg.inv(np.vander(np.arange(j - 12.0, j + 1), increasing=True)) for j in range(STENCIL)])


MATRICES = _matrices()


def polynomials(values: Array) -> Array:
    """Coefficients (nodes, 13) of the polynomials through a node and its neighbours, about every node."""
    nodes = np.arange(len(values))
    first = np.clip(nodes - STENCIL // 2, 0, len(values) - STENCIL)
    around = values[first[:, None] + np.arange(STENCIL)]
    return np.einsum("kij,kj->ki", MATRICES[STENCIL - 1 - (nodes - first)], around)


def _at(coefficients: Array, tau: Complex, derivatives: int) -> list[Complex]:
    """A polynomial a row, and its derivatives."""
    out, powers = [], np.arange(STENCIL)
    for _ in range(derivatives + 1):
        total = np.zeros_like(tau)
        for column in coefficients.T[::-1]:
            total = total * tau + column
        out.append(total)
        coefficients = coefficients[:, 1:] * powers[1 : coefficients.shape[1]]
    return out


class Piece(NamedTuple):
    """Nodes between which ln λ is monotone, among those of a stretch, and the stretch's polynomials."""

    first: int
    last: int
    values: Array
    log_values: Array
    value: Array
    weight: Array


class Pole(NamedTuple):
    """Of some elements of u: the next node's λ and polynomials, κ from it on, ln λ's derivatives and W's."""

    where: Array
    node: Array
    node_weight: Array
    polynomial: Array
    tau: Complex
    sign: Array
    value: list[Complex]
    weight: list[Complex]


@dataclass(frozen=True, eq=False)
class Poles:
    """The poles of one density: on stretches of the line, ln λ and the probability a node stands for.

    Parameters
    ----------
    stretches : sequence of (λ, weights)
        At evenly spaced places.
    """

    stretches: Sequence[tuple[Array, Array]]

    @cached_property
    def pieces(self) -> list[Piece]:
        """Where ln λ rises or falls."""
        found = []
        for values, weights in self.stretches:
            if len(values) < STENCIL:
                continue
            log_values = np.log(values)
            tables = polynomials(log_values), polynomials(weights)
            change = np.diff(log_values)
            sign = np.sign(change) * (np.abs(change) > FLAT * np.maximum(1, np.abs(log_values[1:])))
            ends = np.flatnonzero(np.diff(sign, prepend=2, append=2))
            for first, last in zip(ends[:-1], ends[1:], strict=True):
                if sign[first]:
                    found.append(Piece(int(first), int(last), values, log_values, *tables))
        return found

    @cached_property
    def turning(self) -> Array:
        """ln λ where it is extreme, between a rising and a falling piece."""
        found = []
        for one, other in pairwise(self.pieces):
            if one.value is other.value and other.first - one.last <= 1:
                coefficients, tau = one.value[[one.last]], np.zeros(1, complex)
                for _ in range(RECENTRED):
                    _, slope, second = _at(coefficients, tau, 2)
                    tau = tau - slope / second
                found.append(float(_at(coefficients, tau, 0)[0].real[0]))
        return np.array(found)

    def on_axis(self, log_x: Array) -> Array:
        """The density of ln x, and what Σ W 1[λ_k ≤ x] lacks to P(λ ≤ x), stacked."""
        out = np.zeros((2, len(log_x)))
        u = np.exp(log_x).astype(complex)
        for pole in self.near(u, log_x):
            inside = pole.tau.imag == 0
            out[0, pole.where] += np.where(inside, (pole.weight[0] / np.abs(pole.value[1])).real, 0)
        out[1] = self.angles(u, log_x) / np.pi
        return out

    def _places(self, piece: Piece, log_u: Complex) -> tuple[NDArray[np.int_], Complex]:
        """The pole of one piece, as a node and the distance from it; NaN where there is none nearby."""
        with np.errstate(all="ignore"):
            return self._searched(piece, log_u)

    def _searched(self, piece: Piece, log_u: Complex) -> tuple[NDArray[np.int_], Complex]:
        values = piece.log_values[piece.first : piece.last + 1]
        rising = values[-1] > values[0]
        ordered = values if rising else values[::-1]
        nearest = np.clip(np.searchsorted((ordered[1:] + ordered[:-1]) / 2, log_u.real), 0, len(values) - 1)
        node = piece.first + nearest if rising else piece.last - nearest
        start, slope, half = piece.value[node, :3].T
        root = np.sqrt(slope**2 - 4 * half * (start - log_u))
        tau = -2 * (start - log_u) / (slope + np.where(rising, root, -root))
        tau = tau * np.minimum(1, FARTHEST / np.maximum(np.abs(tau), SMALLEST))
        for _ in range(RECENTRED):
            value, slope = _at(piece.value[node], tau, 1)
            step = (log_u - value) / slope
            tau = tau + step * np.minimum(1, 1 / np.maximum(np.abs(step), SMALLEST))
            moved = np.clip(node + np.nan_to_num(np.round(tau.real), nan=0).astype(int), 0, len(piece.value) - 1) - node
            node, tau = node + moved, tau - moved
            if np.all((np.abs(step) < SETTLED) | (np.abs(tau.imag) > FARTHEST)):
                break
        place = node + tau
        missed = np.abs(_at(piece.value[node], tau, 0)[0] - log_u) > CLOSE * (1 + np.abs(log_u))
        missed |= (np.abs(tau.imag) > FARTHEST) | (place.real < piece.first - 1) | (place.real > piece.last + 1)
        return node, np.where(missed, np.nan, tau)

    def near(self, u: Complex, log_x: Array | None = None, terms: int = 2) -> list[Pole]:
        """All poles that matter, with W and terms − 1 derivatives.

        Real u inside the density, whose logarithms may be given, count as from below.
        """
        out: list[Pole] = []
        log_u, before = np.log(u) if log_x is None else log_x.astype(complex), None
        for piece in self.pieces:
            steepest = np.abs(piece.value[piece.first : piece.last + 1, 1]).max()
            candidates = np.flatnonzero(np.abs(log_u.imag) < 2 * FARTHEST * steepest)
            node, tau = self._places(piece, log_u[candidates])
            tau = np.where((log_u[candidates].imag == 0) & (np.abs(tau.imag) < CLOSE), tau.real, tau)
            side = np.where(log_u[candidates].real >= piece.log_values[node], 1, -1) * np.sign(piece.value[node, 1])
            tau = np.where((tau.imag == 0) & (np.abs(tau) < CLOSE), CLOSE * side, tau)  # on the side that is counted
            place = np.full(len(u), np.nan, complex)
            place[candidates] = node + tau
            if before is not None and before[0].value is piece.value:  # of neighbouring pieces, the same pole once
                place[np.abs(place - before[1]) < 1e-7] = np.nan
            keep = np.isfinite(place[candidates])
            node, tau, where = node[keep], tau[keep], candidates[keep]
            rising = piece.log_values[piece.last] > piece.log_values[piece.first]
            sign = np.where(tau.imag == 0, -1.0 if rising else 1.0, np.sign(tau.imag))
            value, weight = _at(piece.value[node], tau, 2), _at(piece.weight[node], tau, terms - 1)
            out.append(
                Pole(where, piece.values[node], piece.weight[node, 0], piece.value[node], tau, sign, value, weight)
            )
            before = piece, place
        return out

    def sums(self, u: Complex) -> tuple[Complex, Complex]:
        """What Σ W u/(u − λ) lacks to its integral, and the derivative in ln u."""
        total, slopes = np.zeros_like(u), np.zeros_like(u)
        for pole in self.near(u):
            c = 2j * np.pi * pole.sign
            ratio, first, second = pole.weight[0] / pole.value[1], pole.weight[1], pole.value[2]
            above, below = np.exp(c * pole.tau), -np.expm1(c * pole.tau)
            part = above / below
            slope = (first - ratio * second) / pole.value[1] * part + ratio * c * part / below
            term, rate = _rounded(u[pole.where], pole)
            total[pole.where] += c * ratio * part + term
            slopes[pole.where] += c * slope / pole.value[1] + rate
        return total, slopes

    def angles(self, u: Complex, log_x: Array | None = None) -> Array:
        """What Σ W arg(1 − u/λ) lacks to its integral."""
        total = np.zeros(len(u))
        for pole in self.near(u, log_x, TERMS):
            c = 2j * np.pi * pole.sign
            rest = -np.expm1(c * pole.tau)
            powers = np.exp((c * pole.tau)[:, None] * SERIES)
            logs = (-np.log(rest), spence(rest), *(summed(powers, SERIES ** -float(n)) for n in range(3, TERMS + 1)))
            terms = [(-1) ** n * w * part / c**n for n, (w, part) in enumerate(zip(pole.weight, logs, strict=True))]
            total[pole.where] += np.sum(terms, axis=0).imag
        return total


def _rounded(u: Complex, pole: Pole) -> tuple[Complex, Complex]:
    """What the next node's term and its slope gain if u counts as at the pole's place to all digits.

    Next to a node its term and the pole's nearly cancel: both must see the same place.
    """
    near = np.abs(pole.tau) < BESIDE
    tau = np.where(near, pole.tau, 1)
    beside = tau * _at(pole.polynomial[:, 1:], tau, 0)[0]  # ln u − ln λ
    rest, given = -np.expm1(-beside), u / (u - pole.node)
    weight = np.where(near, pole.node_weight, 0)
    return weight * (1 / rest - given), weight * (given * (given - 1) - (1 - rest) / rest**2)
