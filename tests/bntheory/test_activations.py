"""Every activation against mpmath, closed forms, torch and limits that are known by other means."""

import json
import math
import pickle

import mpmath as mp
import numpy as np
import pytest
from scipy import integrate, special

from bntheory.activations import KNOWN, Activation, activation

LEAKY = [Activation("leaky_relu", slope) for slope in (0.2, -1.0, 3.0)]
HOMOGENEOUS = [activation(name) for name in ("linear", "relu", "leaky_relu")] + LEAKY
NAMED = [activation(name) for name in KNOWN if name not in ("linear", "relu", "leaky_relu")]
KINKED = [phi for phi in NAMED if phi.kinks]
SMOOTH = [phi for phi in NAMED if not phi.kinks]
EVERY = [*HOMOGENEOUS, *NAMED, Activation("elu", 0.3)]
GROWING = [phi for phi in SMOOTH if phi.name in ("gelu", "silu", "elu", "selu", "softplus", "mish", "gelu_tanh")]
every = pytest.mark.parametrize("phi", EVERY, ids=str)
smooth = pytest.mark.parametrize("phi", SMOOTH, ids=str)
named = pytest.mark.parametrize("phi", NAMED, ids=str)
kinked = pytest.mark.parametrize("phi", KINKED, ids=str)
homogeneous = pytest.mark.parametrize("phi", HOMOGENEOUS, ids=str)

SCALE, ALPHA = mp.mpf("1.0507009873554804934193349852946"), mp.mpf("1.6732632423543772848170429916717")
MP_FUNCTIONS = {
    "tanh": (mp.tanh, lambda x: mp.sech(x) ** 2),
    "erf": (mp.erf, lambda x: 2 / mp.sqrt(mp.pi) * mp.exp(-x * x)),
    "sigmoid": (lambda x: 1 / (1 + mp.exp(-x)), lambda x: mp.sech(x / 2) ** 2 / 4),
    "gelu": (lambda x: x * mp.ncdf(x), lambda x: mp.ncdf(x) + x * mp.npdf(x)),
    "silu": (lambda x: x / (1 + mp.exp(-x)), lambda x: 1 / (1 + mp.exp(-x)) + x * mp.sech(x / 2) ** 2 / 4),
    "elu": (lambda x: x if x > 0 else mp.expm1(x), lambda x: 1 if x > 0 else mp.exp(x)),
    "selu": (
        lambda x: SCALE * (x if x > 0 else ALPHA * mp.expm1(x)),
        lambda x: SCALE * (1 if x > 0 else ALPHA * mp.exp(x)),
    ),
    "softplus": (lambda x: max(x, 0) + mp.log1p(mp.exp(-abs(x))), lambda x: 1 / (1 + mp.exp(-x))),
    "softsign": (lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2),
    "mish": (
        lambda x: x * mp.tanh(mp.log1p(mp.exp(x))),
        lambda x: mp.tanh(mp.log1p(mp.exp(x))) + x * mp.sech(mp.log1p(mp.exp(x))) ** 2 / (1 + mp.exp(-x)),
    ),
    "gelu_tanh": (
        lambda x: x * (1 + mp.tanh(mp_inner(x))) / 2,
        lambda x: (
            (1 + mp.tanh(mp_inner(x))) / 2
            + x * mp.sech(mp_inner(x)) ** 2 / 2 * mp.sqrt(2 / mp.pi) * (1 + 3 * mp.mpf("0.044715") * x * x)
        ),
    ),
    "logsigmoid": (lambda x: min(x, 0) - mp.log1p(mp.exp(-abs(x))), lambda x: 1 / (1 + mp.exp(x))),
    "tanhshrink": (lambda x: mp_accurately(lambda y: y - mp.tanh(y), x), lambda x: mp.tanh(x) ** 2),
    "relu6": (lambda x: min(max(x, 0), 6), lambda x: int(0 < x < 6)),
    "hardtanh": (lambda x: min(max(x, -1), 1), lambda x: int(-1 < x < 1)),
    "hardsigmoid": (lambda x: min(max(x + 3, 0), 6) / 6, lambda x: mp.mpf(int(-3 < x < 3)) / 6),
    "hardswish": (
        lambda x: x * min(max(x + 3, 0), 6) / 6,
        lambda x: x / 3 + mp.mpf(1) / 2 if -3 < x < 3 else int(x > 0),
    ),
}


def mp_inner(x):
    return mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)


def mp_accurately(function, x):
    with mp.workdps(90):
        return function(x)


def own(phi: Activation) -> Activation:
    """The same nonlinearity handed in as two functions."""
    return Activation.from_function(f"own_{phi.name}", phi.phi, phi.dphi, phi.kinks)


def log_distance_at_angle(log_q1: float, log_q2: float, angle: float) -> float:
    """ln d of two inputs that enclose ``angle``."""
    gap = math.exp(log_q1 / 2) - math.exp(log_q2 / 2)
    return math.log(gap**2 + 4 * math.exp((log_q1 + log_q2) / 2) * math.sin(angle / 2) ** 2)


# --- φ and φ′ ---------------------------------------------------------------------------------------------------------


