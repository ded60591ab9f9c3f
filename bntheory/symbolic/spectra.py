"""Spectra of products of random matrices, from the rules of free probability.

A law of eigenvalues x ≥ 0 is the function x(y) inverse to

    y(x) = E λ/(x − λ) = Σ_k E λ^k / x^k = −1 − x m(x),      m(z) = E 1/(λ − z),

and large independent matrices, randomly rotated, combine by two rules:

    sum          at equal resolvent g = (1+y)/x the y of the terms add,
    product      at equal y the ratios x y/(1+y) multiply (they are 1/S, the inverse of the S-transform).

Everything here follows from these and from the law of one projection. Sizes, variances and scales are integers, sympy
fractions or positive symbols, or strings such as "1/2"; floats count as the simple fractions that they are close to.

References
----------
D. Voiculescu, Multiplication of certain non-commuting random variables, J. Operator Theory 18, 223 (1987).
U. Haagerup, F. Larsen, Brown's spectral distribution measure for R-diagonal elements, J. Funct. Anal. 176 (2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sympy

from bntheory import arguments

x, y, z, m = sympy.symbols("x y z m")  #: eigenvalue, moment generating function, and the point and value of m(z)
v = sympy.Symbol("v")  #: parameter of a `Curve`

# -- laws ----------------------------------------------------------------------------------------------------------


class Factor(NamedTuple):
    """A random matrix A: its shape, where only ratios of sizes matter, and the law x(y) of AᵀA."""

    rows: Any
    columns: Any
    law: Any


class Curve(NamedTuple):
    """A law x(v, y) along the curve relation(v, y) = 0 through (0, 0), where x = ∞ and y is a power series in v."""

    law: Any
    relation: Any


def gaussian(rows: Any = 1, columns: Any = 1, variance: Any = 1) -> Factor:
    """Large matrix of independent entries of mean zero and variance `variance`/`columns`.

    AᵀA is the sum of its rows' w wᵀ, each of one eigenvalue |w|² → `variance`.

    >>> gaussian().law
    (y + 1)**2/y
    """
    rows, columns, variance = _exact("rows", rows), _exact("columns", columns), _exact("variance", variance)
    share = sympy.Dummy()  # 1/columns
    row = _two_point(variance, share).subs(y, share * y)  # y is of the order of the share
    resolvent = sympy.cancel((1 + share * y) / row).subs(share, 0)
    return Factor(rows, columns, sympy.factor((1 + y) / resolvent.subs(y, y * columns / rows)))


def orthogonal(rows: Any = 1, columns: Any = 1, variance: Any = 1) -> Factor:
    """√`variance` times a uniformly drawn matrix of orthonormal rows or columns, whichever are fewer.

    >>> orthogonal(1, 2).law
    (2*y + 1)/(2*y)
    """
    rows, columns, variance = _exact("rows", rows), _exact("columns", columns), _exact("variance", variance)
    return Factor(rows, columns, _two_point(variance, sympy.Min(rows, columns) / columns))


def mask(kept: Any, width: Any = 1) -> Factor:
    """Diagonal matrix of `kept` ones and `width` − `kept` zeros: half are kept by the derivative of ReLU.

    >>> mask("1/2").law
    (2*y + 1)/(2*y)
    """
    kept, width = _exact("kept", kept), _exact("width", width)
    if (kept - width).is_positive:
        raise ValueError(f"kept must be at most the width {width}, got {kept}")
    return Factor(width, width, _two_point(sympy.Integer(1), kept / width))


def _two_point(size: Any, share: Any) -> Any:
    """Law of eigenvalues `size`, a share of all, and zeros."""
    return sympy.factor(sympy.solve(y - share * size / (x - size), x)[0])


def _exact(name: str, value: Any) -> Any:
    exact = sympy.nsimplify(value, rational=True)
    if exact.is_extended_positive is False or exact.is_infinite:
        raise ValueError(f"{name} must be finite and above 0, got {value}")
    return exact


def law(factors: Sequence[Factor]) -> Any:
    """Law x(y) of the eigenvalues of J Jᵀ, J the product of the factors, the first applied first.

    Parameters
    ----------
    factors
        From `gaussian`, `orthogonal` and `mask`; rows of one are columns of the next.

    Returns
    -------
    Expr
        Rational in `y`, factored. J Jᵀ has the eigenvalue 0 once for each row that exceeds the rank.

    Raises
    ------
    ValueError
        If there are no factors, or two neighbours do not fit.

    Examples
    --------
    >>> law([gaussian(variance=2), mask("1/2")] * 2)
    (y + 1)*(2*y + 1)**2/y
    """
    if not factors:
        raise ValueError(f"law needs at least one factor, for example gaussian(), got {factors!r}")
    size = factors[0].columns
    product = (1 + y / size) / (y / size)  # of the identity; y counts eigenvalues here, so that no shape changes it
    for factor in factors:
        if factor.columns != size:
            raise ValueError(f"a factor of {size} rows must be followed by one of {size} columns, got {factor.columns}")
        product *= factor.law.subs(y, y / size) * y / (size + y)
        size = factor.rows
    return sympy.factor(product.subs(y, size * y))


def scaled(x_of_y: Any, scale: Any) -> Any:
    """Law of `scale` times the eigenvalues.

    >>> scaled(gaussian().law, "1/2")
    (y + 1)**2/(2*y)
    """
    return _exact("scale", scale) * x_of_y


def repeated(x_of_y: Any, times: Any) -> Any:
    """Law of the product of `times` independent square matrices of the law `x_of_y`, rotated at random.

    >>> repeated(gaussian().law, sympy.Symbol("M"))
    (y + 1)**(M + 1)/y
    """
    ratio = sympy.factor(x_of_y * y / (1 + y))
    return sympy.powsimp(sympy.factor((1 + y) / y * ratio ** _exact("times", times)))


def residual(branch: Any, scale: Any, blocks: Any = 1) -> Curve:
    """Law of the product of `blocks` matrices I + `scale`·B, from the law of BᵀB; B square, rotated at random.

    The symmetrized laws of singular values add as the sum rule says, the identity's as if it were rotated too, and g
    there is (1+y)/√x. With v and y − v for the terms `scale`·B and I,

        (1+v)²/(scale² x_B(v)) = g² = (y−v)(1+y−v),      x = (1+y)/y · ( y(1+y)/g² )^blocks.

    B may be D W or W₂ D W₁ with Gaussian W, if each block has its own W and its own random mask D.

    >>> residual(gaussian().law, 1).relation
    -v + (-v + y)*(-v + y + 1)
    """
    square = sympy.cancel((1 + v) ** 2 / (_exact("scale", scale) ** 2 * branch.subs(y, v)))
    identity = (1 + y) ** 2 / law([mask(1)])
    relation = sympy.factor(identity).subs(y, y - v) - square
    return Curve((1 + y) / y * (y * (1 + y) / square) ** _exact("blocks", blocks), relation)


# -- what follows from a law ---------------------------------------------------------------------------------------


def moments(law: Any, count: int) -> list[Any]:
    """E x, …, E x^count by Lagrange's inversion, E x^k = Res x^k dy / k at x = ∞, y = 0.

    On a law x(y) that is [y^(k−1)] (y x)^k / k.

    >>> moments(repeated(gaussian().law, sympy.Symbol("M")), 3)
    [1, M + 1, (M + 1)*(3*M + 2)/2]
    >>> moments(residual(gaussian().law, sympy.Symbol("a")), 2)
    [a**2 + 1, 2*a**4 + 4*a**2 + 1]
    """
    arguments.integer("count", count)
    curve = law if isinstance(law, Curve) else Curve(law, y - v)
    slope_at_0 = sympy.diff(curve.relation, y).subs({y: 0, v: 0})
    rise = sympy.Integer(0)  # y as a polynomial in v, exact to one more order in each step
    for order in range(1, count + 1):
        rise = sympy.expand(rise - _series(curve.relation.subs(y, rise), order + 1) / slope_at_0)
    pole = _series(v * curve.law.subs(y, rise), count)
    slope, power, found = sympy.diff(rise, v), sympy.Integer(1), []
    for k in range(1, count + 1):
        power = sympy.expand(power * pole)
        coefficient = sympy.expand(power * slope).coeff(v, k - 1)
        found.append(sympy.factor(coefficient / k))
    return found


def _series(function: Any, count: int) -> Any:
    """Taylor's polynomial in v, `count` terms."""
    return sympy.series(function, v, 0, count).removeO()


