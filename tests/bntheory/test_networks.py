"""The description of a network: shapes, rows, text, JSON, and what is refused."""

import dataclasses
import json
import math

import numpy as np
import pytest

from bntheory.activations import Activation, activation
from bntheory.architectures import cnn, mlp, resnet, vgg
from bntheory.initializations import Initialization, initialization
from bntheory.layers import (
    Affine,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GroupNorm,
    LayerNorm,
    Pad,
    Pool,
    Unknown,
    ZeroPad,
)
from bntheory.networks import Join, Residual, Sequential, leaves
from bntheory.positional import ConvTranspose, Mix, Offset
from bntheory.rearrangements import Channels, Unflatten, Unroll, Upsample
from bntheory.serialization import from_json

RELU = activation("relu")
EVERYTHING = Sequential(
    (
        Conv(8, 5, stride=2, padding=1, init="orthogonal"),
        BatchNorm(1e-3),
        activation("leaky_relu(0.2)"),
        Residual(Sequential((Conv(8, groups=4, bias=0.1), activation("gelu")))),
        Residual(Sequential((Conv(12, 3, 2, dilation=1),)), Sequential((ZeroPad(12, 2),)), scale=0.25),
        Sequential((Pool("max", 2, 1), LayerNorm(1e-4), activation("tanh"), Dropout(0.3))),
        Pool("average"),
        Flatten(),
        Dense(5, initialization("lecun_uniform", gain=3, mode="fan_out"), bias=0.5),
    ),
    (3, 16, 16),
)
NETWORKS = {
    "mlp": mlp(3, 8),
    "mlp with all options": mlp(2, 8, "selu", "torch_default", 0.3, True, True, input_width=4, output_width=2),
    "resnet": resnet(20),
    "resnet with BN": resnet(14, batch_norm=True, shortcut="zero-pad", image=(1, 8, 8)),
    "everything": EVERYTHING,
    "vgg": vgg(),
    "vgg with all options": vgg(11, True, "orthogonal", (1, 8, 4), 3, "selu", 5),
    "cnn": cnn(),
    "cnn with all options": cnn(3, 4, "gelu", "torch_default", 0.1, True, 2, (2, 9, 9), 5),
    "mlp with LayerNorm": mlp(2, 8, layer_norm=True, residual=True),
    "normalizations": Sequential(
        (GroupNorm(2), GroupNorm(1, 0.1), BatchNorm(gamma=0), BatchNorm(0.2, 0.3, False), LayerNorm(0.1)), (4, 3, 3)
    ),
    "factors and pairs": Sequential(
        (Affine(0.5), Conv(2), Affine((1.0, -2.0), 0.3), Residual((Conv(2), Affine(0.1, (0.0, 1.0))))), (4, 3, 3)
    ),
    "unequal sides": Sequential(
        (Conv(2, (7, 1), (2, 1)), Conv(2, (1, 3), padding=(1, 0), dilation=(1, 2)), Pool("max", (2, 1), (1, 1))),
        (1, 9, 9),
    ),
    "padding": Sequential(
        (Pad(1), Pad((1, 2, 3, 4)), Pool("max", 3, 2, 1), Pool("average", (3, 2), 1, (1, 0))), (1, 9, 9)
    ),
    "LayerNorms": Sequential(
        (LayerNorm(), LayerNorm(over="channels"), LayerNorm(0.1, "channels"), Flatten(), LayerNorm(over="channels")),
        (2, 3, 3),
    ),
    "transposed": Sequential((ConvTranspose(8), ConvTranspose(4, (3, 1), (1, 3), 0, (0, 2), bias=0.1)), (3, 4, 4)),
    "unflattened": Sequential(
        (
            Unflatten((6, 2, 2)),
            Unroll(),
            Upsample((3, 1)),
            Offset(0.25),
            Mix(4, bias=0.5),
            Flatten(),
            Unflatten((24, 1, 1)),
            Channels(3, 9),
        ),
        (24,),
    ),
    "nothing": Sequential((), (4,)),
}
JOINS = Sequential(
    (
        Join(((), (RELU, Conv(4), Residual((RELU,))), Sequential((Conv(1),)))),
        Join(((Pool(), Conv(8, 1)), ()), "product"),
        Sequential((Join(((), (Pool(),)), Unknown("attention", (6,))),)),
        Unknown("roll", (2, 3, 1)),
    ),
    (3, 5, 5),
)
NETWORKS["joins"] = JOINS


