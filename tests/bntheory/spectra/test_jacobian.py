"""Laws read off descriptions: closed forms, exact moments at finite width, and refusals by name."""

import math
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest

import simulations
from bntheory.activations import Activation, activation
from bntheory.architectures import cnn, mlp, resnet
from bntheory.initializations import initialization
from bntheory.layers import BatchNorm, Dense, Dropout, Unknown
from bntheory.networks import Join, Residual, Sequential
from bntheory.spectra.diagonal import Diagonal
from bntheory.spectra.finite_size import finite_size_moments
from bntheory.spectra.fuss_catalan import FussCatalan, MarchenkoPastur
from bntheory.spectra.jacobian import jacobian_law
from bntheory.spectra.residual import ResidualBranch
from bntheory.spectra.s_transform import STransformLaw


def net(*layers, width=64):
    return Sequential(tuple(layers), input_shape=(width,))


def test_linear_networks_are_fuss_catalan_and_marchenko_pastur():
    assert jacobian_law(mlp(3, 64, "linear", "lecun_normal")) == FussCatalan(3).s_transform()
    wide = jacobian_law(net(Dense(192, init="lecun_normal")))
    np.testing.assert_allclose(wide.cdf([0.5, 2.0]), MarchenkoPastur(3.0).cdf([0.5, 2.0]), rtol=1e-12)
    np.testing.assert_allclose(wide.atoms, MarchenkoPastur(3.0).atoms, rtol=1e-14)


@pytest.mark.parametrize("widths", [(64, 64, 64), (48, 96, 32), (32, 80, 160)])
@pytest.mark.parametrize("name", ["linear", "relu", "leaky_relu(0.3)"])
def test_moments_are_the_limit_of_exact_ones(widths, name):
    """E tr S^k/n_L at widths · 4^m: the limit by Richardson's extrapolation in 1/N."""

    def scaled(factor):
        layers = [layer for w in widths[1:] for layer in (Dense(w * factor), activation(name))]
        return net(*layers, width=widths[0] * factor)

    law = jacobian_law(scaled(1))
    rows = np.array([[finite_size_moments(scaled(4**m)).moment(k) for m in (3, 4, 5)] for k in (1, 2)])
    first = (4 * rows[:, 1:] - rows[:, :-1]) / 3
    limit = (16 * first[:, 1] - first[:, 0]) / 15
    assert [law.moment(1), law.moment(2)] == pytest.approx(limit, rel=1e-6)


@pytest.mark.parametrize("a", [0.3, 0.5, 1.0, 1.4])
@pytest.mark.parametrize("layers", [1, 3, 10])
def test_residual_gaussian_blocks(a, layers):
    """First moment (1 + a²)^L; the density from the closed form of x(y) in many digits, at roots found anew."""
    blocks = [Residual(Sequential((Dense(64, init="lecun_normal"),)), scale=a) for _ in range(layers)]
    law = jacobian_law(net(*blocks))
    assert law.mean == pytest.approx((1 + a**2) ** layers, rel=1e-12)
    for level in (0.05, 0.5, 0.99):
        u = float(law.log.ppf(level))
        assert law.log.pdf(u) == pytest.approx(residual_density(a, layers, u, law.log.pdf(u)), rel=1e-9)


def residual_density(a, layers, u, guess):
    """Im y/π at x(y) = (1+y)/y · ((1 + a²v)/v²)^L, v = [a² − 1 + √((1 − a²)² + 4a²(1+y))]/(2a²(1+y)).

    Of the roots with the given Im y that Newton's method finds from a row of real parts, the one next to the guess.
    """
    with mp.workdps(30):
        square = mp.mpf(a) ** 2

        def error(y):
            v = (square - 1 + mp.sqrt((1 - square) ** 2 + 4 * square * (1 + y))) / (2 * square * (1 + y))
            value = mp.log((1 + y) / y) + layers * (mp.log(1 + square * v) - 2 * mp.log(v)) - mp.mpf(u)
            return value.real + 1j * (value.imag - 2 * mp.pi * mp.nint(value.imag / (2 * mp.pi)))

        found = []
        for real in np.linspace(-1.2, 1.5, 28):
            try:
                root = mp.findroot(error, mp.mpc(real, np.pi * guess), tol=1e-40)
            except (ValueError, ZeroDivisionError):
                continue
            found.append(float(root.imag / mp.pi))
            if abs(found[-1] / guess - 1) < 1e-12:
                break  # none is nearer
        return min(found, key=lambda density: abs(density - guess))


