"""Networks linearized at one input, against torch's derivatives of the same network and exact arithmetic."""

import functools
import math

import numpy as np
import pytest

from bntheory.activations import KNOWN, Activation, activation
from bntheory.architectures import mlp, resnet
from bntheory.initializations import initialization
from bntheory.layers import Affine, BatchNorm, Conv, Dense, Dropout, Flatten, GroupNorm, LayerNorm, Pad, Pool, ZeroPad
from bntheory.networks import Join, Residual, Sequential
from bntheory.positional import ConvTranspose, Mix, Offset
from bntheory.rearrangements import Channels, Unflatten, Unroll, Upsample
from simulations import linearized, streams
from simulations.graded import chained
from simulations.products import log_singular_values
from simulations.signal import scaled
from simulations.steps import steps

SOFTSIGN = Activation.from_function("rational", lambda x: x / (1 + abs(x)), lambda x: (1 + abs(x)) ** -2.0)
NETWORKS = {
    **{name: mlp(3, 6, name, bias=0.1, output_width=4) for name in KNOWN},
    "user's": mlp(3, 5, SOFTSIGN, init="torch_default"),
    "residual": mlp(4, 6, "silu", residual=True, input_width=5, output_width=3, layer_norm=True),
    "resnet": resnet(8, image=(2, 8, 8), shortcut="zero-pad"),
    "everything": Sequential(
        (
            Conv(8, 5, stride=2, padding=1, groups=2, bias=0.1),
            BatchNorm(1e-3, training=False, gamma=2.0),
            GroupNorm(4),
            Affine((0.5, 1.0, -1.0, 2.0) * 2, (0.1, 0.0) * 4),
            Sequential((Pool("max", 2, 1), Sequential((activation("erf"),)))),
            Residual(
                (Residual((Conv(12, 3, 2),), (ZeroPad(12, 2),), scale=0.5), activation("relu"), LayerNorm()),
                (Conv(12, 1, 2),),
            ),
            Pool("average", 2, 1),
            Flatten(),
            Dense(7, "orthogonal", bias=0.3),
        ),
        (4, 12, 12),
    ),
    "transposed": Sequential(
        (
            ConvTranspose(4, bias=0.1),
            ConvTranspose(3, (3, 2), (2, 1), (0, 1), (1, 0), "torch_default"),
            activation("tanh"),
            ConvTranspose(2, 1, 3, 0, 2, "orthogonal"),
            ConvTranspose(5, 2, 1, 0, 0, "xavier_uniform"),
            Flatten(),
            Dense(3),
        ),
        (3, 2, 3),
    ),
    "unflattened": Sequential(
        (
            Dense(24),
            Unflatten((6, 2, 2)),
            Conv(4),
            Offset(0.3),
            Upsample((1, 2)),
            Conv(4, 3, (1, 2)),
            Channels(1, 4),
            Unroll(),
            Conv(4, (3, 1)),
            Mix(5, bias=0.1),
            Mix(4, "torch_default"),
            Flatten(),
            Channels(2, 10),
            Unflatten((8, 1, 1)),
        ),
        (5,),
    ),
    "padding": Sequential(
        (
            Conv(4, (3, 1), (1, 2)),
            LayerNorm(0.1, "channels"),
            Pad((1, 0, 0, 1)),
            Pool("max", 3, 1, 1),
            Pool("average", (2, 3), 1, (1, 0)),
            Flatten(),
            Dense(5),
        ),
        (3, 6, 6),
    ),
    "joins": Sequential(
        (
            Conv(3, bias=0.1),
            Join(((), (activation("relu"), Conv(2)))),
            Join(((Pool(), Conv(5, 1), activation("sigmoid")), ()), "product"),
            Flatten(),
            Join(((Dense(4),), (Dense(4), activation("tanh"))), "product"),
        ),
        (2, 4, 3),
    ),
}


def factors_of(net, x, seed):
    return list(linearized.factors(net, scaled(x[None]), streams.stream(seed, 0)))


