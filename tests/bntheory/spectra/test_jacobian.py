"""Laws read off descriptions: closed forms, exact moments at finite width, and refusals by name."""

import math

import mpmath as mp
import numpy as np
import pytest

from bntheory.activations import Activation, activation
from bntheory.initializations import initialization
from bntheory.layers import BatchNorm, Dense, Dropout, Unknown
from bntheory.networks import Join, Residual, Sequential, cnn, mlp, resnet
from bntheory.spectra.finite_size import finite_size_moments
from bntheory.spectra.fuss_catalan import FussCatalan, MarchenkoPastur
from bntheory.spectra.jacobian import jacobian_law


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
        return min(found, key=lambda density: abs(density - guess))


def test_relu_branches():
    """x + 0.7 W relu(x), three blocks: moments of simulated networks, to three digits."""
    branch = Sequential((Activation("relu"), Dense(64, init="he_normal")))
    law = jacobian_law(net(*[Residual(branch, scale=0.7)] * 3))
    assert [law.moment(k) for k in (1, 2, 3)] == pytest.approx([3.308, 32.5, 454], rel=2e-3)  # three digits
    assert law.mean == pytest.approx(1.49**3, rel=1e-12)
    two = Sequential((Activation("relu"), Dense(64), Activation("relu"), Dense(64)))
    assert jacobian_law(net(Residual(two))).mean == pytest.approx(2, rel=1e-12)


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
        (lambda: mlp(2, 8, "tanh", residual=True), "slopes that are not 0 or 1 are in its branch"),
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


@pytest.mark.parametrize("depth", [95, 100, 102, 1000, 10_000])
@pytest.mark.parametrize("slope", ["0.1", "0.01", "-0.5"])
def test_deep_leaky_networks(depth, slope):
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


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0, 10.0])
def test_the_gap_of_one_block_of_relu(scale):
    """JᵀJ − 1 of I + aWD is zero on half of the diagonal: as many positive as negative eigenvalues, a gap above 1.

    There Im p is rounding, and its integral uncertain by 1e-11.
    """
    law = jacobian_law(net(Residual(Sequential((activation("relu"), Dense(64))), scale=scale)))
    levels = np.r_[np.linspace(0.01, 0.49, 13), 0.5, np.linspace(0.51, 0.99, 13)]
    quantiles = law.ppf(levels)
    assert np.all(np.diff(quantiles) > 0) and quantiles[12] < 1 < quantiles[14]
    np.testing.assert_allclose(law.cdf(quantiles), levels, rtol=1e-9)
    around = law.cdf(np.exp(np.linspace(law.log.ppf(0.4), law.log.ppf(0.6), 2000)))
    assert np.all(np.diff(around) > -1e-10)
    assert law.cdf(1 + 1e-6) == pytest.approx(0.5, abs=1e-9)