def test_relu_branches():
    """x + 0.7 W relu(x), three blocks: moments of simulated networks, to three digits."""
    branch = Sequential((Activation("relu"), Dense(64, init="he_normal")))
    law = jacobian_law(net(*[Residual(branch, scale=0.7)] * 3))
    assert [law.moment(k) for k in (1, 2, 3)] == pytest.approx([3.308, 32.5, 454], rel=2e-3)  # three digits
    assert law.mean == pytest.approx(1.49**3, rel=1e-12)
    two = Sequential((Activation("relu"), Dense(64), Activation("relu"), Dense(64)))
    assert jacobian_law(net(Residual(two))).mean == pytest.approx(2, rel=1e-12)


BRANCHES = {  # φ, hidden width beside 1 if φ lies between two matrices, scale
    "tanh": ("tanh", None, 0.5),
    "strong tanh": ("tanh", None, 2.0),
    "leaky relu": ("leaky_relu(0.2)", None, 1.0),
    "gelu between a wide and a narrow matrix": ("gelu", 2, 1.0),
}


def branch_net(name, width, blocks=1):
    phi, hidden, scale = BRANCHES[name]
    layers = (activation(phi), Dense(width, init="lecun_normal"))
    if hidden:
        layers = (Dense(hidden * width, init="lecun_normal"), *layers)
    return net(*[Residual(Sequential(layers), scale=scale)] * blocks, width=width)


@pytest.mark.parametrize("name", BRANCHES)
def test_one_block_of_any_activation(name):
    """Mean 1 + a² σ_w² E φ′², by the trapezoidal rule; 3 networks of 200 units are at most 0.04 away, the seed fixed.

    8 other seeds each gave 0.006 to 0.018.
    """
    phi, _, scale = BRANCHES[name]
    g = np.arange(-12, 12, 0.01) + 0.005
    weight = 0.01 * np.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)
    law = jacobian_law(branch_net(name, 64))
    assert law.mean == pytest.approx(1 + scale**2 * weight @ activation(phi).dphi(g) ** 2, rel=1e-8)
    quantiles = law.ppf([0.01, 0.5, 0.99])
    assert law.cdf(quantiles) == pytest.approx([0.01, 0.5, 0.99], rel=1e-9)
    assert law.accuracy(quantiles) < 1e-6
    x = np.sort(np.exp(2 * simulations.log_singular_values(branch_net(name, 200), trials=3, seed=3)).ravel())
    below, grid = law.cdf(x), np.arange(x.size) / x.size
    assert max(np.max(below - grid), np.max(grid + 1 / x.size - below)) < 0.04


def test_the_law_says_where_it_is_approximate():
    """Two blocks whose slopes act on units that the identity carries; not with a Dense layer before or between."""
    dense, relu = Dense(64), activation("relu")
    direct, behind, linear = (
        Residual(Sequential(branch)) for branch in ((relu, dense), (dense, relu, dense), (dense,))
    )
    for layers in ((direct, direct), (direct, linear, direct), (direct, behind, relu), (direct, relu)):
        law = jacobian_law(net(*layers))
        assert law.method == law.log.nonzero.method == (2 * law**2).method == "approximate"
        assert law != STransformLaw(law.powers, law.log_scale, law.parts) and "method='approximate'" in repr(law)
        assert (law @ FussCatalan(1)).method == (FussCatalan(1) @ law).method == "approximate"
    for layers in ((direct,), (dense, relu, dense, relu), (direct, dense, direct), (behind, behind), (linear, relu)):
        law = jacobian_law(net(*layers))
        assert law.method == law.log.method == FussCatalan(3).method == "limit" and "method" not in repr(law)


