"""Probe: how large every row of a torch network is for one batch, reduced to three numbers a row while it runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
from tqdm import tqdm

from bntheory import arguments
from bntheory.networks import Layer, Leaf, Sequential
from simulations import streams
from simulations.samples import Samples, moments
from simulations.training.modules import Join, Residual, build, torch
from simulations.training.probes import passes

nn = torch.nn
Recorder = Callable[[Leaf, torch.Tensor], None]


def measure_growth(model: nn.Module, batch: np.ndarray | torch.Tensor) -> Samples:
    """Measure the second moment, channel mean square and channel variance of every row, in one forward pass.

    Rows: the input, then one per call of a leaf module in execution order, `sum` after the two parts of a
    `simulations.training.modules.Residual`, and the operation of a `Join` after its branches. Of a module made by
    `build(net)` they are those of ``bntheory.networks.leaves(net)``; of any other the operation is the module's class.
    What a forward method does outside modules has no row. Axis 0 counts inputs, axis 1 channels. Each output is reduced
    when it appears: no activation is kept.

    Parameters
    ----------
    model : torch.nn.Module
        Measured in the mode it is in: BatchNorm in training mode normalises with the batch's statistics. Nothing is
        changed, also if the forward pass raises: parameters, gradients, buffers (running statistics), modes, hooks and
        torch's random generators are as before.
    batch : array or tensor of float32 or float64, shape (batch, *input shape)
        Finite, not constant; converted to the type and device of the model's parameters.

    Returns
    -------
    Samples
        One trial; method "measured", seed None. A row with an infinite or NaN entry has +inf, and a RuntimeWarning
        names the first such row.

    Raises
    ------
    ValueError
        If the batch is empty, constant, not finite, not of floating type or of another shape than `build`'s network.
    TypeError
        If `model` is not a module or a row's output is not a tensor of real numbers.

    Examples
    --------
    >>> from bntheory.architectures import mlp
    >>> samples = measure_growth(build(mlp(depth=1, width=4)), np.eye(4))
    >>> samples.operation
    ('input', 'Dense(4, he_normal)', 'relu')
    """
    samples = _measure(model, batch)
    _warn_overflow(samples)
    return samples


def measure_draws(
    net: Sequential,
    batch: np.ndarray | torch.Tensor,
    draws: int,
    seed: int | np.random.Generator = 0,
    dtype: str | torch.dtype | None = None,
    progress: bool | None = None,
) -> Samples:
    """Measure independent networks of one description, each built anew, for the same batch.

    Parameters
    ----------
    net : Sequential
        A description with an input shape.
    batch : array or tensor, (batch, *net.input_shape)
    draws : int
        At least 1. Draw k is ``build(net, seed, dtype, draw=k)``, so the first draws of a longer run are the same.
    seed : int or numpy.random.Generator
    dtype : {"float32", "float64"} or torch.dtype, optional
        Of weights and activations; None: float32.
    progress : bool, optional
        None: a bar on a terminal only.

    Returns
    -------
    Samples
        `draws` trials, BatchNorm in training mode; method "measured". A RuntimeWarning says where activations left the
        range of `dtype`.

    Raises
    ------
    ValueError
        As `measure_growth` and `build`.

    Examples
    --------
    >>> from bntheory.architectures import mlp
    >>> measure_draws(mlp(depth=1, width=4), np.eye(4), draws=3).log_second_moment.shape
    (3, 3)
    """
    draws = arguments.integer("draws", draws)
    root = streams.root(seed)
    indices = tqdm(range(draws), desc="networks", disable=None if progress is None else not progress, leave=False)
    samples = Samples.stack((_measure(build(net, root, dtype, draw), batch) for draw in indices), seed=root)
    _warn_overflow(samples)
    return samples


def _measure(model: nn.Module, batch: np.ndarray | torch.Tensor) -> Samples:
    rows: list[Leaf] = []
    sizes: list[tuple[float, float, float]] = []

    def record(row: Leaf, output: torch.Tensor) -> None:
        rows.append(row)
        sizes.append(moments(_array(output)))

    with passes.forward(model, batch, _hooks(model, record), gradients=False) as run:
        record(Leaf("input", "input", tuple(run.images.shape[1:]), None), run.images)
    order = np.roll(np.arange(len(rows)), 1)  # the input first
    return Samples(tuple(rows[row] for row in order), *np.array(sizes)[order].T[:, None, :], method="measured")


def _hooks(model: nn.Module, record: Recorder) -> Iterator[tuple[nn.Module, passes.Hook]]:
    for name, module in model.named_modules():
        if _has_row(module) and "parametrizations" not in name.split("."):  # those compute weights
            yield module, _hook(name or "model", record)


def _has_row(module: nn.Module) -> bool:
    if isinstance(module, (Residual, Join)):
        return True
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return False  # an empty one, as an identity shortcut, is no leaf
    children = [name for name, _ in module.named_children()]
    return children in ([], ["parametrizations"])


def _hook(name: str, record: Recorder) -> passes.Hook:
    def hook(module: nn.Module, _: object, output: object) -> None:
        if not isinstance(output, torch.Tensor) or output.is_complex():
            kind = output.dtype if isinstance(output, torch.Tensor) else type(output).__name__
            raise TypeError(f"output of {name} ({type(module).__name__}) must be a real tensor, got {kind}")
        layer = vars(module).get("description")
        layer = layer if isinstance(layer, Layer) else None  # anybody's module may have an attribute of that name
        if isinstance(module, (Residual, Join)):
            word = module.operation if isinstance(module, Join) else "sum"
            row = Leaf(f"{name}.{word}", word, tuple(output.shape[1:]), layer)
        else:
            row = Leaf(name, type(module).__name__ if layer is None else str(layer), tuple(output.shape[1:]), layer)
        record(row, output)

    return hook


def _array(output: torch.Tensor) -> np.ndarray:
    array = output.detach().cpu()
    array = array if array.dtype in (torch.float32, torch.float64) else array.double()
    return array.numpy()[:, None] if array.ndim == 1 else array.numpy()


def _warn_overflow(samples: Samples) -> None:
    overflowed = samples.overflowed
    if overflowed.any():
        row = samples.rows[int(np.argmax(overflowed.any(axis=0)))]
        count = int(overflowed.any(axis=1).sum())
        warnings.warn(
            f"activations left the floating-point range in {count} of {samples.trials} networks, first in row "
            f"{row.name} ({row.operation}); these rows read +inf. float64 reaches further: build(net, dtype='float64')",
            RuntimeWarning,
            stacklevel=3,
        )