def rows(net):
    return {leaf.name: leaf.shape for leaf in leaves(net)}


def test_rows_are_in_execution_order_with_their_shapes():
    assert rows(EVERYTHING) == {
        "input": (3, 16, 16),
        "0": (8, 7, 7),
        "1": (8, 7, 7),
        "2": (8, 7, 7),
        "3.branch.0": (8, 7, 7),
        "3.branch.1": (8, 7, 7),
        "3.sum": (8, 7, 7),
        "4.branch.0": (12, 4, 4),
        "4.shortcut.0": (12, 4, 4),
        "4.sum": (12, 4, 4),
        "5.0": (12, 3, 3),
        "5.1": (12, 3, 3),
        "5.2": (12, 3, 3),
        "5.3": (12, 3, 3),
        "6": (12, 1, 1),
        "7": (12,),
        "8": (5,),
    }
    assert list(rows(EVERYTHING))[:2] == ["input", "0"]
    assert EVERYTHING.output_shape((3, 16, 16)) == (5,)


@pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)
def test_rows_have_unique_names_and_name_their_layers(net):
    listed = list(leaves(net))
    assert len({leaf.name for leaf in listed}) == len(listed)
    assert listed[0] == ("input", "input", net.input_shape, None)
    assert listed[-1].shape == net.output_shape(net.input_shape)
    for leaf in listed[1:]:
        joined = str(leaf.layer.operation) if isinstance(leaf.layer, Join) else str(leaf.layer)
        assert leaf.operation == ("sum" if isinstance(leaf.layer, Residual) else joined)


def test_rows_of_joins():
    assert rows(JOINS) == {
        "input": (3, 5, 5),
        "0.branches.1.0": (3, 5, 5),
        "0.branches.1.1": (4, 5, 5),
        "0.branches.1.2.branch.0": (4, 5, 5),
        "0.branches.1.2.sum": (4, 5, 5),
        "0.branches.2.0": (1, 5, 5),
        "0.concatenate": (8, 5, 5),
        "1.branches.0.0": (8, 1, 1),
        "1.branches.0.1": (8, 1, 1),
        "1.product": (8, 5, 5),
        "2.0.branches.1.0": (8, 1, 1),
        "2.0.unknown": (6,),
        "3": (2, 3, 1),
    }
    assert [leaf.operation for leaf in leaves(JOINS)][-4:] == [
        "product",
        "Pool(average, whole map)",
        "attention",
        "roll",
    ]
    assert str(JOINS.layers[1]) == "Join(product: [Pool(average, whole map), Conv(8, 1×1, he_normal)], [identity])"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Join(((),)), r"branches must be a tuple of at least two, got \(\(\),\)"),
        (lambda: Join(((), ()), "sum"), "operation must be one of concatenate, product; got 'sum'"),
        (lambda: Join(((),) * 3, "product"), "a product is of two branches, got 3: put one product into another"),
        (lambda: Join((Sequential((), (3,)), ())), r"a branch takes the shape it is given, got input_shape=\(3,\)"),
        (lambda: Unknown("", (3,)), "operation must be words, got ''"),
        (lambda: Unknown("sort", (3, 2)), r"output must be \(n,\) or \(channels, height, width\), got \(3, 2\)"),
        (lambda: Unknown("sort", (0,)), "output must be at least 1, got 0"),
    ],
)
def test_refused_joins(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_json_errors_name_the_branch():
    text = Sequential((Join(((), (Dense(4),))),), (4,)).to_json()
    with pytest.raises(ValueError, match=r"layer 0.branches.1.0: features must be at least 1, got -3"):
        from_json(text.replace('"features": 4', '"features": -3'))
    with pytest.raises(ValueError, match="layer 0: operation must be one of concatenate, product; got 'plus'"):
        from_json(text.replace('"concatenate"', '"plus"'))


@pytest.mark.parametrize(
    ("branches", "operation"),
    [
        (((), (Pool("average", 2),)), "concatenate"),
        (((), (Conv(4),)), "product"),
        (((Conv(4), Pool()), ()), "product"),
        (((), (Pool("average", 2),)), "product"),
        (((Flatten(),), ()), "concatenate"),
    ],
)
def test_shapes_that_do_not_go_together_are_named(branches, operation):
    with pytest.raises(ValueError, match=f"layer 1: Join: branches to {operation} give shapes"):
        Sequential((RELU, Join(branches, operation)), (3, 4, 4))


@pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)
def test_json_round_trip_keeps_equality_and_hash(net):
    again = from_json(net.to_json())
    assert again == net and hash(again) == hash(net) and str(again) == str(net)
    assert list(leaves(again)) == list(leaves(net))
    assert json.loads(net.to_json())["type"] == "Sequential"


