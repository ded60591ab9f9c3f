"""Remedies for networks whose activations or gradients explode, vanish or collapse: description ↦ description.

Each returns the network with the remedy, or the same network where it does not apply. Whether a remedy helps is not
said here: the changed description is predicted like any other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

from bntheory.activations import Activation
from bntheory.growth.phase import critical_gain
from bntheory.layers import BatchNorm, Conv, Dense, GroupNorm, LayerNorm
from bntheory.networks import Join, Layer, Residual, Sequential, parts

Change = Callable[[Layer], Layer]


def with_critical_gain(net: Sequential) -> Sequential:
    """Give all weights the critical gain of the network's activation, over fan_in, and no biases.

    Parameters
    ----------
    net : Sequential

    Returns
    -------
    Sequential
        The same if it has several activations or none, or the activation has no critical gain without biases.

    References
    ----------
    Schoenholz et al. 2017; He et al. 2015 for ReLU.

    Examples
    --------
    >>> from bntheory import mlp
    >>> print(with_critical_gain(mlp(3, 8, "relu", "lecun_normal")))
    input 8; 3 × [Dense(8, lecun_normal(gain=1.41421)), relu]
    """
    found = {layer for layer in flat(net) if isinstance(layer, Activation)}
    if len(found) != 1:
        return net
    try:
        gain = critical_gain(found.pop())
    except ValueError:
        return net

    def change(layer: Layer) -> Layer:
        if not isinstance(layer, (Dense, Conv)):
            return layer
        mode = layer.init.mode if layer.init.distribution == "orthogonal" else "fan_in"
        has_biases = bool(layer.init.bias_gain if layer.bias is None else layer.bias)
        if math.isclose(layer.init.gain, gain, rel_tol=1e-6) and layer.init.mode == mode and not has_biases:
            return layer
        init = dataclasses.replace(layer.init, gain=gain, mode=mode)
        return dataclasses.replace(layer, init=init, bias=0.0 if has_biases else layer.bias)

    return everywhere(net, change)


def with_batch_norm(net: Sequential) -> Sequential:
    """Put a BatchNorm before every activation that has no normalization; in blocks that begin with weights, after all.

    Parameters
    ----------
    net : Sequential

    Returns
    -------
    Sequential
        Convolutions before a BatchNorm lose the biases of their initialization, which it would cancel.

    References
    ----------
    Ioffe, Szegedy 2015, section 3.2; He et al. 2016, section 3.4.

    Examples
    --------
    >>> from bntheory import mlp, resnet
    >>> print(with_batch_norm(mlp(3, 8)))
    input 8; 3 × [Dense(8, he_normal), BatchNorm, relu]
    >>> with_batch_norm(resnet(20)) == resnet(20, batch_norm=True)
    True
    """
    return _normalized(net)


def with_scaled_branches(net: Sequential) -> Sequential:
    """Multiply the branch of each of L residual blocks by 1/√L.

    Parameters
    ----------
    net : Sequential

    Returns
    -------
    Sequential
        The same without residual blocks.

    References
    ----------
    Hayou et al. 2021, "Stable ResNet" (arXiv:2010.12859).

    Examples
    --------
    >>> from bntheory import mlp
    >>> print(with_scaled_branches(mlp(4, 8, residual=True)))
    input 8; 4 × [Residual([relu, Dense(8, he_normal)], scale=0.5)]
    """
    scale = 1 / math.sqrt(max(blocks(net), 1))

    def change(layer: Layer) -> Layer:
        return dataclasses.replace(layer, scale=scale) if isinstance(layer, Residual) else layer

    return everywhere(net, change)


def with_zero_branches(net: Sequential) -> Sequential:
    """End every residual branch with a BatchNorm of γ = 0, so that each block starts as its shortcut.

    Parameters
    ----------
    net : Sequential

    Returns
    -------
    Sequential
        The same without residual blocks.

    References
    ----------
    Goyal et al. 2017 (arXiv:1706.02677), section 5.1.

    Examples
    --------
    >>> from bntheory import mlp
    >>> print(with_zero_branches(mlp(4, 8, residual=True)))
    input 8; 4 × [Residual([relu, Dense(8, he_normal), BatchNorm(gamma=0)])]
    """

    def change(layer: Layer) -> Layer:
        if not isinstance(layer, Residual) or not layer.branch.layers:
            return layer
        *rest, last = layer.branch.layers
        end = (dataclasses.replace(last, gamma=0.0),) if isinstance(last, BatchNorm) else (last, BatchNorm(gamma=0))
        return dataclasses.replace(layer, branch=Sequential((*rest, *end)))

    return everywhere(net, change)


REMEDIES: dict[str, Callable[[Sequential], Sequential]] = {
    "critical gain": with_critical_gain,
    "BatchNorm before activations": with_batch_norm,
    "branches scaled by 1/√L": with_scaled_branches,
    "branches that end in BatchNorm(gamma=0)": with_zero_branches,
}


def flat(net: Layer) -> Iterator[Layer]:
    """Yield every layer that has no layers of its own, those of blocks included."""
    inside = net.layers if isinstance(net, Sequential) else tuple(parts(net).values())
    if not inside and not isinstance(net, Sequential):
        yield net
    for layer in inside:
        yield from flat(layer)


def blocks(net: Layer) -> int:
    """Count the residual blocks, those inside of others included."""
    inside = net.layers if isinstance(net, Sequential) else tuple(parts(net).values())
    return isinstance(net, Residual) + sum(map(blocks, inside))


def everywhere(sequence: Sequential, change: Change) -> Sequential:
    """Return the description with every layer changed, from the inside out.

    Examples
    --------
    >>> from bntheory import mlp
    >>> print(everywhere(mlp(2, 8, batch_norm=True), lambda layer: BatchNorm(0) if layer == BatchNorm() else layer))
    input 8; 2 × [Dense(8, he_normal), BatchNorm(epsilon=0), relu]
    """
    return dataclasses.replace(sequence, layers=tuple(_changed(layer, change) for layer in sequence.layers))


def _changed(layer: Layer, change: Change) -> Layer:
    if isinstance(layer, Sequential):
        return everywhere(layer, change)
    if isinstance(layer, Residual):
        branch, shortcut = everywhere(layer.branch, change), everywhere(layer.shortcut, change)
        layer = dataclasses.replace(layer, branch=branch, shortcut=shortcut)
    if isinstance(layer, Join):
        layer = dataclasses.replace(layer, branches=tuple(everywhere(part, change) for part in layer.branches))
    return change(layer)


def _normalized(sequence: Sequential, after_all: bool = False, before_first: bool = False) -> Sequential:
    """Normalize weights that an activation follows, or all of them; and an activation that comes first, if asked."""
    made: list[Layer] = []
    for index, layer in enumerate(sequence.layers):
        after = sequence.layers[index + 1] if index + 1 < len(sequence.layers) else None
        if isinstance(layer, Sequential):
            made.append(_normalized(layer, after_all, before_first and index == 0))
        elif isinstance(layer, Residual):
            made.append(_normalized_block(layer))
        elif isinstance(layer, Join):
            made.append(dataclasses.replace(layer, branches=tuple(map(_normalized, layer.branches))))
        elif isinstance(layer, (Dense, Conv)) and not _is_norm(after) and (after_all or isinstance(after, Activation)):
            made += [_unbiased(layer), BatchNorm()]
        else:
            made += [BatchNorm()] if before_first and index == 0 and isinstance(layer, Activation) else []
            made.append(layer)
    return dataclasses.replace(sequence, layers=tuple(made))


def _normalized_block(block: Residual) -> Residual:
    """Blocks that begin with weights are normalized after all of them, others before their activations."""
    if block.branch.layers and isinstance(block.branch.layers[0], (Dense, Conv)):
        branch, shortcut = (_normalized(part, after_all=True) for part in (block.branch, block.shortcut))
        return dataclasses.replace(block, branch=branch, shortcut=shortcut)
    return dataclasses.replace(block, branch=_normalized(block.branch, before_first=True))


def _is_norm(layer: Layer | None) -> bool:
    return isinstance(layer, (BatchNorm, LayerNorm, GroupNorm))


def _unbiased(layer: Dense | Conv) -> Dense | Conv:
    return dataclasses.replace(layer, bias=0.0) if isinstance(layer, Conv) and layer.bias is None else layer
