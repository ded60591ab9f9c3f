"""Layers that rearrange rows, and weights over positions: predictions against wide networks of explicit weights."""

import numpy as np
import pytest

from bntheory import activation, predict_growth
from bntheory.layers import BatchNorm, Conv, Dense, Flatten, LayerNorm, Pool
from bntheory.networks import Join, Residual, Sequential
from bntheory.positional import ConvTranspose, Mix, Offset
from bntheory.rearrangements import Channels, Unflatten, Unroll, Upsample
from simulations import simulate_growth
from simulations.statistics import mean_with_error, tolerance

RELU, TANH, SIGMOID, GELU = activation("relu"), activation("tanh"), activation("sigmoid"), activation("gelu")
C, SEED, RARE = 120, 4, 1e-5
COLUMNS = {  # what width and means over inputs leave out, relative
    "log_second_moment": 0.03,
    "log_channel_variance": 0.04,
    "log_gradient": 0.04,
    "log_weight_gradient": 0.05,
}
GATE = (Pool(), Flatten(), Dense(C), RELU, Dense(C), SIGMOID, Unflatten((C, 1, 1)))
GLU = Join(((Channels(0, C),), (Channels(C, 2 * C), SIGMOID)), "product")
IMAGE, LARGE, VECTOR = (3, 5, 5), (3, 28, 28), (60,)
NETWORKS = {
    "squeeze and excitation": (IMAGE, Conv(C), RELU, Join(((), GATE), "product"), Conv(C)),
    "from a vector": (VECTOR, Dense(16 * C), Unflatten((C, 4, 4)), BatchNorm(), RELU, Conv(C), BatchNorm(), RELU),
    "means of one sign": (VECTOR, Dense(16 * C), RELU, Unflatten((C, 4, 4)), Pool("average", 2), Conv(C), RELU),
    "BatchNorm of vectors": (VECTOR, Dense(9 * C), BatchNorm(), Unflatten((C, 3, 3)), RELU, Conv(C)),
    "maxima over units": (
        VECTOR,
        *(
            Dense(4 * C),
            Residual((RELU, Dense(4 * C))),
            Unflatten((C, 2, 2)),
            RELU,
            Pool("max", 2),
            Flatten(),
            Dense(C),
        ),
    ),
    "parts of a vector": (
        VECTOR,
        *(Join(((Dense(2 * C), RELU), (Dense(2 * C), TANH))), Unflatten((C, 2, 2)), BatchNorm(), RELU, Conv(C)),
    ),
    "positions in one line": (IMAGE, Conv(C), BatchNorm(), RELU, Unroll(), Conv(C, (3, 1)), TANH, Pool(), Flatten()),
    "gated linear units": (VECTOR, Dense(2 * C), GLU, Dense(2 * C), GLU, Dense(C)),
    "gated convolutions": (IMAGE, Conv(2 * C), GLU, Conv(2 * C, bias=0.1), GLU, Flatten(), Dense(C)),
    "halves read one after another": (
        IMAGE,
        *(Conv(2 * C), RELU, Join(((Channels(0, C),), (Channels(C, 2 * C), Conv(C), RELU))), Conv(C)),
    ),
    "channels of a concatenation": (
        IMAGE,
        *(Conv(C), Join(((RELU,), (Conv(C), TANH))), Channels(C // 2, 2 * C - 40), Conv(C)),
    ),
    "a sum of halves": (VECTOR, Dense(2 * C), Residual((Channels(0, C), TANH), (Channels(C, 2 * C),)), TANH, Dense(C)),
    "position embeddings": (
        IMAGE,
        Conv(C),
        Offset(0.5),
        LayerNorm(),
        Conv(C),
        RELU,
        Conv(C, bias=0.1),
        Offset(2.0),
        TANH,
    ),
    "position embeddings of active units": (IMAGE, Conv(C), RELU, Offset(0.5), RELU, Pool("average", 2), Conv(C)),
    "position embeddings of given values": (IMAGE, Offset(0.5), Conv(C), BatchNorm(), RELU, Conv(C)),
    "constants of a vector": (VECTOR, Dense(C), Offset(1.0), RELU, Dense(C), Offset(0.3), TANH, Dense(C)),
    "weights over positions": (LARGE, Conv(C, 4, 4, 0), Unroll(), Mix(49), RELU, Conv(C, 1), RELU, Conv(C, 1)),
    "an MLP-Mixer's block": (
        LARGE,
        *(Conv(C, 4, 4, 0), Unroll(), Residual((LayerNorm(), Mix(90), GELU, Mix(49, bias=0.3)))),
        *(Residual((LayerNorm(), Conv(C, 1), GELU, Conv(C, 1))), Conv(C, 1)),
    ),
    "a spatial gate": (
        LARGE,
        *(Conv(2 * C, 4, 4, 0), Unroll()),
        *(Join(((Channels(0, C),), (Channels(C, 2 * C), Mix(49, bias=1.0))), "product"), Conv(C, 1)),
    ),
    "repeated positions": (
        IMAGE,
        Conv(C),
        RELU,
        Upsample(2),
        Conv(C),
        BatchNorm(),
        RELU,
        Upsample((1, 2)),
        Conv(C, 3, 2),
    ),
    "repeated, then read": (IMAGE, Conv(C), Upsample(2), RELU, Conv(C), TANH, Pool("average", 4), Flatten(), Dense(C)),
    "transposed convolutions": (
        VECTOR,
        *(Dense(9 * C), Unflatten((C, 3, 3)), BatchNorm(), RELU, ConvTranspose(C), BatchNorm(), RELU),
        *(ConvTranspose(C, 3, 1, 1, init="lecun_normal", bias=0.2), TANH),
    ),
    "from images": (
        IMAGE,
        ConvTranspose(C, 3, 2, 1, 1),
        RELU,
        Conv(C, 3, 2),
        RELU,
        ConvTranspose(C, 2, 2, 0),
        RELU,
        Pool(),
    ),
    "given values": (VECTOR, Unflatten((15, 2, 2)), Conv(C), RELU, Conv(C)),
    "back to an image": (IMAGE, Conv(C), RELU, Flatten(), Dense(9 * C), Unflatten((C, 3, 3)), TANH, Conv(C)),
}
NO_GRADIENT = {"parts of a vector"}  # units that were sampled from all parts together


def inputs_of(shape, size=5):
    """Of one size, so that they are alike in all but their directions."""
    batch = np.random.default_rng(SEED).standard_normal((size, *shape)) + 0.4
    return batch / np.sqrt(np.mean(batch**2, axis=tuple(range(1, batch.ndim)), keepdims=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_wide_networks_with_explicit_weights(name):
    """30 networks, every row: sampling errors of the mean at a false-alarm rate of 1e-5 of all comparisons, and slack
    for width. The input's own gradient is left out: of 3 channels, or of 60 units behind a BatchNorm, it is biased."""
    shape, *layers = NETWORKS[name]
    net, batch = Sequential(tuple(layers), shape), inputs_of(shape)
    growth, samples = predict_growth(net, batch), simulate_growth(net, 30, batch, seed=SEED, method="weights")
    assert growth.unsupported is None
    for column, slack in COLUMNS.items():
        predicted, drawn = getattr(growth, column)[1:], getattr(samples, column)[:, 1:].astype(float)
        here = np.isfinite(drawn).all(axis=0)
        if column == "log_weight_gradient":
            here &= ~np.array(
                [isinstance(row.layer, Mix) and np.isnan(p) for row, p in zip(growth.rows[1:], predicted, strict=True)]
            )
        if column.endswith("gradient") and name in NO_GRADIENT:
            assert np.isnan(predicted[0])
            here &= np.isfinite(predicted)
        assert here.sum() >= (1 if column == "log_weight_gradient" else 3)
        mean, error = mean_with_error(np.exp(drawn[:, here]))
        allowed = tolerance(error, RARE, len(COLUMNS) * len(mean), 29) + slack * mean
        ratio = np.exp(predicted[here]) / mean - 1
        assert np.all(np.abs(ratio) * mean < allowed), (column, ratio.round(3))