def equation(law: Any) -> Any:
    """Polynomial P with P(x, y) = 0 on the law, free of denominators; expanded only where v must be eliminated.

    >>> equation(repeated(gaussian().law, 5))
    x*y - (y + 1)**6
    """
    if not isinstance(law, Curve):
        above, below = sympy.fraction(sympy.together(law))
        return x * below - above
    numerators = [sympy.numer(sympy.together(part)) for part in (x - law.law, law.relation)]
    factors = sympy.factor_list(sympy.resultant(*numerators, v))[1]
    return sympy.Mul(*(factor for factor, _ in factors if factor.has(x)))


def stieltjes_equation(law: Any) -> Any:
    """Polynomial Q with Q(z, m) = 0 for m(z) = E 1/(x − z), from P by y = −1 − z m.

    >>> stieltjes_equation(gaussian().law)
    m**2*z + m*z + 1
    """
    polynomial = sympy.expand(equation(law).subs({x: z, y: -1 - z * m}))
    # the sign is that of 1 + z m + … for a product of Gaussian matrices
    return -sympy.Mul(*(part for part in sympy.Mul.make_args(sympy.terms_gcd(polynomial)) if part.has(m)))


def derivation(x_of_y: Any, count: int = 6) -> str:
    """The law x(y), its equations, first moments and edges as text; edges without closed form to 15 digits.

    >>> print(derivation(gaussian().law, 3))
    x(y) = (y + 1)**2/y
    P(x, y) = x*y - (y + 1)**2 = 0
    with y = -1 - z*m(z), m(z) = E 1/(x - z): m**2*z + m*z + 1 = 0
    moments E x, …, E x^3: 1, 2, 5
    edges: 0, 4
    """
    return "\n".join(
        [
            f"x(y) = {x_of_y}",
            f"P(x, y) = {equation(x_of_y)} = 0",
            f"with y = -1 - z*m(z), m(z) = E 1/(x - z): {stieltjes_equation(x_of_y)} = 0",
            f"moments E x, …, E x^{count}: {', '.join(map(str, moments(x_of_y, count)))}",
            f"edges: {', '.join(map(_shown, edges(x_of_y))) or 'none, the law has atoms only'}",
        ]
    )