def test_slopes_of_one_value_are_the_mask():
    """The u of relu's mask by its moment generating function, λ = 1 for half of the units, beside its closed form."""
    mask = Diagonal(np.array([1.0]), np.array([0.5]))
    terms = ((Fraction(0), 1),)  # 1/S = (1/2 + v), of a Gaussian matrix (1 + v) and (1/2 + v)/(1 + v)
    for scale in (0.6, 3.0):
        implicit = ResidualBranch(scale, terms, 0.0, 1, ((mask.shared(0.5), 0.5),))
        closed = ResidualBranch(scale, ((Fraction(1, 2), 1),), 0.0)
        for p in (1e-6, 0.3, 0.9, 1.4, 80.0, *([-0.1 * abs(closed.lowest)] if scale < 1 else [])):
            pair = np.array([[p], [p - 1]], complex)
            got, want = (branch.local(pair, branch.start(pair)) for branch in (implicit, closed))
            assert got.log[0].real == pytest.approx(want.log[0].real, rel=1e-9, abs=1e-11)
            assert got.slope[0].real == pytest.approx(want.slope[0].real, rel=1e-8)


def test_a_leaky_branch_as_large_as_the_identity():
    """E φ′² σ² a² = 1: towards zero cdf ~ x^(2/3), as of I + W; the moments of quantiles are those of x(y)."""
    block = Residual(
        Sequential((activation("leaky_relu(0.5)"), Dense(64, init="lecun_normal"))), scale=(1 / 0.625) ** 0.5
    )
    law = jacobian_law(net(block))
    u = law.log.ppf([1e-13, 1e-10, 1e-7])
    np.testing.assert_allclose(np.diff(law.log.logpdf(u)) / np.diff(u), 2 / 3, rtol=1e-5)
    with np.errstate(all="ignore"):
        assert law.moment(2) == pytest.approx(math.exp(super(type(law), law)._log_moment(2)), rel=1e-9)


@pytest.mark.parametrize("layers", [(Dense(128),), (Dense(16),)], ids=["wide", "narrow"])
def test_blocks_before_a_rectangular_matrix(layers):
    """The mean is a product; quantiles and moments are those of one law."""
    law = jacobian_law(net(*branch_net("tanh", 64).layers, *layers))
    zero = sum(mass for _, mass in law.atoms)
    levels = zero + (1 - zero) * np.array([0.01, 0.5, 0.99])
    np.testing.assert_allclose(law.cdf(law.ppf(levels)), levels, rtol=1e-9)
    assert zero == pytest.approx(0.5 if law.atoms else 0, abs=1e-12)
    assert law.moment(2) == pytest.approx(law._mass * math.exp(super(type(law), law)._log_moment(2)), rel=1e-6)


def test_blocks_have_variances_of_their_own():
    """E x of three tanh blocks is the product over the variances 1, q₂, q₃ that grow along them."""
    g = np.arange(-12, 12, 0.01)
    weight = 0.01 * np.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)
    q, mean = 1.0, 1.0
    for _ in range(3):
        mean *= 1 + 0.25 * weight @ (1 / np.cosh(math.sqrt(q) * g) ** 4)
        q += 0.25 * weight @ np.tanh(math.sqrt(q) * g) ** 2
    assert jacobian_law(branch_net("tanh", 64, blocks=3)).mean == pytest.approx(mean, rel=1e-8)


