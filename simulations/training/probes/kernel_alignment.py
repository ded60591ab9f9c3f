"""Probe: whether the contributions of images and positions to a weight's gradient add up or cancel (table 1).

The gradient of a kernel's weight is a sum over images b and positions (x, y) of the output O of contributions

    d = ∂L/∂O[b, co, x, y] · I[b, ci, x + i, y + j],     a = Σ |d|,     b = |Σ d|.

|d| is a product as well, so that a is the gradient that a convolution has whose input is |I| and whose output's
gradient is |∂L/∂O|: exact, at the cost of one more weight gradient a layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from simulations.graded import Floats
from simulations.training.modules import torch
from simulations.training.probes import passes, weight_layers
from simulations.training.probes.evaluation import Loss
from simulations.training.probes.reporting import aligned, plain, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

nn = torch.nn
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the quantiles that stand for the channel pairs in a file
CONVOLUTIONS = {
    nn.Conv1d: nn.grad.conv1d_weight,
    nn.Conv2d: nn.grad.conv2d_weight,
    nn.Conv3d: nn.grad.conv3d_weight,
    nn.ConvTranspose1d: nn.grad.conv1d_weight,
    nn.ConvTranspose2d: nn.grad.conv2d_weight,
    nn.ConvTranspose3d: nn.grad.conv3d_weight,
}
KINDS = (nn.Linear, *CONVOLUTIONS)


@dataclass(frozen=True, eq=False)
class KernelAlignment:
    """What `kernel_alignment` found.

    Attributes
    ----------
    layers : tuple of str
        Names of the convolutions and linear layers that the images reach, in the order of their modules.
    numbers : tuple of int or None
        Their numbers along the main path, as the paper counts.
    ratio : ndarray, (layers,)
        mean(a)/mean(b) over the weights, at least 1: 1 if all contributions have one sign. NaN where all are 0 or some
        are not finite.
    median_ratio : ndarray, (layers,)
        Median of a/b over the weights with a > 0. The mean of a/b diverges.
    magnitudes : tuple of ndarray, (first axis of the weight, second axis)
        Sum over the kernel of b, the magnitude of the gradient: a number for every pair of channels.
    """

    layers: tuple[str, ...]
    numbers: tuple[int | None, ...]
    ratio: Floats
    median_ratio: Floats
    magnitudes: tuple[Floats, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for strict JSON (see `reporting.plain`), of channel pairs five quantiles."""
        return {
            "layers": list(self.layers),
            "numbers": list(self.numbers),
            "ratio": plain(self.ratio),
            "median_ratio": plain(self.median_ratio),
            "magnitude_quantiles": [plain(np.quantile(pairs, LEVELS)) for pairs in self.magnitudes],
        }

    def table(self, most: int = 24) -> str:
        """Return the layers as aligned text; of many the first and last `most`/2."""
        medians = [np.median(pairs) for pairs in self.magnitudes]
        columns = zip(self.layers, self.numbers, self.ratio, self.median_ratio, medians, strict=True)
        lines = [(name, *map(short, values)) for name, *values in columns]
        return aligned(("weights", "layer", "mean a/mean b", "median a/b", "median of a pair"), lines, most)

    def __str__(self) -> str:
        return self.table()

    def plot(self, ax: Axes | None = None, layer: str | int | None = None) -> Axes:
        """Draw the two ratios against the layer; of one layer the magnitude of the gradient of every channel pair.

        Parameters
        ----------
        ax : Axes, optional
            None: a new figure.
        layer : str or int, optional
            Its name, or its number along the main path.

        Returns
        -------
        Axes

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        from matplotlib import pyplot

        from bntheory.plotting import BLUE, ORANGE

        name = None if layer is None else weight_layers.chosen(layer, self.layers)
        ax = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        if name is not None:
            pairs = self.magnitudes[self.layers.index(name)]
            image = ax.imshow(pairs, aspect="auto", interpolation="none", norm="log" if pairs.min() > 0 else None)
            ax.figure.colorbar(image, ax=ax, label="sum over the kernel of |gradient|")
            ax.set_xlabel(f"second axis of the weights, {name}")
            ax.set_ylabel("first axis")
            return ax
        main = [place for place, number in enumerate(self.numbers) if number is not None]
        at = [self.numbers[place] for place in main]
        for values, text, color in ((self.ratio, "mean a / mean b", BLUE), (self.median_ratio, "median a/b", ORANGE)):
            ax.plot(at, values[main], "o-", color=color, ms=3, lw=1, label=text)
        ax.set_yscale("log")
        ax.set_xlabel(r"layer $\ell$ along the main path")
        ax.set_ylabel(r"$a = \Sigma\,|d|$ over $b = |\Sigma\,d|$")
        ax.legend(fontsize="small")
        return ax


def kernel_alignment(
    model: nn.Module,
    images: np.ndarray | torch.Tensor,
    labels: np.ndarray | torch.Tensor,
    loss: Loss = nn.functional.cross_entropy,
) -> KernelAlignment:
    """Compare, for every weight, the sum of its contributions' magnitudes with the magnitude of their sum.

    Contributions d, one an image and position, are those of the module's docstring; of a linear layer there is one an
    image, and one a position where its input has more axes. The calls of a module that runs several times are taken
    together. Nothing of the model is changed, also if something raises.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode it is in.
    images : array or tensor of float32 or float64, (batch, *shape)
    labels : array or tensor, (batch, …)
    loss : callable
        loss(outputs, labels), one number.

    Returns
    -------
    KernelAlignment
        ``table``, ``to_dict``, ``plot``.

    Raises
    ------
    ValueError
        If the module has no weights, if no convolution or linear layer lies between images and loss, if the batch is
        not one of finite numbers or labels do not fit.

    Notes
    -----
    One forward pass and one backward pass through the activations, and twice the weight gradient of each layer, taken
    when the backward pass is there: beyond what a training step holds, copies of one layer's input and output. On a GPU
    convolutions have the precision that is set for them (TF32, if it is on).

    References
    ----------
    Bjorck, Gomes, Selman, Weinberger 2018 (arXiv 1806.02375), section 3.3, table 1 and figure 7. What is expected at
    infinite width: `bntheory.kernel_alignment`.

    Examples
    --------
    Two images of which one has a gradient of twice the size and the other sign:

    >>> model, images = nn.Linear(1, 1), torch.tensor([[1.0], [1.01]])
    >>> found = kernel_alignment(model, images, torch.tensor([1.0, -2.0]), lambda y, t: (y[:, 0] * t).sum())
    >>> print(found)
    weights  layer  mean a/mean b  median a/b  median of a pair
    model        1          2.961       2.961              1.02
    """
    (found,) = passes.watched([watch(model)], model, images, labels, loss)
    return found


def watch(model: nn.Module, labels: Any = None, loss: Loss | None = None) -> passes.Watch:
    """What the probe wants of a pass, which may have other probes too."""
    weight_layers.weights(model)  # refuses a module without
    modules = {module: name or "model" for name, module in model.named_modules() if isinstance(module, KINDS)}
    sums: dict[nn.Module, torch.Tensor] = {}
    listening = False  # not while other probes go back

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        def backward(gradient: torch.Tensor) -> None:
            if not listening:
                return
            found = _contributions(module, read, gradient.detach())
            sums[module] = sums[module] + found if module in sums else found

        read = inputs[0].detach()
        if output.requires_grad:
            output.register_hook(backward)

    def result(run: passes.Pass) -> KernelAlignment:
        nonlocal listening
        listening = True
        run.gradients([run.images], zeros=False)  # passes every layer that the images reach
        listening = False
        found = {name: _reduced(*sums[module]) for module, name in modules.items() if module in sums}
        if not found:
            raise ValueError(f"no convolution or linear layer of {type(model).__name__} lies between images and loss")
        numbers = weight_layers.numbered(modules.values())
        return KernelAlignment(
            tuple(found),
            tuple(numbers.get(name) for name in found),
            np.array([ratio for ratio, _, _ in found.values()]),
            np.array([median for _, median, _ in found.values()]),
            tuple(pairs for _, _, pairs in found.values()),
        )

    return passes.Watch([(module, hook) for module in modules], True, result)


def _contributions(module: nn.Module, read: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Σ|d| and Σd for every weight, (2, *weight's shape), float64; both factors in units of their largest entry."""
    weight_gradient, factors = _weight_gradient(module), (read, gradient.to(read.dtype))  # it may autocast
    sizes = [torch.linalg.vector_norm(factor, torch.inf) for factor in factors]
    # copies, of this layer alone: they are free again when the backward pass goes on
    units = [factor / torch.where(size > 0, size, 1.0) for factor, size in zip(factors, sizes, strict=True)]
    signed = weight_gradient(*units)
    magnitudes = weight_gradient(*(unit.abs_() for unit in units))
    return torch.stack([magnitudes, signed]).double() * sizes[0].double() * sizes[1].double()


