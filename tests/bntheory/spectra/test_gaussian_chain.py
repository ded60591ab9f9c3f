"""What is read off a description, and what is refused."""

import math

import pytest

from bntheory import activations, finite_size_moments, regime
from bntheory.architectures import cnn, mlp
from bntheory.initializations import initialization
from bntheory.layers import BatchNorm, Dense, Dropout, Flatten
from bntheory.networks import Residual, Sequential
from bntheory.spectra.gaussian_chain import GaussianLayer, gaussian_chain

RELU, LEAKY, LINEAR = (activations.activation(name) for name in ("relu", "leaky_relu(-0.5)", "linear"))


def test_layers_of_any_widths_and_variances():
    law = initialization("xavier_normal", gain=3.0)
    net = Sequential((Flatten(), LINEAR, Dense(5, law), Sequential((Flatten(), LEAKY)), Dense(7), RELU), (1, 2, 2))
    first, second = gaussian_chain(net, None, "moments")
    assert first == GaussianLayer(4, 5, pytest.approx(math.log(9.0 / 4.5)), -0.5, "row 3.1 (leaky_relu(-0.5))")
    assert second == GaussianLayer(5, 7, pytest.approx(math.log(2 / 5)), 0.0, "row 5 (relu)")


REFUSED = [
    (mlp(2, 4, batch_norm=True), r"because of row 1 \(BatchNorm.*neither Dense nor relu"),
    (mlp(2, 4, "tanh"), r"because of row 1 \(tanh\): it is neither Dense nor relu"),
    (mlp(2, 4, init="he_uniform"), r"because of row 0 \(Dense.*weights are uniform, not normal"),
    (mlp(2, 4, init="orthogonal"), r"weights are orthogonal, not normal"),
    (cnn(2, 4), r"because of row 0 \(Conv"),
    (Sequential((Dense(4), RELU, RELU), (4,)), r"because of row 2 \(relu\): an activation must follow a Dense layer"),
    (Sequential((RELU, Dense(4)), (4,)), r"because of row 0 \(relu\): an activation must follow a Dense layer"),
    (Sequential((Dense(4), Dropout(0.5)), (4,)), r"because of row 1 \(Dropout"),
    (Sequential((Residual((Dense(4),)),), (4,)), r"because of row 0.sum \(sum\)"),
    (Sequential((Dense(4), BatchNorm()), (4,)), r"because of row 1 \(BatchNorm"),
    (Sequential((LINEAR,), (4,)), "at least one Dense layer"),
]


@pytest.mark.parametrize("ask", [finite_size_moments, regime])
@pytest.mark.parametrize(("net", "message"), REFUSED, ids=range(len(REFUSED)))
def test_other_networks_are_refused_by_row(ask, net, message):
    with pytest.raises(ValueError, match=f"^{ask.__name__} .*{message}") as error:
        ask(net)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ask", [finite_size_moments, regime])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3), "^width must be at least 1, got 0$"),
        ((3, 0), "^factors must be at least 1, got 0$"),
        ((3,), "^factors must be an integer of at least 1, got None$"),
        ((2.5, 3), "^width must be an integer"),
        ((mlp(2, 3), 3), "a network and factors=3$"),
    ],
)
def test_widths_and_factors_are_checked(ask, arguments, message):
    with pytest.raises(ValueError, match=message):
        ask(*arguments)