def test_dropout_is_a_mask():
    """A mask of share 0.8 over 0.8²: moments of one Gaussian matrix, by the ratio of a smaller one."""
    law = jacobian_law(net(Dense(64, init="lecun_normal"), Dropout(0.2)))
    small = MarchenkoPastur(0.8) * (1 / 0.64)
    np.testing.assert_allclose(law.atoms, ((0.0, 0.2),), rtol=1e-9)
    np.testing.assert_allclose(law.nonzero.pdf([0.3, 1, 4]), small.pdf([0.3, 1, 4]), rtol=1e-10)


def test_biases_and_depth_set_the_slopes_of_tanh():
    """E x = Π σ_w² E φ′² at the mean-field variances, by the trapezoidal rule."""
    g = np.arange(-12, 12, 0.01)
    weight = 0.01 * np.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)
    q, mean = 1.0, 1.0
    for _ in range(4):
        q = 1.5**2 * q + 0.1
        mean *= 1.5**2 * weight @ (1 / np.cosh(math.sqrt(q) * g) ** 4)
        q = weight @ np.tanh(math.sqrt(q) * g) ** 2
    law = jacobian_law(mlp(4, 64, "tanh", init=initialization("lecun_normal", gain=1.5), bias=0.1))
    assert law.mean == pytest.approx(mean, rel=1e-8)
    assert law.support[0] == 0


def test_a_density_that_is_not_resolved_says_so():
    """A last tanh layer of few units after many: the bulk is right, far down the nodes of the density show."""
    layers = Dense(128, init="lecun_normal"), Activation("tanh"), Dense(60, init="orthogonal")
    law = jacobian_law(net(*layers, Dense(50, init="lecun_normal"), Activation("tanh"), width=60))
    assert law.accuracy(law.ppf([0.2, 0.5, 0.9])) < 1e-3
    with pytest.raises(ValueError, match="too little smooths the density of a factor"):
        law.moment(0.5)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (lambda: mlp(2, 8, batch_norm=True), "not available because of row"),
        (lambda: mlp(2, 8, layer_norm=True), "not available because of row"),
        (lambda: cnn(2, 8), "not available because the input has shape (3, 32, 32): only flat inputs have a law"),
        (lambda: resnet(20), "not available because the input has shape"),
        (lambda: net(Dense(8), Activation("relu"), Activation("tanh")), "acts on units that are not Gaussian"),
        (lambda: net(BatchNorm(), Dense(8)), "free probability has no rule for it"),
        (lambda: net(Residual(Sequential((Activation("relu"),)))), "its branch has no Dense layer"),
        (lambda: mlp(2, 8, "selu", init="orthogonal"), "atoms of the factors leave none at x = 1.21"),
        (
            lambda: net(Residual(Sequential((Dense(64), Residual(Sequential((Dense(64),))))))),
            "a block is in its branch",
        ),
        (
            lambda: net(Residual(Sequential((Activation("tanh"), Dense(64, init="orthogonal"))))),
            "its branch is orthogonal",
        ),
        (
            lambda: net(Residual(Sequential((activation("relu6"), Dense(64, init="he_normal"))))),
            "its branch weighs as much as the identity but for less than 1e-5",
        ),
        (
            lambda: net(Residual(Sequential((Dense(64),)), scale=1e-200)),
            "its branch weighs 1.41e-200 times",
        ),
        (lambda: net(Residual(Sequential((Dense(64),)), scale=1e200)), "one of 1e-08 to 1e+50 has a law"),
        (lambda: net(Residual(Sequential((Activation("relu"), Dense(64))), scale=1e-10)), "weighs 1e-10 times"),
        (lambda: net(Residual(Sequential((Activation("tanh"), Dense(64))), scale=1e3)), "one of 1e-08 to 30 has a law"),
        (
            lambda: mlp(2, 8, "tanh", initialization("he_normal", gain=1e6)),
            "(tanh): tanh has no law for inputs",
        ),
        (lambda: net(Residual(Sequential((Dense(32),)), shortcut=Sequential((Dense(32),)))), "identity shortcuts"),
        (
            lambda: net(Dense(8), Join(((), (Dense(4),)))),
            "row 1.concatenate (concatenate): free probability has no rule",
        ),
        (lambda: net(Dense(8), Unknown("sort", (8,))), "row 1 (sort): free probability has no rule for it"),
    ],
)
def test_refusals_name_the_row(description, message):
    with pytest.raises(ValueError) as refusal:
        jacobian_law(description())
    text = str(refusal.value)
    assert text.startswith("not available because") and message in text and "\n" not in text