def _weight_gradient(module: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The gradient of a layer's weights from its input and its output's gradient."""
    if isinstance(module, nn.Linear):
        return lambda read, gradient: gradient.flatten(0, -2).T @ read.flatten(0, -2)
    function = next(function for kind, function in CONVOLUTIONS.items() if isinstance(module, kind))
    channels = (module.in_channels, module.out_channels)[:: 1 if module.transposed else -1]
    shape = (channels[0], channels[1] // module.groups, *module.kernel_size)  # weights may be made when looked at
    steps = (module.dilation, module.groups)
    if module.transposed:  # it reads what a convolution's output has, and makes what a convolution reads
        return lambda read, gradient: function(gradient, shape, read, module.stride, module.padding, *steps)
    if module.padding_mode == "zeros" and not isinstance(module.padding, str):
        return lambda read, gradient: function(read, shape, gradient, module.stride, module.padding, *steps)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = functools.partial(nn.functional.pad, pad=module._reversed_padding_repeated_twice, mode=mode)
    return lambda read, gradient: function(padded(read), shape, gradient, module.stride, 0, *steps)


def _reduced(magnitudes: torch.Tensor, signed: torch.Tensor) -> tuple[float, float, Floats]:
    """mean(a)/mean(b), median of a/b, and b summed over the kernel."""
    a, b = magnitudes.cpu().numpy(), np.abs(signed.cpu().numpy())
    some = a > 0
    with np.errstate(divide="ignore", invalid="ignore"):  # b may be exactly 0
        ratio = float(np.divide(a.mean(), b.mean()))
        median = float(np.median(a[some] / b[some])) if some.any() else float("nan")
    return ratio, median, b.reshape(*b.shape[:2], -1).sum(axis=-1)
