"""Laws of free products against dense random matrices: the distance shrinks like ln N/N."""

import numpy as np
import pytest

from bntheory.activations import Activation
from bntheory.architectures import mlp
from bntheory.layers import Dense
from bntheory.networks import Residual, Sequential
from bntheory.spectra.densities import density_law
from bntheory.spectra.discrete import DiscreteLaw
from bntheory.spectra.fuss_catalan import MarchenkoPastur
from bntheory.spectra.generating import generating_law
from bntheory.spectra.jacobian import jacobian_law
from simulations.statistics import kolmogorov_distance

WIDTHS, DRAWS = (48, 96, 192), (24, 12, 6)  # divisible by 2, 3, 8


def gaussian(rng, rows, columns, variance=1.0):
    return rng.normal(0, np.sqrt(variance / columns), (rows, columns))


def orthogonal(rng, rows, columns):
    q, r = np.linalg.qr(rng.normal(size=(max(rows, columns),) * 2))
    return (q * np.sign(np.diag(r)))[:rows, :columns]


def network(rng, widths, slope, weights, variance=1.0):
    """The Jacobian of explicit weights at one Gaussian input: slope(z) multiplies, and the next input is phi(z)."""
    h, product = rng.normal(size=widths[0]), np.eye(widths[0])
    for columns, rows in zip(widths, widths[1:], strict=False):
        w = weights(rng, rows, columns) * np.sqrt(variance)
        z = w @ h
        phi, dphi = slope(z)
        h, product = phi, dphi[:, None] * (w @ product)
    return product


def relu(z):
    return np.maximum(z, 0), (z > 0) * 1.0


def leaky(z):
    return np.where(z > 0, z, 0.2 * z), np.where(z > 0, 1.0, 0.2)


def tanh(z):
    return np.tanh(z), 1 / np.cosh(z) ** 2


def residual(rng, n):
    """x + 0.7 W relu(x)."""
    return np.eye(n) + 0.7 * gaussian(rng, n, n, 2.0) * (rng.normal(size=n) > 0)


def residual_linear(rng, n):
    """x + W x/2, three times."""
    first, second, third = (np.eye(n) + 0.5 * gaussian(rng, n, n) for _ in range(3))
    return third @ second @ first


def residual_inside(rng, n, blocks=3):
    """x + 0.7 W₂ relu(W₁ x), three times."""
    h, product = rng.normal(size=n), np.eye(n)
    for _ in range(blocks):
        z = (first := gaussian(rng, n, n, 2.0)) @ h
        second = gaussian(rng, n, n, 2.0)
        h = h + 0.7 * second @ np.maximum(z, 0)
        product = product + 0.7 * (second * (z > 0)) @ (first @ product)
    return product


def blocks(*layers, scale, count=1):
    return jacobian_law(Sequential((Residual(Sequential(layers), scale=scale),) * count, input_shape=(48,)))


def of_values(values):
    """Square roots of such values of midpoints, times a matrix of twice as many columns."""
    return lambda rng, n: np.sqrt(values((np.arange(n) + 0.5) / n))[:, None] * gaussian(rng, n, 2 * n)


def uniform(z):
    """Moment generating function of the uniform density on (1, 2)."""
    return -1 - np.log((1 - 2 * z) / (1 - z)) / z


RELU, HE, LECUN = Activation("relu"), Dense(48), Dense(48, init="lecun_normal")
CASES = {
    "relu, three widths": (
        jacobian_law(mlp(1, 3, "relu", input_width=2, output_width=4)),
        lambda rng, n: gaussian(rng, 4 * n // 3, n) @ network(rng, (2 * n // 3, n), relu, gaussian, 2.0) * np.sqrt(2),
    ),
    "orthogonal relu": (
        jacobian_law(mlp(3, 48, init="orthogonal")),
        lambda rng, n: network(rng, (n,) * 4, relu, orthogonal),
    ),
    "leaky relu": (
        jacobian_law(mlp(3, 48, "leaky_relu(0.2)", "lecun_normal")),
        lambda rng, n: network(rng, (n,) * 4, leaky, gaussian),
    ),
    "leaky relu, orthogonal": (
        jacobian_law(mlp(2, 48, "leaky_relu(0.2)", init="orthogonal")),
        lambda rng, n: network(rng, (n,) * 3, leaky, orthogonal),
    ),
    "tanh": (
        jacobian_law(mlp(2, 48, "tanh", "lecun_normal")),
        lambda rng, n: network(rng, (n,) * 3, tanh, gaussian),
    ),
    "residual relu": (blocks(RELU, HE, scale=0.7), residual),
    "residual relu between matrices": (blocks(HE, RELU, HE, scale=0.7, count=3), residual_inside),
    "residual linear": (blocks(LECUN, scale=0.5, count=3), residual_linear),
    "three values": (
        DiscreteLaw([0.0, 1.0, 8.0], [0.25, 0.5, 0.25]) @ MarchenkoPastur(0.5),
        of_values(lambda u: np.select([u < 0.25, u < 0.75], [0.0, 1.0], 8.0)),
    ),
    "a density": (
        density_law(lambda x: 2 * x / 9, (0, 3)) @ MarchenkoPastur(0.5),
        of_values(lambda u: 3 * np.sqrt(u)),
    ),
    "a moment generating function": (
        generating_law(uniform, 1.5, (1, 2)) @ MarchenkoPastur(0.5),
        of_values(lambda u: 1 + u),
    ),
}


def distance(law, matrix):
    """Of the eigenvalues of J Jᵀ but those that are zero, whose share must be the atom's to a few in n."""
    x = np.linalg.svd(matrix, compute_uv=False) ** 2
    x = x[x > 1e-20 * x.max()]
    assert abs(len(x) / len(matrix) - float(law.rank)) < 5 / np.sqrt(len(matrix))
    return kolmogorov_distance(x, law.nonzero.cdf)


@pytest.mark.parametrize("case", CASES)
def test_distance_to_matrices(case):
    """Mean Kolmogorov distances fall like N^(−1/2) where masks keep binomial numbers of units, else like ln N/N.

    Exponents of fits to N = 48, 96, 192 have standard errors of about 0.1: they are −0.35 to −0.8 with masks, −0.8 and
    −0.9 without. Seeds fixed; bounds two to three standard errors away.
    """
    law, draw = CASES[case]
    rng, means = np.random.default_rng(7), []
    for n, draws in zip(WIDTHS, DRAWS, strict=True):
        means.append(np.mean([distance(law, draw(rng, n)) for _ in range(draws)]))
    assert law.method == "limit"
    exponent = np.polyfit(np.log(WIDTHS), np.log(means), 1)[0]
    assert exponent < (-0.25 if "relu" in case else -0.6)
    assert np.all(means < 1.3 / np.sqrt(WIDTHS))


def test_a_wrong_law_is_far():
    law, draw = CASES["tanh"]
    rng = np.random.default_rng(7)
    matrices = [draw(rng, 192) for _ in range(4)]
    right, wrong = (np.mean([distance(each, matrix) for matrix in matrices]) for each in (law, law * 1.5))
    assert wrong > 2 * right