def test_batch_norm_in_evaluation_mode_is_a_factor():
    layers = mlp(2, 8).layers
    law, scaled = (
        jacobian_law(net(*layers)),
        jacobian_law(net(BatchNorm(epsilon=3.0, gamma=4.0, training=False), *layers)),
    )
    np.testing.assert_allclose(scaled.ppf([0.6, 0.9]), 4 * law.ppf([0.6, 0.9]), rtol=1e-12)


@pytest.mark.parametrize(
    ("slope", "depth"),
    [
        *((slope, depth) for slope in ("0.1", "0.01", "-0.5") for depth in (95, 100, 102)),
        ("-0.5", 1000),
        ("0.01", 10_000),
    ],
)
def test_deep_leaky_networks(slope, depth):
    """E ln x of the law is that of its layers: 2 ln of a Gaussian entry's share and ln of a slope squared."""
    law = jacobian_law(mlp(depth, 30, f"leaky_relu({slope})"))
    levels = np.linspace(0.01, 0.99, 25)
    quantiles = law.log.ppf(levels)
    assert np.all(np.diff(quantiles) > 0)
    np.testing.assert_allclose(law.log.cdf(quantiles), levels, rtol=1e-9)
    mean = math.log(2) - 1 + math.log(abs(float(slope)))  # E ln of a factor FussCatalan(1) is −1, He's gain 2
    assert law.log.mean == pytest.approx(depth * mean, rel=1e-6)


def test_variances_of_deep_networks():
    assert jacobian_law(mlp(1000, 30)).var == pytest.approx(2000, rel=1e-9)
    huge = jacobian_law(mlp(3, 30, "linear", initialization("lecun_normal", gain=1e80)))
    assert huge.var == math.inf and huge.log_moment(2) == pytest.approx(math.log(4) + 960 * math.log(10))


def test_masks_on_the_same_units_are_no_free_factors():
    for layers in ((Dense(8), activation("relu"), Dropout(0.5)), (Dropout(0.5), Dropout(0.5), Dense(8))):
        with pytest.raises(ValueError, match="acts on the same units as that of the row before"):
            jacobian_law(net(*layers))
    assert jacobian_law(net(Dense(64), Dropout(0.0), activation("relu"))) == jacobian_law(mlp(1, 64))


@pytest.mark.parametrize("scale", [0.3, 1.0, 10.0])
def test_the_gap_of_one_block_of_relu(scale):
    """JᵀJ − 1 of I + aWD is zero on half of the diagonal: as many positive as negative eigenvalues, a gap above 1.

    There Im p is rounding, and its integral uncertain by 1e-11.
    """
    law = jacobian_law(net(Residual(Sequential((activation("relu"), Dense(64))), scale=scale)))
    levels = np.r_[np.linspace(0.01, 0.49, 13), 0.5, np.linspace(0.51, 0.99, 13)]
    quantiles = law.ppf(levels)
    assert np.all(np.diff(quantiles) > 0) and quantiles[12] < 1 < quantiles[14]
    np.testing.assert_allclose(law.cdf(quantiles), levels, rtol=1e-9)
    around = law.cdf(np.exp(np.linspace(law.log.ppf(0.4), law.log.ppf(0.6), 400)))
    assert np.all(np.diff(around) > -1e-10)
    assert law.cdf(1 + 1e-6) == pytest.approx(0.5, abs=1e-9)
