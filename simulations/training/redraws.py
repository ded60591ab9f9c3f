"""A torch module measured over redraws of its weights, row by row, there and back."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from bntheory import arguments
from bntheory.initializations import Initialization
from simulations import streams
from simulations.samples import Samples, log_cosine_distance, moments

try:
    import torch
    from torch import nn
except ModuleNotFoundError:
    raise ModuleNotFoundError('this needs PyTorch: pip install "bntheory[train]"') from None

from bntheory.torch_models import reading, tracing
from bntheory.torch_models.layouts import Layout
from bntheory.torch_models.reading import Reading

Redraw = Callable[[nn.Module], Any]
WORDS = ("theory", "reset", "none")
NUMBERS = 6  # of a row: ln second moment, channel mean square, channel variance, cosine distance, gradient, weight's


def measure_module(
    model: nn.Module,
    batch: Any,
    draws: int = 50,
    redraw: str | Redraw = "theory",
    init: str | Initialization | None = None,
    seed: int | np.random.Generator = 0,
    gradients: bool = True,
) -> Samples:
    """Measure every row of a torch module, as `bntheory.predict_module` names them, over redraws of its weights.

    Parameters
    ----------
    model : torch.nn.Module
        Unchanged: a copy is drawn and run.
    batch : torch.Tensor or array
        As `predict_module` takes it.
    draws : int
    redraw : {"theory", "reset", "none"} or callable
        "theory": normal weights and biases of the variances that the prediction takes: the present mean squares of
        each layer. "reset": the modules' own ``reset_parameters``. "none": the network as it is, once. A callable is
        given the copy and draws its weights in place, from torch's global generator.
    init : str or Initialization, optional
        Law of the weights for "theory", as `predict_module` takes it.
    seed : int or numpy.random.Generator
        A draw has its own stream: the first k of a longer run are the same.
    gradients : bool
        Whether to send white gradients back from the output.

    Returns
    -------
    Samples
        Of method "measured". A row made on the way within one call, which no tensor holds, is NaN.

    Raises
    ------
    ValueError
        As `predict_module`; if a draw takes another path through the module; if "theory" is asked of weights that are
        computed from others, or "reset" of a module none of whose parts has ``reset_parameters``.

    Examples
    --------
    >>> samples = measure_module(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), torch.randn(3, 4), draws=5)
    >>> samples.name, samples.trials
    (('input', '0', '1'), 5)
    """
    draws = 1 if redraw == "none" else arguments.integer("draws", draws)
    if not callable(redraw):
        arguments.choice("redraw", redraw, WORDS)
    root = streams.root(seed)
    found = reading.read(_copied(model), batch, init)
    draw = _drawing(found, redraw)
    table = np.empty((draws, len(found.rows), NUMBERS))
    bar = tqdm(range(draws), desc="networks", disable=None, leave=False)
    for trial in bar:
        rng = streams.stream(root, trial)
        with tracing.unchanged_random_states(found.example.device):
            torch.manual_seed(int(rng.integers(2**32)))  # torch's CPU generator reads 32 bits
            draw(rng)
            table[trial] = _measured(found, rng, gradients)
    columns = [table[..., column] for column in range(NUMBERS if gradients else NUMBERS - 2)]
    return Samples(found.rows, *columns, method="measured", seed=root, dtype=_dtype(found))


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:  # of weights that an old weight_norm or spectral_norm has left on it
        raise ValueError(f"model cannot be copied to draw its weights: {str(error).splitlines()[0]:.100}") from error


def _drawing(found: Reading, redraw: str | Redraw) -> Callable[[np.random.Generator], None]:
    """What draws the weights of the copy anew."""
    if callable(redraw):
        return lambda _: redraw(found.model)
    if redraw == "none":
        return lambda _: None
    if redraw == "reset":
        parts = [part for part in found.model.modules() if callable(getattr(part, "reset_parameters", None))]
        if not parts:
            raise ValueError('redraw="reset" needs parts with reset_parameters, got none: give a function')

        def reset(_: np.random.Generator) -> None:
            for part in parts:
                part.reset_parameters()

        return reset
    return _of_second_moments(found)


def _of_second_moments(found: Reading) -> Callable[[np.random.Generator], None]:
    """Normal numbers of the variances that the description has."""
    if "changed" in found.trace.notes:
        raise ValueError(f"{found.trace.notes['changed']}: give a function as redraw")
    own = {id(parameter) for parameter in found.model.parameters()}
    layers = {node.name: (node.layer, found.trace.nodes[node.parents[0]].shape) for node in found.trace.nodes[1:]}
    sizes: dict[int, tuple[torch.Tensor, float]] = {}
    for known, (weight, bias) in zip(found.trace.weights, found.trace.tensors, strict=True):
        layer, shape = layers[known.row]
        for tensor, variance in ((weight, layer.weight_variance(shape)), (bias, layer.bias_variance(shape))):
            if tensor is not None and id(tensor) not in own:
                raise ValueError(f"weights of row {known.row} are computed from others: give a function as redraw")
            if tensor is not None:
                sizes[id(tensor)] = tensor, math.sqrt(variance)

    def draw(rng: np.random.Generator) -> None:
        with torch.no_grad():
            for tensor, size in sizes.values():
                tensor.copy_(torch.from_numpy(size * rng.standard_normal(tuple(tensor.shape))))

    return draw


def _measured(found: Reading, rng: np.random.Generator, gradients: bool) -> np.ndarray:
    """(rows, 6) of one network."""
    nodes = found.trace.nodes
    numbers = np.full((len(nodes), NUMBERS), np.nan)

    def observe(node: int, tensor: torch.Tensor, layout: Layout) -> None:
        if node >= len(nodes) or not tensor.is_floating_point():
            return
        values = tracing.canonical(tensor, nodes[node], layout)
        numbers[node, :4] = *moments(values), log_cosine_distance(values)
        if gradients and tensor.requires_grad:
            tensor.register_hook(lambda gradient: numbers.__setitem__((node, 4), _log_square(gradient)))

    def finish(output: torch.Tensor) -> None:
        found.model.zero_grad()
        white = torch.from_numpy(rng.standard_normal(tuple(output.shape))).to(output)
        (output * white).sum().backward()

    trace = tracing.run(found.model, found.example, observe=observe, finish=finish if gradients else None)
    if [node.name for node in trace.nodes] != [node.name for node in nodes]:
        raise ValueError("a draw takes another path through the module: its rows are not those of the network as it is")
    if gradients:
        for row, square in _weight_gradients(trace):
            numbers[row, 5] = square
        numbers[:, 4:] -= numbers[trace.output, 4]
        numbers[list(found.nested), 4] = np.nan
    return numbers[list(found.nodes)]


def _weight_gradients(trace: tracing.Trace) -> Iterator[tuple[int, float]]:
    """Row and ln ‖∂ℓ/∂W‖², of weights that a single row has."""
    rows = {node.name: index for index, node in enumerate(trace.nodes)}
    several = {known.shared_with for known in trace.weights if known.shared_with}
    for known, (weight, _) in zip(trace.weights, trace.tensors, strict=True):
        if not known.shared_with and known.row not in several and weight.is_leaf and weight.grad is not None:
            yield rows[known.row], _log_square(weight.grad)


def _log_square(tensor: torch.Tensor) -> float:
    square = float(tensor.detach().double().square().sum())
    return math.log(square) if square > 0 else -math.inf


def _dtype(found: Reading) -> str:
    start = found.example if found.trace.looked_up is None else found.trace.looked_up
    return str(start.dtype).removeprefix("torch.")