@every
def test_phi_and_dphi_agree_with_torch(phi):
    torch = pytest.importorskip("torch")
    modules = {
        "linear": torch.nn.Identity(), "relu": torch.nn.ReLU(), "tanh": torch.nn.Tanh(), "sigmoid": torch.nn.Sigmoid(),
        "gelu": torch.nn.GELU(), "silu": torch.nn.SiLU(), "elu": torch.nn.ELU(), "selu": torch.nn.SELU(),
        # torch's softplus is x itself above a threshold, by default 20
        "softplus": torch.nn.Softplus(threshold=50), "erf": torch.erf, "leaky_relu": torch.nn.LeakyReLU(phi.slope or 0),
        "softsign": torch.nn.Softsign(), "mish": torch.nn.Mish(), "gelu_tanh": torch.nn.GELU("tanh"),
        "logsigmoid": torch.nn.LogSigmoid(), "tanhshrink": torch.nn.Tanhshrink(), "relu6": torch.nn.ReLU6(),
        "hardtanh": torch.nn.Hardtanh(), "hardsigmoid": torch.nn.Hardsigmoid(), "hardswish": torch.nn.Hardswish(),
    }  # fmt: skip
    if phi.name == "elu" and phi.slope is not None:
        modules["elu"] = torch.nn.ELU(phi.slope)
    x = np.concatenate([np.linspace(-12, 12, 481), [-700.0, 700.0, 1e-9, -1e-9]])  # 0 is among them
    x = x[~np.isin(x, phi.kinks)]  # where torch takes the slope on the one side or the other
    leaf = torch.tensor(x, requires_grad=True)
    values = modules[phi.name](leaf)
    values.sum().backward()
    size = 1e-15 if phi.name != "mish" else 2e-14  # torch goes through ln and tanh
    np.testing.assert_allclose(phi.phi(x), values.detach().numpy(), rtol=1e-14, atol=size)  # and 1 + erf
    size = {"hardsigmoid": 1e-8, "gelu_tanh": 1e-14}.get(phi.name, 1e-15)  # torch has a float32 1/6, and 1 − tanh²
    np.testing.assert_allclose(phi.dphi(x), leaf.grad.numpy(), rtol=1e-13, atol=size)


@every
def test_dphi_is_the_derivative(phi):
    x = np.array([-9.0, -3.1, -1.1, -0.4, -0.01, 0.02, 0.3, 1.1, 2.5, 8.0])
    h = 1e-3 * np.minimum(1, np.abs(x))
    near, far = ((phi.phi(x + k * h) - phi.phi(x - k * h)) / (2 * k * h) for k in (1, 2))
    np.testing.assert_allclose(phi.dphi(x), (4 * near - far) / 3, rtol=1e-9, atol=1e-11)


@every
def test_no_warning_and_no_nan_at_any_argument(phi):
    x = np.array([[-1e300, -1e30, -800.0, -1e-300], [0.0, 1e-300, 800.0, 1e300]])
    assert phi.phi(x).shape == phi.dphi(x).shape == x.shape
    assert np.all(np.isfinite(phi.phi(x))) and np.all(np.isfinite(phi.dphi(x)))
    assert np.ndim(phi.phi(0.5)) == np.ndim(phi.dphi(1)) == 0
    assert phi.phi(np.ones(3, np.float32)).dtype == phi.dphi(np.ones(3, np.float32)).dtype == np.float32


def test_relu_has_slope_zero_at_zero():
    assert activation("relu").dphi(0.0) == 0
    assert activation("leaky_relu(0.2)").dphi(0.0) == 0.2


@homogeneous
def test_homogeneous_slopes(phi):
    right, left = phi.homogeneous_slopes
    assert (phi.phi(3.0), phi.phi(-3.0)) == (3 * right, -3 * left)


@smooth
def test_others_are_not_homogeneous(phi):
    assert phi.homogeneous_slopes is None


# --- one input --------------------------------------------------------------------------------------------------------


def mp_moments(name: str, log_q: float) -> list:
    """E φ, E φ² and E φ′² by mpmath, in pieces that follow both scales, 1 and √q."""
    phi, dphi = MP_FUNCTIONS[name]
    root = mp.exp(mp.mpf(log_q) / 2)
    marks = [scale * factor for scale in (mp.mpf(1), root) for factor in (0, 0.125, 1, 4, 16)]
    marks = sorted({*marks, *(mp.mpf(abs(kink)) for kink in activation(name).kinks)})
    marks = [mark for mark in marks if mark < 11 * root] + [11 * root]
    ends = marks[:2]
    for mark in marks[2:]:
        while mark > 60 * ends[-1]:
            ends.append(60 * ends[-1])
        ends.append(mark)

    def expectation(f):
        size = max(abs(f(root)), abs(f(-root))) or 1  # mp.quad stops at an absolute error
        return mp.quad(lambda x: (f(x) + f(-x)) / size * mp.npdf(x / root) / root, ends) * size

    return [expectation(phi), expectation(lambda x: phi(x) ** 2), expectation(lambda x: dphi(x) ** 2)]


@named
@pytest.mark.parametrize("log_q", [-60.0, -5.0, 3.0, 60.0])
def test_moments_against_mpmath(phi, log_q):
    with mp.workdps(36 if log_q == -60 else 20):  # φ(x) + φ(−x) cancels as x² at x = e^{−30}
        mean, second, derivative = mp_moments(phi.name, log_q)
        ours = phi.log_moments(log_q)
        got = [float(ours.mean_sign) * mp.exp(float(ours.log_mean)), mp.exp(float(ours.log_second))]
        assert abs(got[1] / second - 1) < 1e-13 + 4e-16 * abs(float(ours.log_second))
        assert abs(mp.exp(float(ours.log_derivative)) / derivative - 1) < (1e-12 if phi.name == "softsign" else 1e-13)
        if phi.name in ODD:
            assert got[0] == 0 and ours.mean_sign == 0
        else:
            assert abs(got[0] - mean) < 1e-13 * (mp.sqrt(second) if phi.name == "selu" else abs(mean))


def test_selu_preserves_a_standard_normal():
    moments = activation("selu").log_moments(0.0)
    assert math.exp(moments.log_mean) < 1e-14
    assert abs(moments.log_second) < 1e-14


