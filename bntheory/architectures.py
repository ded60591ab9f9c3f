"""Networks by name: multilayer perceptrons, plain convolutional networks, VGG, and CIFAR-style ResNets."""

from __future__ import annotations

import dataclasses

from bntheory import activations, arguments
from bntheory.activations import Activation
from bntheory.initializations import Initialization, initialization
from bntheory.layers import (
    MOST_UNITS,
    BatchNorm,
    Conv,
    Dense,
    Flatten,
    LayerNorm,
    Pool,
    Shape,
    ZeroPad,
)
from bntheory.networks import Layer, Residual, Sequential

VGG_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # of each stage


def mlp(
    depth: int,
    width: int,
    activation: str | Activation = "relu",
    init: str | Initialization = "he_normal",
    bias: float | None = None,
    batch_norm: bool = False,
    residual: bool = False,
    input_width: int | None = None,
    output_width: int | None = None,
    layer_norm: bool = False,
) -> Sequential:
    """Describe a multilayer perceptron.

    Parameters
    ----------
    depth : int
        Number of Dense + activation pairs, at least 1.
    width : int
        Units of every hidden layer.
    activation : str or Activation
    init : str or Initialization
    bias : float, optional
        Variance of the Gaussian biases; None: the initialization's own.
    batch_norm : bool
        A BatchNorm between each Dense and its activation (residual: before the activation).
    residual : bool
        Pre-activation blocks h + W φ(h), after a plain Dense if the input's width differs.
    input_width : int, optional
        None: `width`.
    output_width : int, optional
        Adds a Dense of that many outputs; None: no separate output layer.
    layer_norm : bool
        A LayerNorm where `batch_norm` puts a BatchNorm.

    Returns
    -------
    Sequential

    Raises
    ------
    ValueError
        For a depth or width below 1, an unknown activation or initialization, or both normalizations at once.

    Examples
    --------
    >>> print(mlp(depth=50, width=256))
    input 256; 50 × [Dense(256, he_normal), relu]
    """
    depth = arguments.integer("depth", depth, at_most=1_000_000)
    width = arguments.integer("width", width, at_most=MOST_UNITS)
    input_width = width if input_width is None else arguments.integer("input_width", input_width, at_most=MOST_UNITS)
    arguments.flag("batch_norm", batch_norm)
    arguments.flag("residual", residual)
    if arguments.flag("layer_norm", layer_norm) and batch_norm:
        raise ValueError("mlp has one normalization, got batch_norm=True and layer_norm=True: use Sequential for both")
    dense, phi = Dense(width, initialization(init), bias), activations.activation(activation)
    norm: tuple[Layer, ...] = (BatchNorm(),) if batch_norm else (LayerNorm(),) if layer_norm else ()
    layers: tuple[Layer, ...] = (dense, *norm, phi) * depth
    if residual:
        layers = (Residual(Sequential((*norm, phi, dense))),) * depth
        if input_width != width:
            layers = (dense, *layers)
    if output_width is not None:
        layers += (dataclasses.replace(dense, features=arguments.integer("output_width", output_width)),)
    return Sequential(layers, (input_width,))


