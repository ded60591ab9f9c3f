"""Symbolic laws against closed forms, the numeric laws, exact finite-size moments and explicit matrices."""

import functools
from fractions import Fraction
from math import comb

import numpy as np
import pytest
import sympy
from scipy.integrate import quad

from bntheory import FussCatalan, MarchenkoPastur
from bntheory.symbolic import (
    derivation,
    edges,
    equation,
    gaussian,
    law,
    mask,
    moments,
    orthogonal,
    repeated,
    residual,
    stieltjes_equation,
)
from bntheory.symbolic.spectra import m, v, x, y, z

M, A = sympy.symbols("M a", positive=True)
RELU = [gaussian(variance=2), mask("1/2")]
ORTHOGONAL_RELU = [orthogonal(variance=2), mask("1/2")]
BUILD = {"gaussian": gaussian, "orthogonal": orthogonal, "mask": mask}
# kind, rows or number kept, columns, variance; the orthogonal one has an atom above its continuous part
CHAINS = {
    "gaussian": [("gaussian", 5, 3, 2), ("mask", 2.5, 5), ("gaussian", 4, 5, 2), ("mask", 2, 4), ("gaussian", 7, 4, 1)],
    "orthogonal": [("orthogonal", 2, 1, 2), ("mask", 1.5, 2), ("orthogonal", 4, 2, 2), ("mask", 3.5, 4)],
    "mixed": [("orthogonal", 2, 3, 2), ("mask", 1, 2), ("gaussian", 4, 2, 2)],
}
EDGES = {  # upper ends of He-initialized networks of so many layers
    "relu 1": 5.828427,
    "relu 2": 11.090170,
    "relu 5": 27.272773,
    "relu 20": 108.753915,
    "orthogonal relu 5": 12.207031,
    "orthogonal relu 20": 53.000687,
}


@functools.cache
def exact_law(name):
    """Of a chain, or of a network of EDGES; sympy takes its time for each."""
    if name in CHAINS:
        return law([BUILD[kind](*sizes) for kind, *sizes in CHAINS[name]])
    kind, layers = name.rsplit(" ", 1)
    return law({"relu": RELU, "orthogonal relu": ORTHOGONAL_RELU}[kind] * int(layers))


