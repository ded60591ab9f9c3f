"""Architectures by name against their papers."""

import pytest

from bntheory.activations import Activation
from bntheory.architectures import cnn, mlp, resnet, vgg
from bntheory.layers import BatchNorm, Conv, Dense, Flatten, Pool
from bntheory.networks import leaves


def rows(net):
    return {leaf.name: leaf.shape for leaf in leaves(net)}


def test_mlp_counts_dense_and_activation_pairs():
    assert [str(leaf.layer)[:5] for leaf in leaves(mlp(2, 4))][1:] == ["Dense", "relu"] * 2
    assert list(rows(mlp(2, 4, output_width=3)).values()) == [(4,)] * 5 + [(3,)]
    normed = [leaf.operation for leaf in leaves(mlp(1, 4, batch_norm=True))]
    assert normed == ["input", "Dense(4, he_normal)", "BatchNorm", "relu"]
    blocks = rows(mlp(2, 4, residual=True, batch_norm=True, input_width=3))
    assert list(blocks)[:6] == ["input", "0", "1.branch.0", "1.branch.1", "1.branch.2", "1.sum"]


def test_mlp_with_layer_norm_has_one_where_batch_norm_would_be():
    for options in ({}, {"residual": True, "input_width": 3}):
        one, other = (mlp(2, 4, **options, **{norm: True}) for norm in ("layer_norm", "batch_norm"))
        swapped = [leaf.operation.replace("LayerNorm", "BatchNorm") for leaf in leaves(one)]
        assert swapped == [leaf.operation for leaf in leaves(other)] and one != other
    with pytest.raises(ValueError, match="one normalization, got batch_norm=True and layer_norm=True"):
        mlp(2, 4, batch_norm=True, layer_norm=True)
    with pytest.raises(ValueError, match="layer_norm must be True or False, got 1"):
        mlp(2, 4, layer_norm=1)


@pytest.mark.parametrize(("depth", "stages"), [(11, "11222"), (13, "22222"), (16, "22333"), (19, "22444")])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_vgg_is_the_one_of_simonyan_and_zisserman(depth, stages, batch_norm):
    """Their table 1, columns A, B, D and E: depth − 3 convolutions; on 32×32 images one position is left."""
    convolutions = [leaf for leaf in leaves(vgg(depth, batch_norm)) if isinstance(leaf.layer, Conv)]
    expected = [
        (channels, side, side)
        for channels, side, count in zip((64, 128, 256, 512, 512), (32, 16, 8, 4, 2), stages, strict=True)
        for _ in range(int(count))
    ]
    assert [leaf.shape for leaf in convolutions] == expected and len(expected) == depth - 3
    assert all((leaf.layer.kernel, leaf.layer.stride, leaf.layer.padding) == (3, 1, 1) for leaf in convolutions)
    assert all(leaf.layer.bias == (0 if batch_norm else None) for leaf in convolutions)
    kinds = [type(layer) for layer in vgg(depth, batch_norm).layers]
    assert kinds.count(BatchNorm) == batch_norm * (depth - 3) and kinds.count(Activation) == depth - 3
    assert kinds.count(Pool) == 5 and kinds[-3:] == [Pool, Flatten, Dense]


@pytest.mark.parametrize(
    ("image", "pools", "entries"),
    [((3, 32, 32), 5, 16), ((3, 8, 8), 3, 16), ((1, 9, 4), 2, 32), ((3, 1, 7), 0, 112), ((3, 64, 64), 5, 64)],
)
def test_vgg_pools_as_long_as_there_is_something_to_pool(image, pools, entries):
    net = vgg(11, image=image, channels=2)
    assert sum(isinstance(layer, Pool) for layer in net.layers) == pools
    assert list(leaves(net))[-2].shape == (entries,) and net.output_shape(image) == (10,)


@pytest.mark.parametrize("depth", [10, 12, 18, 20])
def test_vgg_depths_are_the_paper_s(depth):
    with pytest.raises(ValueError, match=f"depth of a VGG network must be 11, 13, 16 or 19, got {depth}"):
        vgg(depth)


def test_cnn_counts_convolution_and_activation_pairs():
    shapes = rows(cnn(3, 4, image=(1, 5, 6)))
    assert list(shapes.values()) == [(1, 5, 6)] + [(4, 5, 6)] * 6
    assert list(rows(cnn(2, 4, batch_norm=True, classes=7)).values())[-4:] == [(4, 32, 32), (4, 1, 1), (4,), (7,)]
    text = str(cnn(2, 4, "tanh", "torch_default", batch_norm=True, kernel=5))
    assert text == "input 3×32×32; 2 × [Conv(4, 5×5, torch_default, bias=0), BatchNorm, tanh]"
    assert cnn(1, 4, bias=0.2, classes=3).layers[-1].bias == cnn(1, 4, bias=0.2).layers[0].bias == 0.2


@pytest.mark.parametrize("make", [resnet, vgg, cnn])
def test_images_are_checked(make):
    with pytest.raises(ValueError, match=r"image must be \(channels, height, width\), got \(32, 32\)"):
        make(image=(32, 32))
    with pytest.raises(ValueError, match="image must be at least 1, got 0"):
        make(image=(3, 0, 32))


@pytest.mark.parametrize("depth", [8, 20, 56, 110])
@pytest.mark.parametrize("shortcut", ["projection", "zero-pad"])
def test_resnet_is_the_one_of_he_et_al(depth, shortcut):
    names = [leaf for leaf in leaves(resnet(depth, True, shortcut=shortcut)) if isinstance(leaf.layer, Conv)]
    main = [leaf for leaf in names if "shortcut" not in leaf.name]
    assert len(main) == depth - 1  # the classifier is the last of `depth` layers
    assert len(names) - len(main) == (2 if shortcut == "projection" else 0)
    per_stage = (depth - 2) // 3
    stages = [(16, 32, 32)] * (1 + per_stage) + [(32, 16, 16)] * per_stage + [(64, 8, 8)] * per_stage
    assert [leaf.shape for leaf in main] == stages
    sums = [leaf for leaf in leaves(resnet(depth)) if leaf.operation == "sum"]
    assert len(sums) == (depth - 2) // 2


@pytest.mark.parametrize(("depth", "nearest"), [(2, 8), (9, 8), (21, 20), (100, 98), (111, 110)])
def test_resnet_depth_names_the_nearest(depth, nearest):
    with pytest.raises(ValueError, match=rf"6 n \+ 2, got {depth}; the nearest is {nearest}"):
        resnet(depth)
