"""Products of a batch of any sizes and angles, behind an activation and behind BN: by quadrature, and known laws."""

import math

import numpy as np
import pytest
from scipy import special

from bntheory import Activation, mlp, predict_growth
from bntheory.growth.infinite_width.batch_norm import normalized_moments
from bntheory.growth.infinite_width.batch_products import activated, normalized_and_activated

RELU, LINEAR, LEAKY = Activation("relu"), Activation("linear"), Activation("leaky_relu", -0.5)
MANY = 2**16  # angles


@pytest.mark.parametrize("phi", [RELU, LINEAR, LEAKY], ids=str)
@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("apart", [1.0, 100.0])
def test_three_inputs_by_quadrature_over_an_angle(phi, epsilon, apart):
    """z − mean = F (cos θ, sin θ) r, r of two normal variables: |F (cos θ, sin θ)|² = 3v, and over r in closed form,

    E r² v/(r² v + ε) = 1 − a e^a E_1(a),    a = ε/(2v);    the midpoint rule in θ errs at kinks only.
    """
    factor = np.random.default_rng(1).standard_normal((3, 3)) * np.array([[apart], [1.0], [1 / apart]])
    found = normalized_and_activated(phi, factor @ factor.T, epsilon)
    axes, roots, _ = np.linalg.svd(factor - factor.mean(axis=0))
    angle = (np.arange(MANY) + 0.5) * 2 * math.pi / MANY
    z = axes[:, :2] @ np.array([roots[0] * np.cos(angle), roots[1] * np.sin(angle)])
    variance = np.mean(z**2, axis=0)
    a = epsilon / (2 * variance)
    h = phi.phi(z / np.sqrt(variance))
    expected = (h * (1 - a * special.hyperu(1, 1, a) if epsilon else 1)) @ h.T / MANY
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * expected.max())


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
@pytest.mark.parametrize("batch", [4, 9, 20, 64])
def test_equal_sizes_and_angles_are_the_exchangeable_batch(epsilon, batch):
    """Two trapezoid rules, over t and over s², and both err by no more than rounding at any B."""
    found = normalized_and_activated(RELU, 0.4 + 1.3 * np.eye(batch), epsilon)
    known = normalized_moments(RELU, math.log(2.6), batch, epsilon)
    assert math.isclose(found[0, 0], math.exp(known.log_second), rel_tol=1e-12)
    assert math.isclose(2 * (found[0, 0] - found[0, 1]), math.exp(known.log_distance), rel_tol=2e-12)


@pytest.mark.parametrize("phi", [RELU, LINEAR, LEAKY], ids=str)
@pytest.mark.parametrize("epsilon", [0.0, 1e-5, 0.3, 30.0])
@pytest.mark.parametrize(
    "factor", [[3.0, -1.0], [1.0, 2.0, 3.0, -1.0], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]], ids=len
)
def test_one_direction_is_known_in_closed_form(phi, epsilon, factor):
    """z = f x, x normal, as of any two inputs: y = ±(f − mean)/s but for ε, E x²/(x² + k²) by erfcx, k = √ε/s.

    At ε = 0 rounding δ = 1e-15 of the other directions counts as √δ, unless there are none.
    """
    centred = np.array(factor) - np.mean(factor)
    k = math.sqrt(epsilon / np.mean(centred**2))
    share = 1 - k * math.sqrt(math.pi / 2) * special.erfcx(k / math.sqrt(2))
    y = centred / centred.std()
    expected = share * sum(np.outer(phi.phi(sign * y), phi.phi(sign * y)) for sign in (1, -1)) / 2
    found = normalized_and_activated(phi, np.outer(factor, factor), epsilon)
    allowed = 2e-12 if epsilon or len(factor) == 2 else 3e-8
    np.testing.assert_allclose(found, expected, rtol=0, atol=allowed * expected.max())


def test_any_two_inputs_are_plus_and_minus_one():
    for covariance in (np.eye(2), np.diag([1.0, 9.0]), np.array([[4.0, 1.9], [1.9, 1.0]])):
        np.testing.assert_allclose(normalized_and_activated(RELU, covariance), np.eye(2) / 2, rtol=0, atol=1e-12)


def test_one_input_far_above_all_others_stands_alone():
    """It is ±√(B−1), the others ∓1/√(B−1): all but in a share of units of a few times 10⁻⁶, its size below theirs."""
    found = normalized_and_activated(RELU, np.diag([1e12, 1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_allclose(found[0], [2, 0, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(found[1:, 1:], 1 / 8, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_without_epsilon_the_scale_does_not_matter(scale):
    covariance = np.diag([9.0, 4.0, 1.0, 1.0])
    found = normalized_and_activated(RELU, covariance * scale)
    np.testing.assert_allclose(found, normalized_and_activated(RELU, covariance), rtol=1e-12)


def test_epsilon_beside_equal_inputs():
    """Nothing varies: 0 over √ε; and to first order where ε is far above the variance."""
    assert not normalized_and_activated(LINEAR, np.ones((3, 3)), 0.1).any()
    tiny = normalized_and_activated(LINEAR, 1e-20 * np.eye(2), 0.1)
    np.testing.assert_allclose(tiny, 0.5e-19 * np.array([[1, -1], [-1, 1]]), rtol=1e-12)


@pytest.mark.parametrize("phi", [RELU, LINEAR, LEAKY], ids=str)
def test_products_agree_with_moments_and_distances(phi):
    factor = np.random.default_rng(2).standard_normal((4, 4, 6)) * np.array([10.0, 1.0, 1.0, 0.1])[:, None]
    covariance = factor @ factor.swapaxes(1, 2)  # a stack of four
    found = activated(phi, covariance)
    for before, after in zip(covariance, found, strict=True):
        q, size = np.diagonal(before), np.diagonal(after)
        np.testing.assert_allclose(np.log(size), phi.log_moments(np.log(q)).log_second, rtol=0, atol=1e-12)
        first, second = np.triu_indices(4, 1)
        log_d = phi.log_distance(*np.log([q[first], q[second], q[first] + q[second] - 2 * before[first, second]]))
        distance = size[first] + size[second] - 2 * after[first, second]
        np.testing.assert_allclose(distance, np.exp(log_d), rtol=1e-12)
    assert activated(phi, np.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]


def test_layers_without_bn_are_those_of_the_prediction():
    inputs = np.random.default_rng(3).standard_normal((4, 8)) * np.array([[10.0], [1.0], [1.0], [0.1]])
    growth, products = predict_growth(mlp(5, 64, input_width=8), inputs=inputs), inputs @ inputs.T / 8
    for row in range(2, 11, 2):
        products = activated(RELU, 2 * products)
        assert math.log(np.diagonal(products).mean()) == pytest.approx(growth.log_second_moment[row], abs=1e-10)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((Activation("tanh"), np.eye(2)), "known for linear, relu and leaky_relu, got tanh"),
        ((RELU, np.eye(2), -1), "epsilon must be finite and at least 0, got -1"),
        ((RELU, np.ones((2, 2))), "all inputs of the batch look the same here"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        normalized_and_activated(*arguments)