def test_fuss_catalan_numbers_of_a_symbolic_number_of_factors():
    found = moments(repeated(gaussian().law, M), 6)
    for factors in (1, 2, 5, 1000):
        exact = [comb((factors + 1) * k, k) // (factors * k + 1) for k in range(1, 7)]
        assert [moment.subs(M, factors) for moment in found] == exact
        assert exact == pytest.approx([FussCatalan(factors).moment(k) for k in range(1, 7)], rel=1e-12)


@pytest.mark.parametrize("factors", [1, 2, 5, 30])
def test_the_support_of_fuss_catalan(factors):
    lower, upper = edges(repeated(gaussian(variance="3/2").law, factors))
    assert lower == 0 and float(upper) == pytest.approx(FussCatalan(factors, 1.5**factors).support[1], rel=1e-14)
    assert law([gaussian()] * factors) == repeated(gaussian().law, factors)


@pytest.mark.parametrize("ratio", ["1/4", "1", "9/4", "7"])
def test_marchenko_pastur(ratio):
    numeric, exact = MarchenkoPastur(float(Fraction(ratio)), 1.5), law([gaussian(ratio, 1, "3/2")])
    assert [float(edge) for edge in edges(exact)] == pytest.approx(numeric.nonzero.support, rel=1e-14)
    expected = [numeric.moment(k) for k in range(1, 6)]
    assert [float(moment) for moment in moments(exact, 5)] == pytest.approx(expected, rel=1e-12)


def test_marchenko_pastur_of_a_symbolic_ratio():
    lower, upper = edges(law([gaussian(A)]))
    assert sympy.expand(lower - (1 - sympy.sqrt(A)) ** 2) == 0 == sympy.expand(upper - (1 + sympy.sqrt(A)) ** 2)


@pytest.mark.parametrize(
    "numeric", [FussCatalan(1), FussCatalan(3, 2.0), MarchenkoPastur(0.25), MarchenkoPastur(4, 2.0)]
)
@pytest.mark.parametrize("point", [-0.3, -5.0])
def test_stieltjes_transform_of_the_numeric_laws(numeric, point):
    if isinstance(numeric, FussCatalan):
        exact = law([gaussian(variance=numeric.scale), *[gaussian()] * (numeric.factors - 1)])
    else:
        exact = law([gaussian(numeric.ratio, 1, numeric.scale)])
    transform = quad(lambda level: 1 / (numeric.ppf(level) - point), 0, 1, epsabs=1e-10, limit=200)[0]
    roots = sympy.Poly(stieltjes_equation(exact).subs(z, sympy.Rational(str(point))), m).nroots()
    assert min(abs(complex(root) - transform) for root in roots) < 1e-8


def test_relu_moments():
    """Known integers, the atom of mass 1/2 included; the first two are also limits of those at finite size, below."""
    expected = {1: [1, 3, 11, 45], 2: [1, 5, 33, 249], 3: [1, 7, 67, 741]}
    assert {layers: moments(law(RELU * layers), 4) for layers in expected} == expected


def test_two_orthogonal_relu_layers_have_the_arcsine_law():
    """Half of the eigenvalues are 0, the others lie on (0, 4) with moments C(2k, k)."""
    exact = law(ORTHOGONAL_RELU * 2)
    assert edges(exact) == (0, 4)
    assert moments(exact, 5) == [Fraction(comb(2 * k, k), 2) for k in range(1, 6)]


def test_one_orthogonal_relu_layer_has_atoms_only():
    exact = law(ORTHOGONAL_RELU)
    assert edges(exact) == edges(law([orthogonal()])) == ()
    assert moments(exact, 4) == [1, 2, 4, 8]  # half of them 2, half 0
    assert moments(law([orthogonal(2, 1, 3)]), 3) == [Fraction(3**k, 2) for k in (1, 2, 3)]  # rank 1 of 2 rows


@pytest.mark.parametrize("kept", [Fraction(1), Fraction(1, 2)], ids=["linear", "relu"])
def test_first_moments_are_the_limit_of_those_at_finite_size(kept):
    """E tr S² and E (tr S)² follow a 2 × 2 recursion in the sizes, from counting pairings of Gaussian entries."""
    sizes, variance, scale = (3, 5, 4, 7), Fraction(3, 2), 10**9
    factors, first, square, squared = [], Fraction(sizes[0] * scale), *(Fraction(sizes[0] * scale) ** k for k in (1, 2))
    for columns, rows in zip(sizes, sizes[1:], strict=False):
        n, rank = columns * scale, rows * scale
        p = rank * kept
        q = p + rank * (rank - 1) * kept**2
        square, squared = ((q + p) * square + p * squared, 2 * p * square + q * squared)
        square, squared = square * variance**2 / n**2, squared * variance**2 / n**2
        first *= variance * p / n
        factors += [gaussian(rows, columns, variance), mask(kept * rows, rows)]
    found = moments(law(factors), 2)
    total = sizes[-1] * scale
    assert found[0] == first / total
    assert float(found[1]) == pytest.approx(float(square / total), rel=1e-8)


def _matrix(rng, unit, kind, rows, columns, variance=1):
    """An explicit factor of rows × unit by columns × unit, with complex entries."""
    rows, columns = int(rows * unit), int(columns * unit)
    if kind == "mask":
        return np.diag((np.arange(columns) < rows).astype(float))
    entries = (rng.normal(size=(rows, columns)) + 1j * rng.normal(size=(rows, columns))) / np.sqrt(2)
    if kind == "gaussian":
        return np.sqrt(variance / columns) * entries
    basis = np.linalg.qr(entries if rows >= columns else entries.T)[0]
    return np.sqrt(variance) * (basis if rows >= columns else basis.T)


@pytest.mark.parametrize("name", CHAINS)
def test_explicit_matrices_have_the_moments(name):
    """Biased by 1/size² only; three moments each to 4.5 standard errors of 40 draws: false alarm 6e-4 in all."""
    rng, unit, draws = np.random.default_rng(5), 30, 40
    spectra = []
    for _ in range(draws):
        product = np.eye(int(CHAINS[name][0][2] * unit))
        for factor in CHAINS[name]:
            product = _matrix(rng, unit, *factor) @ product
        spectra.append(np.linalg.eigvalsh(product @ product.conj().T))
    found = np.stack([np.mean(np.array(spectra) ** k, axis=1) for k in (1, 2, 3)])
    expected = [float(moment) for moment in moments(exact_law(name), 3)]
    error = 4.5 * found.std(axis=1, ddof=1) / np.sqrt(draws)
    assert np.all(abs(found.mean(axis=1) - expected) < error)


def _density(x_of_y, point):
    """−Im y(x + i0)/(π x), by Newton's method from x + i∞, where y = E λ/x, down to the real line."""
    function, derivative = sympy.lambdify(y, x_of_y), sympy.lambdify(y, sympy.diff(x_of_y, y))
    heights = np.geomspace(1e4, 1e-12, 500)
    at = float(moments(x_of_y, 1)[0]) / (1j * heights[0])
    for height in heights:
        for _ in range(6):
            at -= (function(at) - point - 1j * height) / derivative(at)
    assert abs(function(at) - point) < 1e-6
    return -at.imag / (np.pi * point)


@pytest.mark.parametrize("name", CHAINS)
def test_the_density_ends_at_the_edges(name):
    lower, upper = (float(edge) for edge in edges(exact_law(name)))
    assert 0 < lower < upper
    for edge, inwards in ((lower, 0.01), (upper, -0.01)):
        inside, outside = (_density(exact_law(name), edge * (1 + step)) for step in (inwards, -inwards))
        assert inside > 1e5 * abs(outside)


@pytest.mark.parametrize("name", EDGES)
def test_upper_edges_of_relu_networks(name):
    assert float(edges(exact_law(name))[1]) == pytest.approx(EDGES[name], abs=1e-6)


@pytest.mark.parametrize("name", [*CHAINS, "relu 1", "relu 2", "relu 5", "orthogonal relu 5"])
def test_edges_are_roots_of_the_discriminant(name):
    exact = exact_law(name)
    polynomial = sympy.numer(sympy.together(equation(exact)))
    discriminant = sympy.Poly(sympy.discriminant(polynomial, y), x)
    assert discriminant.degree() > 0
    roots = discriminant.sqf_part().nroots(n=30, maxsteps=300)
    for edge in edges(exact):
        assert min(abs(sympy.N(edge, 30) - root) for root in roots) < 1e-20


def test_edges_ask_for_what_they_cannot_decide():
    n = sympy.symbols("n:3", positive=True)
    with pytest.raises(ValueError, match="edges needs numbers, or symbols of known sign"):
        edges(law([gaussian(n[1], n[0]), gaussian(n[2], n[1])]))


def _explicit_residual(scale, blocks):
    """x(y) of products of I + aW as a closed expression."""
    root = sympy.sqrt((1 - scale**2) ** 2 + 4 * scale**2 * (1 + y))
    u = (scale**2 - 1 + root) / (2 * scale**2 * (1 + y))
    return (1 + y) / y * ((1 + scale**2 * u) / u**2) ** blocks


@pytest.mark.parametrize("blocks", [1, 2, 10])
def test_residual_gaussian_blocks(blocks):
    scale = sympy.Rational(1, 2)
    assert sympy.expand(moments(residual(gaussian().law, A, blocks), 1)[0] - (1 + A**2) ** blocks) == 0
    exact = residual(gaussian().law, scale, blocks)
    assert moments(exact, 3) == moments(_explicit_residual(scale, blocks), 3)
    if blocks <= 2:
        polynomial = sympy.lambdify((x, y), equation(exact))
        on_law = sympy.lambdify(y, _explicit_residual(scale, blocks))
        for point in (0.1, 0.37, 2.0):
            assert abs(polynomial(on_law(point), point)) < 1e-9 * abs(polynomial(2 * on_law(point), point))


def test_second_moment_of_one_residual_block():
    """The square of I + a(W + Wᵀ) + a² W Wᵀ by hand: 1 + a² E(W + Wᵀ)² + 2a² E W Wᵀ + a⁴ E(W Wᵀ)²."""
    assert sympy.expand(moments(residual(gaussian().law, A), 2)[1]) == 1 + 4 * A**2 + 2 * A**4


@pytest.mark.parametrize("branch", [RELU, [*RELU, gaussian()]], ids=["DW", "WDW"])
def test_residual_blocks_of_explicit_matrices(branch):
    """I + aB with complex entries, biased by 1/N²; three moments, 4.5 standard errors each: false alarm 2e-5."""
    rng, n, draws, blocks, scale = np.random.default_rng(2), 80, 40, 3, 0.7
    found = []
    for _ in range(draws):
        product = np.eye(n, dtype=complex)
        for _ in range(blocks):
            inner, outer = (rng.normal(size=(2, n, n)) / np.sqrt(2 * n) for _ in range(2))
            kept = rng.permutation(n) < n // 2
            step = np.sqrt(2) * (inner[0] + 1j * inner[1]) * kept[:, None]
            if len(branch) == 3:
                step = (outer[0] + 1j * outer[1]) @ step
            product = product + scale * step @ product
        singular = np.linalg.svd(product, compute_uv=False)
        found.append([np.mean(singular ** (2 * k)) for k in (1, 2, 3)])
    found = np.array(found)
    expected = [float(moment) for moment in moments(residual(law(branch), "7/10", blocks), 3)]
    error = found.std(axis=0, ddof=1) / np.sqrt(draws)
    assert np.all(abs(found.mean(axis=0) - expected) < 4.5 * error)


def test_the_relation_of_a_residual_law_is_a_curve_through_the_origin():
    relation = residual(law(RELU), 1).relation
    assert relation.subs({y: 0, v: 0}) == 0 and sympy.diff(relation, y).subs({y: 0, v: 0}) != 0


def test_bad_chains_are_refused():
    with pytest.raises(ValueError, match=r"law needs at least one factor, for example gaussian\(\), got \[\]"):
        law([])
    with pytest.raises(ValueError, match="a factor of 3 rows must be followed by one of 3 columns, got 2"):
        law([gaussian(3, 2), gaussian(3, 2)])
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        moments(gaussian().law, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gaussian(rows=0), "rows must be finite and above 0, got 0"),
        (lambda: gaussian(variance=-1), "variance must be finite and above 0, got -1"),
        (lambda: orthogonal(columns=float("inf")), "columns must be finite and above 0, got inf"),
        (lambda: mask(3, 2), "kept must be at most the width 2, got 3"),
        (lambda: repeated(gaussian().law, 0), "times must be finite and above 0, got 0"),
        (lambda: residual(gaussian().law, 0), "scale must be finite and above 0, got 0"),
    ],
)
def test_sizes_and_variances_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_derivation_as_text():
    text = derivation(repeated(gaussian().law, 5))
    assert "x*y - (y + 1)**6 = 0" in text and "m**6*z**5 + m*z + 1 = 0" in text
    assert "1, 6, 51, 506, 5481, 62832" in text and text.endswith("edges: 0, 46656/3125")
    assert derivation(law(ORTHOGONAL_RELU)).endswith("edges: none, the law has atoms only")