def test_different_networks_are_different():
    assert mlp(3, 8) != mlp(3, 8, init="xavier_normal")
    assert len({mlp(3, 8), mlp(3, 8), mlp(4, 8), resnet(8), resnet(8, shortcut="zero-pad")}) == 4


def test_text_groups_what_repeats():
    assert str(mlp(50, 256)) == "input 256; 50 × [Dense(256, he_normal), relu]"
    assert str(mlp(1, 4, bias=0.1, input_width=2)) == "input 2; Dense(4, he_normal, bias=0.1), relu"
    text = str(resnet(110))
    assert text.count("×") < 60 and "18 × [relu, Residual" in text and text.startswith("input 3×32×32; Conv(16, 3×3")
    words = (
        "stride=2",
        "padding=1",
        "groups=4",
        "epsilon=0.001",
        "max, 2×2",
        "scale=0.25",
        "LayerNorm(epsilon=0.0001)",
    )
    assert all(word in str(EVERYTHING) for word in words)


def test_text_leaves_out_the_usual_values():
    block = Residual((LayerNorm(), RELU, Dropout(0.1), Dense(4)))
    assert str(block) == "Residual([LayerNorm, relu, Dropout(0.1), Dense(4, he_normal)])"
    assert str(dataclasses.replace(block, scale=2, shortcut=(RELU,))).endswith("] + [relu], scale=2)")


def test_scale_is_part_of_a_block_and_of_its_json():
    block = Residual((Dense(4),))
    assert block.scale == 1.0 and Residual((Dense(4),), scale=1) == block != Residual((Dense(4),), scale=0.5)
    assert all(isinstance(Residual((Dense(4),), scale=one).scale, float) for one in (1, np.float32(1), np.int64(1)))
    net = Sequential((Residual((Dense(4),), scale=0.1),), (4,))
    assert from_json(net.to_json()).layers[0].scale == 0.1


def test_json_without_a_scale_is_read_as_scale_1():
    old = json.loads(Sequential((Residual((Dense(4),)),), (4,)).to_json())
    del old["layers"][0]["scale"]
    assert from_json(json.dumps(old)) == Sequential((Residual((Dense(4),)),), (4,))


def test_text_of_normalizations():
    assert [str(layer) for layer in NETWORKS["normalizations"].layers] == [
        "GroupNorm(2)",
        "GroupNorm(1, epsilon=0.1)",
        "BatchNorm(gamma=0)",
        "BatchNorm(epsilon=0.2, gamma=0.3, training=False)",
        "LayerNorm(epsilon=0.1)",
    ]


def test_json_without_gamma_and_training_is_read_as_the_usual_values():
    old = json.loads(Sequential((BatchNorm(0.5),), (4,)).to_json())
    del old["layers"][0]["gamma"], old["layers"][0]["training"]
    assert from_json(json.dumps(old)) == Sequential((BatchNorm(0.5),), (4,))


def test_fans():
    conv = Conv(32, 3, groups=4)
    assert conv.weight_variance((16, 8, 8)) == pytest.approx(2 / (16 / 4 * 9))
    assert Conv(32, init="torch_default").bias_variance((16, 8, 8)) == pytest.approx(1 / (3 * 16 * 9))
    assert Dense(10, "xavier_normal").weight_variance((30,)) == pytest.approx(2 / 40)
    assert Dense(10, "torch_default", bias=0.7).bias_variance((30,)) == 0.7


NOT_INTEGERS = [0, -1, 2.5, "3", None, math.nan, True]