@homogeneous
@pytest.mark.parametrize("log_q", [-1e6, -20.0, 0.0, 5.5, 1e6])
def test_homogeneous_moments(phi, log_q):
    right, left = phi.homogeneous_slopes
    moments = phi.log_moments(log_q)
    assert moments.mean_sign == np.sign(right - left)
    half = integrate.quad(lambda g: g * math.exp(-g * g / 2) / math.sqrt(2 * math.pi), 0, np.inf)[0]
    if right != left:
        assert moments.log_mean == pytest.approx(math.log(abs(right - left) * half) + log_q / 2, abs=1e-9, rel=1e-13)
    assert moments.log_derivative == pytest.approx(math.log((right**2 + left**2) / 2), abs=1e-15)
    assert moments.log_second == pytest.approx(moments.log_derivative + log_q, rel=1e-15)


@pytest.mark.parametrize("log_q", [-4e4, -900.0, -61.0, -59.0, -30.0, -1.0, 0.0, 10.0, 45.0, 59.5, 60.5, 900.0, 4e4])
def test_erf_moments_in_closed_form(log_q):
    with mp.workdps(40):  # Williams 1997: E erf² = (2/π) asin(2q/(1+2q)), in a form that does not cancel for large q
        q = mp.exp(mp.mpf(log_q))
        second = 2 / mp.pi * mp.atan(2 * q / mp.sqrt(1 + 4 * q))
        derivative = 4 / mp.pi / mp.sqrt(1 + 4 * q)
        moments = activation("erf").log_moments(log_q)
        assert abs(float(moments.log_second) - mp.log(second)) < 1e-13 + 2e-16 * abs(log_q)
        assert abs(float(moments.log_derivative) - mp.log(derivative)) < 1e-13 + 2e-16 * abs(log_q)


ODD = ("tanh", "erf", "softsign", "tanhshrink", "hardtanh")
PI2 = 2 * math.pi
# leading behaviour (factor, exponent of q) of E φ, E φ² and E φ′² as q → 0 and as q → ∞; factor 0 for an odd φ's mean
SMALL = {
    "tanh": ((0, 0), (1, 1), (1, 0)),
    "erf": ((0, 0), (4 / math.pi, 1), (4 / math.pi, 0)),
    "sigmoid": ((1 / 2, 0), (1 / 4, 0), (1 / 16, 0)),
    "gelu": ((1 / math.sqrt(PI2), 1), (1 / 4, 1), (1 / 4, 0)),
    "silu": ((1 / 4, 1), (1 / 4, 1), (1 / 4, 0)),
    "elu": ((1 / 4, 1), (1, 1), (1, 0)),
    "selu": (
        (SCALE * (1 - ALPHA) / math.sqrt(PI2), 0.5),
        (SCALE**2 * (1 + ALPHA**2) / 2, 1),
        (SCALE**2 * (1 + ALPHA**2) / 2, 0),
    ),
    "softplus": ((math.log(2), 0), (math.log(2) ** 2, 0), (1 / 4, 0)),
    "softsign": ((0, 0), (1, 1), (1, 0)),
    "mish": ((0.32, 1), (0.36, 1), (0.36, 0)),
    "gelu_tanh": ((1 / math.sqrt(PI2), 1), (1 / 4, 1), (1 / 4, 0)),
    "logsigmoid": ((-math.log(2), 0), (math.log(2) ** 2, 0), (1 / 4, 0)),
    "tanhshrink": ((0, 0), (5 / 3, 3), (3, 2)),
    "relu6": ((1 / math.sqrt(PI2), 0.5), (1 / 2, 1), (1 / 2, 0)),
    "hardtanh": ((0, 0), (1, 1), (1, 0)),
    "hardsigmoid": ((1 / 2, 0), (1 / 4, 0), (1 / 36, 0)),
    "hardswish": ((1 / 6, 1), (1 / 4, 1), (1 / 4, 0)),
}
RAMP = ((1 / math.sqrt(PI2), 0.5), (1 / 2, 1), (1 / 2, 0))
LARGE = {
    "tanh": ((0, 0), (1, 0), (4 / 3 / math.sqrt(PI2), -0.5)),
    "erf": ((0, 0), (1, 0), (math.sqrt(8 / math.pi) / math.sqrt(PI2), -0.5)),
    "sigmoid": ((1 / 2, 0), (1 / 2, 0), (1 / 6 / math.sqrt(PI2), -0.5)),
    "selu": ((SCALE / math.sqrt(PI2), 0.5), (SCALE**2 / 2, 1), (SCALE**2 / 2, 0)),
    **dict.fromkeys(("gelu", "silu", "elu", "softplus", "mish", "gelu_tanh", "hardswish"), RAMP),
    "softsign": ((0, 0), (1, 0), (2 / 3 / math.sqrt(PI2), -0.5)),
    "logsigmoid": ((-1 / math.sqrt(PI2), 0.5), (1 / 2, 1), (1 / 2, 0)),
    "tanhshrink": ((0, 0), (1, 1), (1, 0)),
    "relu6": ((3, 0), (18, 0), (6 / math.sqrt(PI2), -0.5)),
    "hardtanh": ((0, 0), (1, 0), (2 / math.sqrt(PI2), -0.5)),
    "hardsigmoid": ((1 / 2, 0), (1 / 2, 0), (1 / 6 / math.sqrt(PI2), -0.5)),
}


@named
@pytest.mark.parametrize("made", [lambda phi: phi, own], ids=["built-in", "from_function"])
def test_leading_power_laws(phi, made):
    size = 1e-7 if made is own else 1e-11 if phi.name == "softsign" else 1e-12
    for log_q in (-1e6, -40000.0, -75.5, 75.5, 40000.0, 1e6):
        sign, *logs = made(phi).log_moments(log_q)
        laws = (SMALL if log_q < 0 else LARGE)[phi.name]
        assert sign == np.sign(float(laws[0][0])), log_q
        for log, (factor, power) in zip(logs, laws, strict=True):
            expected = float(mp.log(abs(factor))) + power * log_q if factor else -math.inf
            assert log == pytest.approx(expected, rel=1e-15, abs=size), (log_q, power)