@pytest.mark.parametrize("name", NETWORKS)
def test_same_jacobian_as_torch(name):
    """One stream draws the same network in both, and so one Jacobian, to rounding."""
    build = pytest.importorskip("simulations.training.modules").build
    jacobian = pytest.importorskip("simulations.training.probes.jacobian").jacobian
    net = NETWORKS[name]
    x = np.random.default_rng(1).standard_normal(net.input_shape)
    factors = factors_of(net, x, seed=2)
    found = functools.reduce(lambda product, factor: factor.matrix @ product, factors, np.eye(x.size))
    found *= math.exp(sum(factor.log_scale for factor in factors))
    expected = jacobian(build(net, seed=2, dtype="float64"), x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


def test_dropout():
    """Each entry is kept, divided by 1 − rate, or 0."""
    (factor,) = factors_of(Sequential((Dropout(0.75),), (400,)), np.ones(400), seed=3)
    kept = np.diag(factor.matrix) * math.exp(factor.log_scale)
    assert (factor.matrix == np.diag(np.diag(factor.matrix))).all()
    assert set(kept.round(12)) == {0.0, 4.0} and 60 < (kept > 0).sum() < 140  # ± 4.6 standard deviations


def test_factors_are_cut_where_everything_passes():
    net = NETWORKS["everything"]
    sizes = [factor.matrix.shape for factor in factors_of(net, np.ones(net.input_shape), seed=4)]
    assert sizes == [(128, 576), (12, 128), (7, 12)]
    assert linearized.passages(steps(Sequential((Residual(()), Residual(())), (3,)))) == [0, 1, 2]
    (whole,) = linearized.factors(net, scaled(np.ones((1, 4, 12, 12))), streams.stream(4, 0), whole=True)
    assert whole.matrix.shape == (7, 576)


DEEP = {  # network, bits a factor and range of the logarithms
    "tanh": (mlp(150, 5, "tanh", initialization("orthogonal", gain=1.5)), 8, 60),
    "residual relu": (mlp(100, 8, residual=True), 8, 12),
    "residual scaled tanh": (Sequential((Residual((activation("tanh"), Dense(5)), scale=0.3),) * 200, (5,)), 2, 4),
    "selu between LayerNorms": (Sequential((LayerNorm(), Dense(6), activation("selu")) * 40, (6,)), 70, 400),
}


@pytest.mark.parametrize("name", DEEP)
def test_every_value_of_deep_networks(exact, name):
    """The chain against exact arithmetic on its factors, to 10 ε times the sum of their condition numbers.

    Those are 10⁶ behind a LayerNorm, which leaves ε/(variance + ε) of the direction of its input.
    """
    net, rate, spread = DEEP[name]
    x = np.random.default_rng(5).standard_normal(net.input_shape)
    factors = factors_of(net, x, seed=6)
    found = log_singular_values(net, trials=1, seed=6, inputs=x)[0]
    finite = np.isfinite(found)
    assert finite.sum() == len(found) - ("LayerNorm" in name)  # which takes one direction away
    assert found[0] - found[finite][-1] > spread
    shift = sum(factor.log_scale for factor in factors)
    expected = exact([factor.matrix for factor in factors], rate, point=200) + shift
    values = [np.linalg.svd(factor.matrix, compute_uv=False)[: finite.sum()] for factor in factors]
    conditions = sum(each[0] / each[-1] for each in values)
    np.testing.assert_allclose(found[finite], expected[finite], rtol=0, atol=10 * np.finfo(float).eps * conditions)


@pytest.mark.parametrize("net", [mlp(10_000, 4, "tanh"), mlp(10_000, 4, "leaky_relu(0.5)", residual=True)], ids=str)
def test_ten_thousand_layers(net):
    """The sum of the logarithms is that of the factors' determinants; nothing leaves float64."""
    factors = factors_of(net, np.ones(4), seed=8)
    found = chained(factors, 4)
    expected = sum(np.linalg.slogdet(factor.matrix).logabsdet + 4 * factor.log_scale for factor in factors)
    np.testing.assert_allclose(found.sum(), expected, rtol=1e-11)
    assert len(found) == 4 and max(found[0], -found[-1]) > 800