@pytest.mark.parametrize("value", NOT_INTEGERS)
def test_sizes_must_be_positive_integers(value):
    for name, make in {
        "depth": lambda: mlp(value, 4),
        "width": lambda: mlp(1, value),
        "features": lambda: Dense(value),
        "channels": lambda: Conv(value),
        "kernel": lambda: Conv(4, kernel=value),
        "stride": lambda: Conv(4, stride=value),
        "dilation": lambda: Conv(4, dilation=value),
        "groups": lambda: Conv(4, groups=value),
        "GroupNorm: groups": lambda: GroupNorm(value),
        "input_shape": lambda: Sequential((), (value,)),
    }.items():
        with pytest.raises(ValueError, match=rf"{name} must be .* got"):
            make()
    for deep in (vgg, cnn):
        with pytest.raises(ValueError, match=r"^depth must be .* got"):
            deep(value)


def test_numpy_integers_are_integers():
    assert mlp(np.int64(2), np.int32(4)) == mlp(2, 4)
    assert json.loads(mlp(np.int64(2), np.int32(4)).to_json())["input_shape"] == [4]


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, "x"])
def test_variances_and_epsilon_must_be_finite_and_not_negative(value):
    for name, make in {
        "bias": lambda: mlp(1, 4, bias=value),
        "epsilon": lambda: BatchNorm(value),
        "epsilon must": lambda: LayerNorm(value),
        "epsilon of a group": lambda: GroupNorm(2, value),
        "gamma": lambda: BatchNorm(gamma=value),
        "rate": lambda: Dropout(value),
        "scale": lambda: Residual((Dense(4),), scale=value),
        "gain": lambda: mlp(1, 4, init=Initialization("mine", value)),
    }.items():
        with pytest.raises(ValueError, match=rf"{name.split()[0]} must be .*got"):
            make()


def test_rates_and_scales_have_ends():
    assert Dropout(0).rate == 0 and Dropout(np.float32(0.5)) == Dropout(0.5)
    for rate in (1, 1.0, 1.5):
        with pytest.raises(ValueError, match=rf"^rate must be at least 0 and below 1, got {rate}$"):
            Dropout(rate)
    with pytest.raises(ValueError, match=r"^scale must be finite and above 0, got 0$"):
        Residual((Dense(4),), scale=0)


def test_unknown_words_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"'rellu'.*relu"):
        mlp(1, 4, activation="rellu")
    with pytest.raises(ValueError, match=r"did you mean xavier_normal"):
        mlp(1, 4, init="xavier_normel")
    with pytest.raises(ValueError, match=r"shortcut must be one of projection, zero-pad; got 'zeropad' .did you mean"):
        resnet(20, shortcut="zeropad")
    with pytest.raises(ValueError, match=r"kind must be one of average, max; got 'mean'"):
        Pool("mean")


@pytest.mark.parametrize("value", [0, 1, None, "yes"])
def test_training_is_a_flag(value):
    with pytest.raises(ValueError, match=rf"^BatchNorm: training must be True or False, got {value!r}$"):
        BatchNorm(training=value)


def test_bad_arguments_of_normalizations_name_the_layer():
    for make in (lambda: BatchNorm(-1.0), lambda: LayerNorm(-1.0), lambda: GroupNorm(2, -1.0)):
        with pytest.raises(ValueError, match=r"^(Batch|Layer|Group)Norm: epsilon must be finite and .*, got -1.0$"):
            make()
    with pytest.raises(ValueError, match=r"^BatchNorm: gamma must be finite and at least 0, got -0.5$"):
        BatchNorm(gamma=-0.5)
    with pytest.raises(ValueError, match=r"^GroupNorm: groups must be at least 1, got 0$"):
        GroupNorm(0)