@every
def test_moments_at_zero_infinite_and_unknown_variance(phi):
    moments = phi.log_moments([-np.inf, np.nan, np.inf])
    at_zero = float(phi.phi(0.0))
    assert moments.mean_sign[0] == np.sign(at_zero)
    assert np.exp(moments.log_mean[0]) == pytest.approx(abs(at_zero), rel=1e-13)
    assert np.exp(moments.log_second[0]) == pytest.approx(at_zero**2, rel=1e-13)
    assert all(np.isnan(part[1]) for part in moments)
    assert moments.log_second[2] in (np.inf, pytest.approx(phi.log_moments(1e6).log_second))


@every
def test_moments_of_arrays_are_those_of_scalars(phi):
    log_q = np.array([[-1e6, -61.0, -60.0], [-17.3, 0.4, 9.0], [59.9, 70.0, 1e6]])
    together = phi.log_moments(log_q)
    assert all(part.shape == log_q.shape for part in together)
    for index in np.ndindex(log_q.shape):
        alone = phi.log_moments(log_q[index])
        assert all(np.ndim(part) == 0 for part in alone)
        np.testing.assert_allclose([part[index] for part in together], alone, rtol=1e-14, atol=2e-14)
    assert phi.log_moments(np.linspace(-70, 70, 1000)).log_second.shape == (1000,)
    assert phi.log_moments([]).log_mean.shape == (0,)