def edges(x_of_y: Any) -> tuple[Any, ...]:
    """Lower and upper edge of the continuous part of a law x(y); empty if there are only atoms.

    On the real line outside the support y is real, and w = −1/y grows where x falls. So x comes down from +∞ with w
    from −∞, and up from −∞ with w from +∞, until dx/dw = 0: the edges are the values at the first and the last
    critical point, among the roots of P's discriminant in y. An atom outside them lies at w = 0.

    Parameters
    ----------
    x_of_y
        From `law` or `repeated`. It may contain symbols whose assumptions settle the order of the critical points.

    Raises
    ------
    ValueError
        If the order of the critical points is not settled.

    Examples
    --------
    >>> edges(repeated(gaussian().law, 2)), edges(law([gaussian(variance=2), mask("1/2")]))
    ((0, 27/4), (3 - 2*sqrt(2), 2*sqrt(2) + 3))
    >>> edges(repeated(gaussian().law, sympy.Symbol("M", positive=True)))
    (0, (M + 1)**(M + 1)/M**M)
    """
    w = sympy.Dummy("w")
    x_of_w = sympy.factor(x_of_y.subs(y, -1 / w))
    powers = x_of_w.as_powers_dict()
    slope = sum(power * sympy.diff(base, w) / base for base, power in powers.items())  # of ln x
    multiple = [base for base, power in powers.items() if base.has(w) and (power - 1).is_positive]
    critical = sympy.numer(sympy.cancel(sympy.together(slope))) * sympy.Mul(*multiple)
    points = sympy.real_roots(critical, w) if critical.free_symbols == {w} else sympy.solve(critical, w)
    if any(point.is_real is None for point in points):
        raise ValueError(f"edges needs numbers, or symbols of known sign, to find the real ones of {points}")
    points = [point for point in points if point.is_real]
    if not points:
        return ()
    ends = sympy.Max(*points), sympy.Min(*points)
    if any(isinstance(end, sympy.Max | sympy.Min) for end in ends):
        raise ValueError(f"edges needs numbers, or symbols of known sign, to order {points}")
    return tuple(_tidy(x_of_w.subs(w, end)) for end in ends)


def _tidy(value: Any) -> Any:
    return value if value.has(sympy.CRootOf) else sympy.factor(sympy.simplify(value))


def _shown(edge: Any) -> str:
    return f"about {edge.evalf(15)}" if edge.has(sympy.CRootOf) else str(edge)