def test_affine_takes_numbers_or_one_for_each_channel():
    assert Affine([1, 2.5]) == Affine((1.0, 2.5)) and Affine((np.float32(0.5),)).gamma == (0.5,)
    assert Affine(0.5).factor == 0.5 and Affine((2.0, 2.0)).factor == 2.0 and Affine(0.0).factor == 0.0
    assert Affine((1.0, 2.0)).factor is None and Affine(beta=0.1).factor is None
    assert Affine((1.0, 2.0), 0.1).pairs == ((1.0, 2.0), (0.1, 0.1))
    assert Affine(3.0, (0.0, 1.0)).pairs == ((3.0, 3.0), (0.0, 1.0))
    for make, message in (
        (lambda: Affine(math.inf), "Affine: gamma must be finite, got inf"),
        (lambda: Affine(beta=(1.0, math.nan)), "Affine: beta must be finite, got nan"),
        (lambda: Affine(()), "Affine: gamma must have a number for each channel, got none"),
        (lambda: Affine((1.0, 2.0), (1.0, 2.0, 3.0)), "gamma and beta must be as many, got 2 and 3 numbers"),
        (lambda: Affine("a"), "Affine: gamma must be a number"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_sides_are_numbers_where_both_are_equal():
    assert Conv(2, (3, 3), [2, 2], (1, 1), (1, 1)) == Conv(2, 3, 2) and Pool("max", (2, 2)) == Pool("max", 2)
    assert [str(layer) for layer in NETWORKS["unequal sides"].layers] == [
        "Conv(2, 7×1, stride=(2, 1), he_normal)",
        "Conv(2, 1×3, dilation=(1, 2), padding=(1, 0), he_normal)",
        "Pool(max, 2×1, stride=1)",
    ]
    assert [str(layer) for layer in NETWORKS["padding"].layers] == [
        "Pad(1)",
        "Pad((1, 2, 3, 4))",
        "Pool(max, 3×3, stride=2, padding=1)",
        "Pool(average, 3×2, stride=1, padding=(1, 0))",
    ]
    assert Pad((2, 2, 2, 2)) == Pad(2) and Pad((1, 2, 3, 4)).output_shape((5, 6, 7)) == (5, 13, 10)
    assert Conv(2, (7, 1)).padding == (3, 0) and Conv(2, (7, 1)).area == 7
    assert Conv(6, (7, 1), groups=2).weight_variance((4, 9, 9)) == pytest.approx(2 / 14)
    assert Conv(2, (3, 5), init="torch_default").bias_variance((4, 9, 9)) == pytest.approx(1 / (3 * 60))
    for make, message in (
        (lambda: Conv(2, (3, 0)), "kernel must be at least 1, got 0"),
        (lambda: Conv(2, (3, 3, 3)), r"kernel must be a number or a pair \(height, width\), got \(3, 3, 3\)"),
        (lambda: Conv(2, padding=(1, -1)), "padding must be at least 0, got -1"),
        (lambda: Pool("max", 3, 1, 2), "padding of a pool must be at most half the kernel, got padding=2 and 3"),
        (lambda: Pool(padding=1), "a pool over the whole map has no padding, got padding=1"),
        (lambda: Pad(-1), "Pad: padding must be at least 0, got -1"),
        (lambda: Pad((1, 2)), r"Pad: padding must be \(left, right, top, bottom\), got \(1, 2\)"),
        (lambda: Pool("max", (2, 1.5)), "kernel must be an integer of at least 1, got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_layer_norm_is_over_all_or_over_channels():
    assert [str(layer) for layer in NETWORKS["LayerNorms"].layers[:3]] == [
        "LayerNorm",
        "LayerNorm(over=channels)",
        "LayerNorm(epsilon=0.1, over=channels)",
    ]
    assert from_json('{"type": "Sequential", "input_shape": [4], "layers": [{"type": "LayerNorm", "epsilon": 0.1}]}')
    with pytest.raises(ValueError, match=r"LayerNorm: over must be one of all, channels; got 'channel' .did you mean"):
        LayerNorm(over="channel")


MISFITS = {
    r"layer 1: LayerNorm.over=channels. of shape .1, 4, 4. has a single number at each position": (
        (Conv(1), LayerNorm(over="channels")),
        (3, 4, 4),
    ),
    r"layer 1: Affine.* needs a number for each channel, got 2 numbers and 3 channels": (
        (Conv(3), Affine(beta=(1.0, 2.0))),
        (3, 4, 4),
    ),
    r"layer 0: Affine.*got 1 numbers and 3 channels": ((Affine((1.0,)),), (3,)),
    "layer 1: GroupNorm.4.: groups must divide the channels, got 4 groups and 6": ((Dense(6), GroupNorm(4)), (4,)),
    "layer 0.branch.0: GroupNorm.2.: groups must divide .* got 2 groups and 3": (
        (Residual((GroupNorm(2), Conv(3))),),
        (3, 4, 4),
    ),
    "layer 1: GroupNorm.6. of shape .6,. has groups of a single number": ((Dense(6), GroupNorm(6)), (4,)),
    "layer 0: Conv.* has stride 5, larger than a side of 2 with padding 1": ((Conv(4, stride=5),), (3, 8, 2)),
    "layer 1: Pool.* has stride 4, larger than a side of 3 with padding 0": ((RELU, Pool("max", 1, 4)), (3, 3, 8)),
    "layer 0.shortcut.0: ZeroPad.* has stride 2, larger than a side of 1": (
        (Residual((Conv(4, stride=2),), (ZeroPad(4, 2),)),),
        (3, 1, 1),
    ),
    "layer 1: Dense.* needs a flat input, got shape .8, 4, 4.: put Flatten": ((Conv(8), Dense(3)), (3, 4, 4)),
    "layer 0: Conv.* needs an input of shape .channels, height, width., got .9,.": ((Conv(8),), (9,)),
    "layer 1: Pool.* needs an input of shape": ((Flatten(), Pool()), (3, 4, 4)),
    "layer 2: .*reaches over 3 positions, got a side of 2 with padding 0": (
        (RELU, Pool("average", 2), Conv(8, padding=0)),
        (3, 4, 4),
    ),
    "layer 0: .*groups must divide the input's channels, got 2 and 3": ((Conv(8, groups=2),), (3, 4, 4)),
    "layer 0: ZeroPad.*cannot reduce channels": ((ZeroPad(2),), (3, 4, 4)),
    r"layer 1: Residual: branch gives shape \(9,\), shortcut \(8,\), for input \(8,\)": (
        (Dense(8), Residual(Sequential((Dense(9),)))),
        (4,),
    ),
    "layer 0.1: Dense.* needs a flat input": ((Sequential((RELU, Dense(2))),), (3, 4, 4)),
    "layer 0.branch.0: Pool.* reaches over 5 positions": ((Residual(Sequential((Pool("max", 5),))),), (3, 4, 4)),
}


@pytest.mark.parametrize("message", MISFITS)
def test_mismatched_shapes_name_the_layer(message):
    with pytest.raises(ValueError, match=message):
        Sequential(*MISFITS[message])


def test_wrong_parts_are_refused():
    with pytest.raises(ValueError, match=r"a layer must be one of Dense, .* got 'relu'"):
        Sequential(("relu",), (4,))
    with pytest.raises(ValueError, match=r"input_shape must be \(n,\) or \(channels, height, width\), got \(4, 4\)"):
        Sequential((), (4, 4))
    with pytest.raises(ValueError, match=r"input_shape must be \(n,\) or \(channels, height, width\), got 4"):
        Sequential((), 4)
    with pytest.raises(ValueError, match=r"layers must be a tuple of layers, got Dense\(8"):
        Sequential(Dense(8), (4,))
    with pytest.raises(ValueError, match=r"layers 0\.\*: made for input_shape=\(3,\), got \(8,\)"):
        Sequential((Sequential((Dense(2),), (3,)),), (8,))
    with pytest.raises(ValueError, match=r"gain must be between 1e-100 and 1e100, got 1e\+200"):
        Dense(3, initialization("he_normal", gain=1e200))
    with pytest.raises(ValueError, match=r"a block's branch takes the shape it is given"):
        Residual(mlp(1, 4))
    with pytest.raises(ValueError, match=r"groups must divide channels, got 3 groups and 8 channels"):
        Conv(8, groups=3)
    with pytest.raises(ValueError, match=r"a pool over the whole map has no stride"):
        Pool("max", stride=2)
    with pytest.raises(ValueError, match=r"a network needs an input shape"):
        next(leaves(Sequential((Dense(4),))))
    with pytest.raises(ValueError, match=r"a network needs an input shape"):
        next(leaves("mlp"))


def _json(**changes):
    layer = {"type": "Dense", "features": 3, "bias": None, **changes}
    return json.dumps({"type": "Sequential", "layers": [layer], "input_shape": [4]})


BAD_JSON = {
    "type must be one of Dense.*got 'Dens' .did you mean Dense": _json(type="Dens"),
    "type must be one of .*got None": '{"layers": []}',
    "a field of Dense must be one of features, init, bias; got 'feature' .did you mean features": _json(feature=3),
    "features must be at least 1, got 0": _json(features=0),
    "Dropout: .*rate": json.dumps({"type": "Sequential", "layers": [{"type": "Dropout"}], "input_shape": [4]}),
    "gain must be .*got nan": _json(init={"type": "Initialization", "name": "mine", "gain": math.nan}),
    "Initialization: .*gain": _json(init={"type": "Initialization", "name": "mine"}),
    "init must be one of .*got 'he'": _json(init="he"),
    "(?i)activation.*'relux'": _json(type="Activation", features=None, name="relux"),
    "not a network description: invalid JSON at line 1, column 2": "{",
    "must be a Sequential, got Dense": '{"type": "Dense", "features": 3}',
    "must be a Sequential, got int": "3",
    "nested too deeply": "[" * 100_000,
    "layers must be a tuple of layers, got 3": '{"type": "Sequential", "layers": 3}',
}


def test_bad_json_names_the_row():
    """The name that the row would have, of the layer that is wrong, once."""
    text = Sequential((RELU, Residual((Sequential((BatchNorm(), Dense(4))),), (Dense(4),))), (4,)).to_json()
    for old, new, message in (
        ('"gamma": 1.0', '"gamma": -1', "layer 1.branch.0.0: BatchNorm: gamma must be finite and at least 0, got -1"),
        ('"features": 4', '"features": 0', "layer 1.branch.0.1: features must be at least 1, got 0"),
        ('"relu"', '"rellu"', "layer 0: .*'rellu'"),
        ('"scale": 1.0', '"scale": 0', "layer 1: scale must be finite and above 0, got 0"),
        ('"features": 4', '"features": 3', "layer 1: Residual: branch gives shape"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            from_json(text.replace(old, new, 1))


@pytest.mark.parametrize("message", BAD_JSON)
def test_bad_json_names_the_offender(message):
    text = BAD_JSON[message].replace('"features": null, ', "").replace('"bias": null, "name"', '"name"')
    with pytest.raises(ValueError, match=message):
        from_json(text)


def test_a_user_s_activation_is_a_layer_but_not_json():
    square = Activation.from_function("square", np.square, lambda x: 2 * x)
    net = mlp(2, 4, activation=square)
    assert [leaf.operation for leaf in leaves(net)][2] == "square" and hash(net) == hash(mlp(2, 4, square))
    with pytest.raises(ValueError, match=r"square"):
        net.to_json()


def test_rearrangements_name_what_does_not_fit():
    assert [str(layer) for layer in NETWORKS["unflattened"].layers] == [
        "Unflatten(6×2×2)",
        "Unroll",
        "Upsample(3×1)",
        "Offset(0.25)",
        "Mix(4, he_normal, bias=0.5)",
        "Flatten",
        "Unflatten(24×1×1)",
        "Channels(3, 9)",
    ]
    for make, message in (
        (lambda: Channels(3, 3), "Channels: stop must be above start, got 3 and 3"),
        (lambda: Channels(-1, 3), "Channels: start must be at least 0, got -1"),
        (
            lambda: Channels(3, 9).output_shape((8, 2, 2)),
            r"Channels\(3, 9\) needs at least 9 channels, got shape \(8, 2, 2\)",
        ),
        (lambda: Offset(-1), "Offset: variance must be finite and at least 0, got -1"),
        (
            lambda: Mix(4).output_shape((6, 2, 2)),
            r"Mix\(4, he_normal\) needs an input of shape \(channels, positions, 1\)",
        ),
        (lambda: ConvTranspose(2, 2, 2, 2), "ConvTranspose: padding must be below the kernel, got 2 and 2"),
        (lambda: ConvTranspose(2, 2, 1, 0, 1), "ConvTranspose: output_padding must be below the stride, got 1 and 1"),
        (
            lambda: ConvTranspose(2, 4, 1, 3).output_shape((3, 2, 9)),
            r"leaves nothing of shape \(3, 2, 9\): use less padding",
        ),
        (lambda: Upsample(0), "Upsample: factor must be at least 1, got 0"),
        (lambda: Unflatten((6, 2)), r"Unflatten: shape must be \(channels, height, width\), got \(6, 2\)"),
        (lambda: Unflatten((6, 0, 2)), "Unflatten: shape must be at least 1, got 0"),
        (lambda: Unflatten((6, 2, 2)).output_shape((6, 2, 2)), r"Unflatten\(6×2×2\) needs an input of shape \(24,\)"),
        (
            lambda: Unroll().output_shape((6,)),
            r"Unroll needs an input of shape \(channels, height, width\), got \(6,\)",
        ),
        (lambda: Unflatten((6, 2, 2)).output_shape((25,)), r"of shape \(24,\), got \(25,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
