"""Probability of a row that is exactly zero, by hand and by counting explicit networks."""

import numpy as np
import pytest

from bntheory import activation, cnn, mlp
from bntheory.growth.finite_width.survival import p_dead
from bntheory.layers import BatchNorm, Conv, Dense, Dropout, LayerNorm, Unknown
from bntheory.networks import Join, Residual, Sequential
from simulations import simulate_growth
from simulations.statistics import binomial_interval

RELU = activation("relu")
COUNTED = {
    "plain": Sequential((Dense(2), RELU, Dense(3), RELU, Dense(2)), (4,)),
    "a bias revives": Sequential((Dense(1), RELU, Dense(3, bias=0.1), RELU), (4,)),
    "a block": Sequential((Dense(2), RELU, Residual((Dense(2), RELU, Dense(2)))), (4,)),
    "two paths": Sequential((Dense(2), Residual((RELU, Dense(1)), (Dense(1),)), RELU), (4,)),
    "Dropout": Sequential((Dense(3), Dropout(0.6), RELU), (4,)),
    "leaky": Sequential((Dense(1), activation("leaky_relu"), Dense(2), activation("tanh")), (4,)),
    "side by side": Sequential((Dense(2), RELU, Join(((), (Dense(2), RELU))), RELU), (4,)),
    "LayerNorm": Sequential((Dense(3), LayerNorm(), RELU), (4,)),
    "one position": Sequential((Conv(2, 1), RELU, Conv(3, 1), RELU), (4, 1, 1)),
}


@pytest.mark.parametrize("net", COUNTED.values(), ids=COUNTED)
def test_dead_rows_are_counted(net):
    """2000 networks, one input; false-alarm rate 1e-6 a row. After LayerNorm and after Dropout units
    are not independent fair coins: there it is said how far off that may be."""
    samples = simulate_growth(net, 2000, method="weights", gradients=False)
    loose = {"LayerNorm": 0.13, "Dropout": 0.35}
    slack = max((loose.get(type(layer).__name__, 0.0) for layer in net.layers), default=0.0)
    for row, predicted in enumerate(p_dead(net, net.input_shape)):
        dead = int(np.sum(samples.log_second_moment[:, row] == -np.inf))
        low, high = binomial_interval(dead, 2000, 1 - 1e-6)
        assert low - slack <= predicted <= high + slack, (row, predicted, dead / 2000)


def test_images_have_an_upper_bound():
    """A channel must be silent at every position: fewer networks die than 2^−channels says."""
    net = cnn(2, 1, image=(1, 3, 3))
    samples = simulate_growth(net, 2000, method="weights", gradients=False)
    dead = np.mean(samples.log_second_moment == -np.inf, axis=0)
    assert np.all(dead <= p_dead(net, net.input_shape) + 1e-12) and dead[-1] > 0.01


def test_by_hand():
    alive = (1 - 2.0**-3) ** 5
    assert p_dead(mlp(5, 3), (3,))[-1] == pytest.approx(1 - alive, rel=1e-12)
    assert p_dead(mlp(5, 3, batch_norm=True), (3,)).tolist() == [0.0] * 16
    assert p_dead(mlp(10_000, 64), (64,))[-1] == pytest.approx(10_000 * 2.0**-64, rel=1e-9)
    assert p_dead(Sequential((Dense(2), BatchNorm(gamma=0), RELU), (4,)), (4,)).tolist() == [0, 0, 1, 1]
    product = Sequential((Dense(2), Join(((RELU,), (Dense(2), RELU)), "product"), Dense(2)), (4,))
    assert p_dead(product, (4,)).tolist() == [0, 0, 0.25, 0, 0.25, 0.5, 0.5]
    unknown = Sequential(
        (Dense(2), Join(((RELU,), (Unknown("sort", (2,)),)), Unknown("max", (2,))), Dense(2, bias=1.0)), (4,)
    )
    np.testing.assert_array_equal(p_dead(unknown, (4,)), [0, 0, 0.25, np.nan, np.nan, 0])
    summed = Sequential((Residual((Unknown("sort", (4,)),)),), (4,))
    np.testing.assert_array_equal(p_dead(summed, (4,)), [0, np.nan, np.nan])
    positive = activation("sigmoid")
    assert p_dead(Sequential((Dense(1), RELU, positive, Dense(1)), (1,)), (1,)).tolist() == [0, 0, 0.5, 0, 0]