@smooth
def test_an_own_function_has_the_moments_of_the_built_in(phi):
    log_q = np.array([-60.0, -31.0, -12.0, 0.5, 8.0, 60.0])
    ours, theirs = phi.log_moments(log_q), own(phi).log_moments(log_q)
    np.testing.assert_allclose(theirs.log_second, ours.log_second, rtol=0, atol=1e-14)
    np.testing.assert_allclose(theirs.log_derivative, ours.log_derivative, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(theirs.mean_sign, ours.mean_sign)
    finite = np.isfinite(ours.log_mean)
    np.testing.assert_allclose(theirs.log_mean[finite], ours.log_mean[finite], rtol=0, atol=1e-7)


def test_a_constant_forgets_its_input():
    constant = Activation.from_function("constant", np.ones_like, np.zeros_like)
    for log_q in (-1000.0, 0.0, 1000.0):
        assert constant.log_moments(log_q) == (1, pytest.approx(0, abs=1e-13), pytest.approx(0, abs=1e-13), -np.inf)
        assert constant.log_distance(log_q, log_q, log_q) == constant.log_distance(log_q, log_q, log_q - 700) == -np.inf


def test_powers_of_own_functions_are_found():
    cube = Activation.from_function("cube", lambda x: x**3, lambda x: 3 * x**2)
    moments = cube.log_moments([-5000.0, 0.0, 5000.0])
    np.testing.assert_allclose(moments.log_second, math.log(15) + 3 * np.array([-5000, 0, 5000]), rtol=1e-13)
    np.testing.assert_allclose(moments.log_derivative, math.log(27) + 2 * np.array([-5000, 0, 5000]), rtol=1e-13)
    assert np.all(moments.mean_sign == 0)
    # u, v independent: E (u³ − v³)² = 30 q³
    for log_q in (-300.0, -1.0, 300.0):
        assert cube.log_distance(log_q, log_q, log_q + math.log(2)) == pytest.approx(math.log(30) + 3 * log_q, abs=1e-8)


# --- two inputs -------------------------------------------------------------------------------------------------------


ROUGH = ("softsign", "tanhshrink")  # to 2e-9, as documented: a pole at distance 1, and a third power at 0


def polar_log_distance(phi, q1: float, q2: float, angle: float) -> float:
    """Independent quadrature in polar coordinates, where the kinks u = 0 and v = 0 are at fixed angles."""
    kinks = np.sort(np.mod([math.pi / 2, -math.pi / 2, angle + math.pi / 2, angle - math.pi / 2], 2 * math.pi))
    kinks = np.append(kinks, kinks[0] + 2 * math.pi)
    halvings = 2.0 ** -np.arange(1, max(math.log2(10 * math.sqrt(q1)) + 4, 6))
    graded = np.outer(np.diff(kinks), halvings)
    edges = np.concatenate([kinks, (kinks[:-1, None] + graded).ravel(), (kinks[1:, None] - graded).ravel()])
    psi, psi_weights = composite_gauss(np.unique(edges))
    r, r_weights = composite_gauss(np.concatenate([[0], halvings[::-1], np.arange(1, 10)]))
    u, v = math.sqrt(q1) * np.outer(r, np.cos(psi)), math.sqrt(q2) * np.outer(r, np.cos(psi - angle))
    return math.log(r_weights * r * np.exp(-r * r / 2) @ (phi(u) - phi(v)) ** 2 @ psi_weights / (2 * math.pi))


def composite_gauss(edges):
    nodes, weights = np.polynomial.legendre.leggauss(10)
    width = np.diff(edges)[:, None]
    return (edges[:-1, None] + width * (nodes + 1) / 2).ravel(), (width * weights / 2).ravel()


def test_the_polar_oracle_against_an_adaptive_one():
    q1, q2, angle = 2.0, 0.7, 1.1
    density = lambda g, k: math.exp(-(g * g + k * k) / 2) / (2 * math.pi)  # noqa: E731

    def integrand(g, k):
        v = math.sqrt(q2) * (math.cos(angle) * g + math.sin(angle) * k)
        return (math.tanh(math.sqrt(q1) * g) - math.tanh(v)) ** 2 * density(g, k)

    expected = integrate.dblquad(integrand, -9, 9, -9, 9, epsabs=1e-11)[0]
    assert polar_log_distance(np.tanh, q1, q2, angle) == pytest.approx(math.log(expected), abs=1e-9)


@smooth
def test_distance_against_the_polar_oracle(phi):
    for log_q1, log_q2, angle in (
        (0.0, 0.0, 0.01), (0.0, 0.0, 3.0), (1.0, -0.5, 1.3), (4.0, 4.0, 0.2), (-10.0, -10.0, 0.5), (10.0, 10.0, 0.05),
        (10.0, 9.9, 2.5), (10.0, -10.0, 1.0), (5.0, -1.0, 0.02),
    ):  # fmt: skip
        log_d = log_distance_at_angle(log_q1, log_q2, angle)
        expected = polar_log_distance(phi.phi, math.exp(log_q1), math.exp(log_q2), angle)
        found = phi.log_distance(log_q1, log_q2, log_d)
        assert found == pytest.approx(expected, abs=2e-9 if phi.name in ROUGH else 2e-10), (log_q1, log_q2, angle)
        assert phi.log_distance(log_q2, log_q1, log_d) == found, (log_q1, log_q2, angle)


def log_distance_between_kinks(phi, q1, q2, rho):
    """Independent quadrature over u and over v given u, on panels that end at the kinks."""
    ends = np.array(sorted({0.0, *phi.kinks}))
    first, second = math.sqrt(q1), math.sqrt(q2)
    rest, total = math.sqrt(1 - rho**2) * second, 0.0
    about = np.add.outer(ends, rest / abs(rho) * first / second * np.linspace(-8, 8, 17)).ravel()
    outer = np.unique(np.clip([*ends, *about, *np.linspace(-9 * first, 9 * first, 37)], -9 * first, 9 * first))
    for u, weight in zip(*composite_gauss(outer), strict=True):
        mean = rho * second * u / first
        inner = np.clip([*ends, *(mean + rest * np.linspace(-9, 9, 19))], mean - 9 * rest, mean + 9 * rest)
        v, weights = composite_gauss(np.unique(inner))
        density = np.exp(-(((v - mean) / rest) ** 2) / 2) / (rest * math.sqrt(2 * math.pi))
        square = weights * density @ (phi.phi(u) - phi.phi(v)) ** 2
        total += weight * math.exp(-u * u / (2 * q1)) / math.sqrt(2 * math.pi * q1) * square
    return math.log(total)


TWO = [(0, 0, 0.3), (2, 1, 0.8), (0, 0, 0.999), (3, -1, -0.5), (-2, -2, 0.9), (5, 5, 0.5), (1.3, 1.2, -0.9)]


@kinked
@pytest.mark.parametrize(("log_q1", "log_q2", "rho"), TWO)
def test_distances_across_kinks(phi, log_q1, log_q2, rho):
    q1, q2 = math.exp(log_q1), math.exp(log_q2)
    log_d = math.log(q1 + q2 - 2 * rho * math.sqrt(q1 * q2))
    expected = log_distance_between_kinks(phi, q1, q2, rho)
    assert phi.log_distance(log_q1, log_q2, log_d) == pytest.approx(expected, abs=2e-10)


def test_a_third_power_at_zero():
    """E (φ(u) − φ(v))² of tanhshrink at small q by Gauss–Hermite quadrature, exact for polynomials."""
    phi = activation("tanhshrink")
    g, weights = np.polynomial.hermite_e.hermegauss(60)
    for log_q, angle in ((-10, 0.5), (-10, 1.5), (-4, 0.5), (-10, 0.1)):
        u = np.exp(log_q / 2) * np.repeat(g[:, None], len(g), axis=1)
        v = math.cos(angle) * u + math.sin(angle) * u.T
        expected = weights @ (phi.phi(u) - phi.phi(v)) ** 2 @ weights / (2 * math.pi)
        log_d = log_distance_at_angle(log_q, log_q, angle)
        assert phi.log_distance(log_q, log_q, log_d) == pytest.approx(math.log(expected), abs=2e-9)


def test_elu_with_a_slope():
    steep = activation("elu(0.5)")
    assert steep == Activation("elu", 0.5) and str(steep) == "elu(0.5)" and Activation("elu", 1) == activation("elu")
    assert Activation.from_dict(json.loads(json.dumps(steep.to_dict()))) == steep
    assert steep.homogeneous_slopes is None and steep.phi(-1.0) == pytest.approx(0.5 * math.expm1(-1.0))
    log_q = np.array([-50.0, -1.0, 0.0, 4.0, 50.0])
    for mine, other in zip(steep.log_moments(log_q), own(steep).log_moments(log_q), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-7)


def test_kinks_are_checked():
    cut, slope = (lambda x: np.clip(x, -1, 1)), (lambda x: np.where(np.abs(x) < 1, 1.0, 0.0))
    for kinks, message in (
        ((), "smooth except at x = 0 and at its kinks, got kinks=()"),
        ((1e-3,), "kinks must be between 0.01 and 1000 in size"),
        (range(9), "kinks must be at most 8 numbers"),
        ((math.nan,), "kinks must be finite"),
    ):
        with pytest.raises(ValueError) as caught:
            Activation.from_function("cut", cut, slope, kinks)
        assert message in str(caught.value)
    with pytest.raises(ValueError, match="only an activation made from functions is told kinks"):
        Activation("tanh", kinks=(1.0,))
    jump = Activation.from_function
    with pytest.raises(ValueError, match="must be continuous"):
        jump("jump", lambda x: np.where(x > 2, 1.0, 0.0), np.zeros_like, kinks=(2,))


@pytest.mark.parametrize("name", ["tanh", "gelu"])
def test_kinks_where_there_are_none_change_nothing(name):
    """The two rules against one another, at all sizes."""
    phi = activation(name)
    told = Activation.from_function("told", phi.phi, phi.dphi, kinks=[5, 0.7, -2.0, 0])
    assert told.kinks == (-2.0, 0.7, 5.0)
    log_q = np.array([-1e3, -60.0, -20.0, -1.0, 0.0, 3.0, 20.0, 60.0, 1e3])
    for mine, other in zip(told.log_moments(log_q)[2:], phi.log_moments(log_q)[2:], strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-15, atol=2e-13)
    for pair in ((0, 0, -2), (0, 0, -40), (0, 0, -100), (5, 1, 4.9), (-10, -10, -12), (30, 29, 29), (70, 70, 10)):
        assert told.log_distance(*pair) == pytest.approx(phi.log_distance(*pair), abs=2e-10)


@every
def test_distance_of_independent_inputs(phi):
    """E (φ(u) − φ(v))² = E φ(u)² + E φ(v)² − 2 E φ(u) E φ(v); of small inputs where that does not cancel."""
    small = [] if phi.phi(0.0) else [(-55, -41)]
    for log_q1, log_q2 in [(0, 0), (7, -3), (-9, -9.5), (30, 29), *small, (70, 70)]:
        sign, log_mean, log_second, _ = phi.log_moments(np.array([log_q1, log_q2]))
        mean, second = sign * np.exp(log_mean), np.exp(log_second)
        expected = math.log(second.sum() - 2 * mean.prod())
        tolerance = (2e-9 if phi.name in ROUGH else 1e-9) + 1e-13 * second.max() / math.exp(expected)
        found = phi.log_distance(log_q1, log_q2, np.logaddexp(log_q1, log_q2))
        assert found == pytest.approx(expected, abs=tolerance), (log_q1, log_q2)


@every
def test_distance_to_the_zero_input(phi):
    """v = 0: E (φ(u) − φ(0))²."""
    at_zero = float(phi.phi(0.0))
    for log_q in (-12.0, 0.0, 6.0):
        sign, log_mean, log_second, _ = phi.log_moments(log_q)
        expected = np.exp(log_second) - 2 * at_zero * sign * np.exp(log_mean) + at_zero**2
        tolerance = 1e-9 * expected + 1e-15
        found = np.exp(phi.log_distance(log_q, -np.inf, log_q))
        assert found == pytest.approx(expected, abs=tolerance, rel=0), log_q


@every
def test_collapsing_inputs(phi):
    """d → 0: E (φ(u) − φ(v))² = d E φ′², up to the chance that a kink lies between u and v."""
    for log_q in (-1e5, -45.0, -8.0, 0.0, 10.0, 33.0):
        expected = float(phi.log_moments(log_q).log_derivative)
        for log_ratio in (-40.0, -45.9, -46.1, -700.0, -1e6):
            log_d = min(log_q, 0) + log_ratio
            ratio = phi.log_distance(log_q, log_q, log_d) - log_d
            rounding = 4e-16 * (abs(log_q) + abs(log_d))
            tolerance = (2e-9 if phi.name in ROUGH else 2e-10) + math.exp(log_ratio / 2) + rounding
            assert ratio == pytest.approx(expected, abs=tolerance), (log_q, log_ratio)


def half_line(f) -> float:
    """E f(g) for even f and a standard normal g."""
    g, weights = composite_gauss(np.append(0, np.geomspace(1e-4, 12, 80)))
    return float(weights @ (f(g) * np.exp(-g * g / 2)) * math.sqrt(2 / math.pi))


@smooth
@pytest.mark.parametrize("log_q", [-5.0, 0.0, 6.0])
def test_parallel_inputs(phi, log_q):
    """u = (1+ε) v, one integral."""
    more, root = 1.01, math.exp(log_q / 2)
    square = lambda x: (phi.phi(more * x) - phi.phi(x)) ** 2  # noqa: E731
    expected = half_line(lambda g: (square(root * g) + square(-root * g)) / 2)
    got = phi.log_distance(log_q + 2 * math.log(more), log_q, log_q + 2 * math.log(more - 1))
    assert got == pytest.approx(math.log(expected), abs=2e-9)


@smooth
@pytest.mark.parametrize("log_q", [0.0, 2.0])
def test_collapsing_parallel_inputs(phi, log_q):
    """ε → 0: E (φ(u) − φ(v))² = ε² E v² φ′(v)², which is not d E φ′²."""
    epsilon, root = 3e-11, math.exp(log_q / 2)
    square = lambda x: (x * phi.dphi(x)) ** 2  # noqa: E731
    expected = 2 * math.log(epsilon) + math.log(half_line(lambda g: (square(root * g) + square(-root * g)) / 2))
    got = phi.log_distance(log_q + 2 * math.log1p(epsilon), log_q, log_q + 2 * math.log(epsilon))
    assert got == pytest.approx(expected, abs=1e-4)  # ln q₁ − ln q₂ has lost that much to rounding
    assert abs(got - phi.log_distance(log_q, log_q, log_q + 2 * math.log(epsilon))) > 0.003


@smooth
@pytest.mark.parametrize("log_q", [-2.0, 3.0])
def test_opposite_inputs(phi, log_q):
    """u = −v: four times the second moment of the odd part."""
    root = math.exp(log_q / 2)
    expected = half_line(lambda g: (phi.phi(root * g) - phi.phi(-root * g)) ** 2)
    assert phi.log_distance(log_q, log_q, log_q + math.log(4)) == pytest.approx(math.log(expected), abs=1e-9)


@homogeneous
@pytest.mark.parametrize("log_ratio", [0.0, -1e-3, -3.0, -80.0])
def test_homogeneous_distance_against_cho_and_saul(phi, log_ratio):
    """E relu(u) relu(v) = √(q₁q₂) (sin θ + (π − θ) cos θ)/2π, and relu(−x) for the other half."""
    a, b = phi.homogeneous_slopes

    def expected(log_d):
        cosine = (1 + ratio**2 - mp.exp(mp.mpf(log_d))) / (2 * ratio)
        theta = mp.acos(max(-1, min(1, cosine)))
        same = ratio * (mp.sin(theta) + (mp.pi - theta) * mp.cos(theta)) / (2 * mp.pi)
        other = ratio * (mp.sin(theta) - theta * mp.cos(theta)) / (2 * mp.pi)
        return mp.log((1 + ratio**2) * (a * a + b * b) / 2 - 2 * ((a * a + b * b) * same - 2 * a * b * other))

    with mp.workdps(400):
        ratio = mp.exp(mp.mpf(log_ratio) / 2)
        for angle in ("1e-150", "1e-9", "0.0999", "0.1001", "1.2", "3.0", "3.14159"):
            log_d = float(mp.log((1 - ratio) ** 2 + 4 * ratio * mp.sin(mp.mpf(angle) / 2) ** 2))
            conditioning = abs(expected(log_d * (1 + mp.mpf(2) ** -52)) - expected(log_d))
            off = abs(phi.log_distance(0.0, log_ratio, log_d) - expected(log_d))
            assert off < 1e-13 + 5 * conditioning, angle


@pytest.mark.parametrize("shift", [-1e6, 1e6])
@homogeneous
def test_homogeneous_distance_scales(phi, shift):
    base = phi.log_distance(0.3, -0.2, -1.0)
    assert phi.log_distance(0.3 + shift, -0.2 + shift, -1.0 + shift) == pytest.approx(base + shift, abs=1e-9)


@pytest.mark.parametrize("log_q1, log_q2", [(0, 0), (2, -1), (-30, -30), (-300, -301), (12, 12), (35, 35), (9, -9)])
@pytest.mark.parametrize("angle", [1e-7, 0.05, 1.0, 2.2, 3.1])
def test_erf_distance_in_closed_form(log_q1, log_q2, angle):
    log_d = log_distance_at_angle(log_q1, log_q2, angle)
    with mp.workdps(700):

        def arcsine(log_d):
            q1, q2, d = (mp.exp(mp.mpf(log)) for log in (log_q1, log_q2, log_d))
            cross = mp.asin((q1 + q2 - d) / mp.sqrt((1 + 2 * q1) * (1 + 2 * q2)))
            return mp.log(2 / mp.pi * (mp.asin(2 * q1 / (1 + 2 * q1)) + mp.asin(2 * q2 / (1 + 2 * q2)) - 2 * cross))

        expected = arcsine(log_d)
        conditioning = abs(arcsine(log_d * (1 + mp.mpf(2) ** -52)) - expected)
    erf = activation("erf")
    assert abs(erf.log_distance(log_q1, log_q2, log_d) - expected) < 1e-12 + 3 * conditioning
    assert abs(own(erf).log_distance(log_q1, log_q2, log_d) - expected) < 1e-9 + 3 * conditioning


@pytest.mark.parametrize("phi", GROWING, ids=str)
@pytest.mark.parametrize("log_q1, log_q2, log_d", [(1e5, 1e5, 1e5), (1e5, 1e5, 0), (500, 3, 500), (51, 50, 51.5)])
def test_growing_activations_become_relu(phi, log_q1, log_q2, log_d):
    scale = 2 * math.log(SCALE) if phi.name == "selu" else 0.0
    relu = activation("relu").log_distance(log_q1, log_q2, log_d)
    assert phi.log_distance(log_q1, log_q2, log_d) == pytest.approx(relu + scale, abs=2e-8, rel=1e-14)


@smooth
def test_small_inputs_see_the_tangent(phi):
    if phi.name == "tanhshrink":
        pytest.skip("has none: its slope is 0 there")
    right, left = float(phi.dphi(1e-12)), float(phi.dphi(-1e-12))
    tangent = activation(f"leaky_relu({left / right})")
    for log_q1, log_q2, log_d in [(-5e4, -5e4, -5e4), (-42.0, -43.0, -43.5), (-45.0, -500.0, -45.0)]:
        expected = 2 * math.log(right) + tangent.log_distance(log_q1, log_q2, log_d)
        assert phi.log_distance(log_q1, log_q2, log_d) == pytest.approx(expected, abs=1e-8, rel=1e-14)


@pytest.mark.parametrize("name", ["tanh", "erf", "sigmoid"])
@pytest.mark.parametrize("log_q", [81.0, 130.0, 2000.0])
def test_bounded_activations_become_a_step(name, log_q):
    """jump² θ/π for d ≫ 1 and d ∫ φ′² dx / √(2πq) for d ≪ 1."""
    phi = activation(name)
    jump, energy = {"tanh": (2, 4 / 3), "erf": (2, math.sqrt(8 / math.pi)), "sigmoid": (1, 1 / 6)}[name]
    for angle in (2.0, 0.01, 1e-9):
        log_d = log_q + 2 * math.log(2 * math.sin(angle / 2))
        if log_d > 41:
            assert phi.log_distance(log_q, log_q, log_d) == pytest.approx(math.log(jump**2 * angle / math.pi), abs=1e-8)
    near = math.log(energy) - 0.5 * (math.log(2 * math.pi) + log_q) - 30
    assert phi.log_distance(log_q, log_q, -30.0) == pytest.approx(near, abs=1e-9)
    assert phi.log_distance(log_q, 2.0, log_q) == pytest.approx(
        math.log(float(np.exp(phi.log_moments(2.0).log_second)) + (1 if jump == 2 else 0)), abs=1e-8
    )


@every
def test_distances_of_arrays(phi):
    log_q = np.array([0.0, 1.0, -np.inf])
    log_d = np.array([[-3.0], [-1.0]])
    together = phi.log_distance(0.0, log_q[:2], np.maximum(log_d, -0.8))
    assert together.shape == (2, 2)
    assert together[1, 1] == phi.log_distance(0.0, 1.0, -0.8)
    assert np.ndim(phi.log_distance(0.0, 0.0, -1.0)) == 0
    assert phi.log_distance([], [], []).shape == (0,)
    assert np.isnan(phi.log_distance([np.nan, 0.0], 0.0, [-1.0, np.nan])).all()
    assert phi.log_distance(0.0, 0.0, -np.inf) == phi.log_distance(-np.inf, -np.inf, -np.inf) == -np.inf


@smooth
def test_a_deep_recursion_collapses_at_the_rate_of_the_derivative(phi):
    """Ordered phase, far below 1 − c = 1e-16: ln d falls by ln(σ_w² E φ′²) or by 2 ln ∂q′/∂q, whichever is slower."""
    weight, bias = math.log(0.7), math.log(0.3)
    log_q, log_d = np.array([0.5, -0.5]), 0.0
    trail = []
    for _ in range(250):
        log_d = weight + phi.log_distance(*log_q, log_d)
        log_q = np.logaddexp(weight + phi.log_moments(log_q).log_second, bias)
        trail.append(log_d)
    across = weight + float(phi.log_moments(log_q[0]).log_derivative)
    before, after = weight + phi.log_moments(log_q[0] + np.array([-1e-4, 1e-4])).log_second
    along = 2 * math.log((math.exp(after) - math.exp(before)) / (math.exp(log_q[0]) * 2e-4))
    assert max(across, along) < -0.2 and log_d < -50
    assert (trail[-1] - trail[-101]) / 100 == pytest.approx(max(across, along), abs=1e-3)


# --- plain data -------------------------------------------------------------------------------------------------------


@every
def test_compared_hashed_pickled_and_written_by_value(phi):
    twin = Activation(phi.name, phi.slope)
    assert phi == twin and hash(phi) == hash(twin) and len({phi, twin}) == 1
    assert pickle.loads(pickle.dumps(phi)) == phi
    assert Activation.from_dict(json.loads(json.dumps(phi.to_dict()))) == phi
    assert activation(str(phi)) == phi and activation(phi) is phi


def test_names():
    assert str(activation("relu")) == "relu" and str(Activation("leaky_relu", 0.2)) == "leaky_relu(0.2)"
    assert activation("leaky_relu") == Activation("leaky_relu", 0.01) != Activation("leaky_relu", 0.2)
    assert activation("leaky_relu(0.2)").to_dict() == {"name": "leaky_relu", "slope": 0.2}
    assert str(own(activation("tanh"))) == "own_tanh"


def test_own_functions_compare_and_pickle_by_function():
    one, other = (Activation.from_function("half", np.arctan, dphi) for dphi in (special.expit, np.tanh))
    assert one == Activation.from_function("half", np.arctan, special.expit) != other
    assert pickle.loads(pickle.dumps(one)) == one


def test_own_functions_cannot_be_written_as_data():
    with pytest.raises(ValueError, match=r"own_tanh.*functions"):
        own(activation("tanh")).to_dict()


def good(x):
    return x / (1 + np.abs(x))


BAD = {
    "unknown activation 'rleu': did you mean 'relu'": lambda: activation("rleu"),
    "unknown activation 'ReLU': did you mean 'relu'": lambda: Activation("ReLU"),
    "unknown activation None: known are linear, relu": lambda: activation(None),
    "only leaky_relu and elu take a slope, got slope=0.1 for relu": lambda: Activation("relu", 0.1),
    "unknown activation 'relu(0.1)'": lambda: activation("relu(0.1)"),
    "slope of leaky_relu must be finite, got nan": lambda: Activation("leaky_relu", math.nan),
    "slope of leaky_relu must be finite, got -inf": lambda: Activation("leaky_relu", -math.inf),
    "slope of leaky_relu must be a number, got 'steep'": lambda: activation("leaky_relu(steep)"),
    "slope of leaky_relu must be finite, got 1000": lambda: Activation("leaky_relu", 10**400),
    "got {'slope': 1}": lambda: Activation.from_dict({"slope": 1}),
    "got ['relu']": lambda: Activation.from_dict(["relu"]),
    "phi of activation 'mine' must be callable, got 3": lambda: Activation.from_function("mine", 3, good),
    "dphi of activation 'mine' must be callable, got None": lambda: Activation.from_function("mine", good, None),
    "must be a new one, got 'tanh'": lambda: Activation.from_function("tanh", good, good),
    "functions of activation 'mine' must be a pair": lambda: Activation("mine", None, (good,)),
    "dphi of activation 'mine' must return the shape of x": lambda: Activation.from_function("mine", good, lambda x: 1),
    "phi of activation 'mine' failed on an array": lambda: Activation.from_function("mine", lambda x: max(x, 0), good),
    "phi of activation 'mine' must be finite and below 1e150": lambda: Activation.from_function("mine", np.exp, good),
    "got nan at x = 0": lambda: Activation.from_function("mine", lambda x: np.sin(x) / x, good),
    "phi of activation 'step' must be continuous": lambda: Activation.from_function("step", np.sign, np.zeros_like),
    "phi of activation 'wave' must be": lambda: Activation.from_function("wave", np.sin, np.cos),
    "smooth except at x = 0": lambda: Activation.from_function("bent", lambda x: np.clip(x, -1, 1), np.ones_like),
    "log_d must lie between -inf and 1.38629436": lambda: activation("tanh").log_distance(0.0, 0.0, 1.4),
    "log_q2 = -1.0, got -9.0": lambda: activation("relu").log_distance(0.0, [0.0, -1.0], -9.0),
    "must be below infinity, got inf": lambda: activation("relu").log_distance(np.inf, 0.0, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_in_one_line(message):
    with pytest.raises(ValueError) as caught, np.errstate(invalid="ignore"):
        BAD[message]()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_distance_out_of_range_by_rounding_is_accepted():
    for phi in EVERY:
        top = phi.log_distance(0.0, 0.0, math.log(4))
        assert phi.log_distance(0.0, 0.0, math.log(4) + 1e-9) == top
        assert np.isfinite(phi.log_distance(0.0, 1e-9, -200.0))