def resnet(
    depth: int = 110,
    batch_norm: bool = False,
    init: str | Initialization = "xavier_normal",
    image: Shape = (3, 32, 32),
    classes: int = 10,
    shortcut: str = "projection",
    activation: str | Activation = "relu",
    final_batch_norm: bool = False,
) -> Sequential:
    """Describe a CIFAR residual network, version 1: three stages of 16, 32, 64 channels, activation after each sum.

    Parameters
    ----------
    depth : int
        6 n + 2: stem, 6 n convolutions on the main path (projections not counted), classifier.
    batch_norm : bool
        A BatchNorm after every convolution, projections included.
    init : str or Initialization
    image : tuple
        (channels, height, width) of the input.
    classes : int
    shortcut : {"projection", "zero-pad"}
        Where the shape changes: a 1×1 convolution of stride 2, or subsampling with zero channels.
    activation : str or Activation
    final_batch_norm : bool
        A BatchNorm of the classifier's outputs: by itself, the network "with BN in the last layer only".

    Returns
    -------
    Sequential

    Raises
    ------
    ValueError
        If depth is not 6 n + 2 with n ≥ 1, or a word is unknown.

    References
    ----------
    He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition", section 4.2.

    Examples
    --------
    >>> from bntheory.networks import leaves
    >>> net = resnet(depth=8, batch_norm=True)
    >>> sum(leaf.operation.startswith("Conv") for leaf in leaves(net))  # with two projections
    9
    """
    depth = arguments.integer("depth", depth)
    if depth < 8 or (depth - 2) % 6:
        nearest = max(8, 6 * round((depth - 2) / 6) + 2)
        raise ValueError(f"depth of a CIFAR ResNet must be 6 n + 2, got {depth}; the nearest is {nearest}")
    arguments.choice("shortcut", shortcut, ("projection", "zero-pad"))
    arguments.flag("batch_norm", batch_norm)
    arguments.flag("final_batch_norm", final_batch_norm)
    image = _image(image)
    law, phi = initialization(init), activations.activation(activation)
    norm: tuple[Layer, ...] = (BatchNorm(),) if batch_norm else ()

    def conv(channels: int, stride: int = 1, kernel: int = 3) -> tuple[Layer, ...]:
        return (Conv(channels, kernel, stride, init=law, bias=0.0 if batch_norm else None), *norm)

    layers: list[Layer] = [*conv(16), phi]
    for channels, first_stride in ((16, 1), (32, 2), (64, 2)):
        for block in range((depth - 2) // 6):
            stride = first_stride if block == 0 else 1
            matching: tuple[Layer, ...] = ()
            if stride == 2 and shortcut == "projection":
                matching = conv(channels, stride, kernel=1)
            elif stride == 2:
                matching = (ZeroPad(channels, stride),)
            branch = Sequential((*conv(channels, stride), phi, *conv(channels)))
            layers += [Residual(branch, Sequential(matching)), phi]
    layers += [Pool("average"), Flatten(), Dense(classes, law), *(BatchNorm(),) * final_batch_norm]
    return Sequential(tuple(layers), image)


def vgg(
    depth: int = 16,
    batch_norm: bool = False,
    init: str | Initialization = "he_normal",
    image: Shape = (3, 32, 32),
    classes: int = 10,
    activation: str | Activation = "relu",
    channels: int = 64,
) -> Sequential:
    """Describe a VGG network in its CIFAR form: five stages of 3×3 convolutions, then one Dense layer instead of three.

    Parameters
    ----------
    depth : {11, 13, 16, 19}
        The paper's name: 3 more than the convolutions, so that VGG-16 has 13.
    batch_norm : bool
        A BatchNorm after every convolution.
    init : str or Initialization
    image : tuple
        (channels, height, width) of the input. A 2×2 maximum follows every stage whose map has both sides of at least
        2: images below 32×32 are pooled less often, larger ones leave more than 1×1 positions to the Dense layer.
    classes : int
    activation : str or Activation
    channels : int
        Of the first stage; the others have 2, 4, 8 and 8 times as many.

    Returns
    -------
    Sequential

    Raises
    ------
    ValueError
        If depth is not one of the four, a word is unknown, or a size is below 1.

    References
    ----------
    Simonyan, Zisserman 2015, "Very deep convolutional networks for large-scale image recognition", table 1.

    Examples
    --------
    >>> from bntheory.networks import leaves
    >>> net = vgg(16)
    >>> sum(leaf.operation.startswith("Conv") for leaf in leaves(net)), str(net.layers[-1])
    (13, 'Dense(10, he_normal)')
    """
    if arguments.integer("depth", depth) not in VGG_CONVOLUTIONS:
        raise ValueError(f"depth of a VGG network must be 11, 13, 16 or 19, got {depth}")
    arguments.flag("batch_norm", batch_norm)
    law, phi = initialization(init), activations.activation(activation)
    image, channels = _image(image), arguments.integer("channels", channels, at_most=MOST_UNITS // 8)
    norm: tuple[Layer, ...] = (BatchNorm(),) if batch_norm else ()
    layers: tuple[Layer, ...] = ()
    side = min(image[1:])
    for factor, convolutions in zip((1, 2, 4, 8, 8), VGG_CONVOLUTIONS[depth], strict=True):
        conv = Conv(channels * factor, init=law, bias=0.0 if batch_norm else None)
        layers += (conv, *norm, phi) * convolutions
        if side >= 2:
            layers, side = (*layers, Pool("max", 2)), side // 2
    return Sequential((*layers, Flatten(), Dense(classes, law)), image)


def cnn(
    depth: int = 20,
    channels: int = 64,
    activation: str | Activation = "relu",
    init: str | Initialization = "he_normal",
    bias: float | None = None,
    batch_norm: bool = False,
    kernel: int = 3,
    image: Shape = (3, 32, 32),
    classes: int | None = None,
) -> Sequential:
    """Describe a plain convolutional network of one width, without pooling between its layers.

    Parameters
    ----------
    depth : int
        Number of Conv + activation pairs, at least 1.
    channels : int
        Of every convolution.
    activation : str or Activation
    init : str or Initialization
    bias : float, optional
        Variance of the Gaussian biases; None: the initialization's own, and none before a BatchNorm.
    batch_norm : bool
        A BatchNorm between each convolution and its activation.
    kernel : int
        Side of the kernel, with padding (kernel − 1) // 2: an odd one keeps the size of the map.
    image : tuple
        (channels, height, width) of the input.
    classes : int, optional
        Adds the mean over the map and a Dense of that many outputs; None: no separate output layer.

    Returns
    -------
    Sequential

    Raises
    ------
    ValueError
        For a size below 1, a word that is unknown, or an even kernel that uses up the map.

    Examples
    --------
    >>> print(cnn(depth=20, channels=16, classes=10))
    input 3×32×32; 20 × [Conv(16, 3×3, he_normal), relu], Pool(average, whole map), Flatten, Dense(10, he_normal)
    """
    depth = arguments.integer("depth", depth, at_most=1_000_000)
    arguments.flag("batch_norm", batch_norm)
    law, phi = initialization(init), activations.activation(activation)
    conv = Conv(channels, kernel, init=law, bias=0.0 if batch_norm and bias is None else bias)
    norm: tuple[Layer, ...] = (BatchNorm(),) if batch_norm else ()
    layers: tuple[Layer, ...] = (conv, *norm, phi) * depth
    if classes is not None:
        layers += (Pool("average"), Flatten(), Dense(arguments.integer("classes", classes), law, bias))
    return Sequential(layers, _image(image))


def _image(shape: Shape) -> Shape:
    if not isinstance(shape, (tuple, list)) or len(shape) != 3:
        raise ValueError(f"image must be (channels, height, width), got {shape!r}")
    return tuple(arguments.integer("image", side) for side in shape)
