"""Point masses of free products."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from bntheory.spectra.factors import Factor

LEAST = 1e-12  # mass


def atoms_above_zero(
    powers: Iterable[tuple[Fraction, int]],
    log_scale: float,
    parts: Iterable[tuple[Factor, Fraction]],
    least: float = LEAST,
) -> list[tuple[float, float]]:
    """Atoms (x, mass) at x > 0 of the law of x(y) = κ Π (c + y)^k · Π u, in increasing order of x.

    Where x(y) stays finite as y → ∞, every choice of one value λ_i of each u makes an atom at κ Π λ_i, of the mass
    Σ k c + Σ P(λ_i) if that is positive: of two factors, μ(a) + ν(b) − 1 (Bercovici, Voiculescu 1998).
    """
    powers, parts = tuple(powers), tuple(parts)
    degree = sum(k for _, k in powers) + sum(factor.degree for factor, _ in parts)
    if degree > 0:
        return []
    found = [(float(np.exp(log_scale)), float(sum((k * c for c, k in powers), Fraction(0))))]
    choices = [
        [(x, mass * float(size)) for x, mass in factor.atoms] for factor, size in parts for _ in range(factor.count)
    ]
    most = np.cumsum([0.0, *(max((mass for _, mass in values), default=0.0) for values in reversed(choices))])[::-1]
    for values, later in zip(choices, most[1:], strict=True):
        pairs = ((x * value, mass + more) for x, mass in found for value, more in values)
        found = [(x, mass) for x, mass in pairs if mass + later > least]  # the others cannot become positive
    return sorted((x, mass) for x, mass in found if mass > least)
