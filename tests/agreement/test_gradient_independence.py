"""Where gradients are not independent of activations: the part of a gradient along them, which grows on the way back.

Version-1 blocks of Xavier's weights on maps, no BatchNorm; a white gradient at the output.
"""

import math

import numpy as np
import pytest

from bntheory import Residual, Sequential, activation, leaves, predict_growth
from bntheory.growth.backward.alignment import share_along_activations
from bntheory.layers import Conv, Dense, Flatten, Pool

torch = pytest.importorskip("torch")
F = torch.nn.functional
SIDE = 4
IMAGE = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE))
RELU = activation("relu")


@pytest.fixture(autouse=True)
def one_thread():
    """Such small networks are faster on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def described(width, blocks):
    conv = Conv(width, 3, init="xavier_normal")
    block = (Residual(Sequential((conv, RELU, conv))), RELU)
    ends = Pool("average"), Flatten(), Dense(10, "xavier_normal")
    return Sequential((conv, RELU, *block * blocks, *ends), (3, SIDE, SIDE))


def predicted(width, blocks):
    """Of the stem's output and that of every block."""
    net = described(width, blocks)
    top = [row for row, leaf in enumerate(leaves(net)) if leaf.operation == "relu" and "branch" not in leaf.name]
    return share_along_activations(predict_growth(net, IMAGE))[top]


def measured(width, blocks, seed, independent):
    """cos² of gradient and activations of the same rows; `independent`: other weights on the way back."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(inputs):
        return torch.randn(width, inputs, 3, 3, generator=generator) * math.sqrt(2 / (9 * (width + inputs)))

    first, *weights = drawn(3), *((drawn(width), drawn(width)) for _ in range(blocks))
    backward = [(drawn(width), drawn(width)) for _ in range(blocks)] if independent else weights
    h = [torch.relu(F.conv2d(torch.tensor(IMAGE, dtype=torch.float32), first, padding=1))]
    inside = []
    for one, other in weights:
        inside.append(F.conv2d(h[-1], one, padding=1))
        h.append(torch.relu(h[-1] + F.conv2d(torch.relu(inside[-1]), other, padding=1)))
    g = torch.randn(1, width, 1, 1, generator=generator).expand_as(h[0])  # the last weights times a white gradient
    shares = []
    for read, (one, other), z in zip(h[::-1], [*backward[::-1], (None, None)], [*inside[::-1], None], strict=True):
        shares.append(float((g * read).sum() ** 2 / (g.square().sum() * read.square().sum())))
        if one is not None:
            g = g * (read > 0)
            g = g + F.conv_transpose2d((z > 0) * F.conv_transpose2d(g, other, padding=1), one, padding=1)
    return shares[::-1]


@pytest.mark.parametrize("width, draws", [(32, 300), (128, 60)])
def test_share_is_of_order_one_over_width(width, draws):
    """Six blocks: mean cos² within a share 10/width and four standard errors (a false alarm in 1000 for all rows)."""
    found = np.array([measured(width, 6, seed, independent=False) for seed in range(draws)])
    mean, error = found.mean(axis=0), found.std(axis=0) / math.sqrt(draws)
    expected = predicted(width, 6)
    assert np.all(np.abs(mean - expected) < 10 / width * expected + 4 * error)


def test_share_grows_on_the_way_back_unless_the_weights_are_others():
    """Forty blocks of 16 channels: infinite width ends where the predicted share passes 1; independent weights lose it.

    Medians over 30 networks: 0.144 and 0.003; nine in ten of either kind lie on their side of 0.03.
    """
    assert predicted(16, 40)[0] > 1
    same, other = (np.median([measured(16, 40, s, independent)[0] for s in range(30)]) for independent in (False, True))
    assert same > 0.03 > 10 * other
