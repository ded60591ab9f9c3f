"""A torch module read as a description, with the names of its calls."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bntheory.initializations import Initialization, initialization
from bntheory.layers import Unknown
from bntheory.networks import Leaf, Sequential, leaves
from bntheory.torch_models import graph, layouts, tracing
from bntheory.torch_models.tracing import Trace

AXES = "(batch, n), (batch, tokens, channels), (batch, channels, length) or (batch, channels, height, width)"


@dataclass(frozen=True, eq=False)
class Reading:
    """What one forward pass of a module has shown.

    net : its description;  rows : that of the description, named after modules and functions;
    nodes : of the trace, one a row;  nested : those whose tensors are not all that is read of them;
    named_law : whether weights count as drawn from a law that was named, not as they are;
    inputs : the example, (batch, *shape).
    """

    model: nn.Module
    example: torch.Tensor
    net: Sequential
    rows: tuple[Leaf, ...]
    nodes: tuple[int, ...]
    nested: frozenset[int]
    trace: Trace
    named_law: bool = False

    @property
    def inputs(self) -> np.ndarray:
        """The example, (batch, *shape), or what an embedding makes of it."""
        if (rows := self.trace.looked_up) is not None:
            return tracing.canonical(rows, self.trace.nodes[0], layouts.TOKENS)
        return tracing.canonical(self.example, self.trace.nodes[0], tracing.input_layout(self.model, self.example))

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks, a line each."""
        shared = {weights.row: weights.shared_with for weights in self.trace.weights if weights.shared_with}
        lines = list(self.trace.notes.values())
        if shared:
            first, of = next(iter(shared.items()))
            lines.append(
                f"weights shared between rows count as independent: {len(shared)} rows, first {first} with {of}"
            )
        if computed := self.computed:
            lines.append(
                f"weights of {len(computed)} rows are computed from others, first {self.rows[computed[0]].name}: "
                "they count as independent draws, and how much draws differ is not predicted from there on"
            )
        aside = [self.trace.nodes[node].name for node in graph.unused(self.trace.nodes, self.trace.output)]
        if aside:
            lines.append(f"not on the way to the output: {', '.join(aside[:5])}{', …' if len(aside) > 5 else ''}")
        return tuple(lines)

    @functools.cached_property
    def computed(self) -> list[int]:
        """Rows whose weights are no parameters, but made of them: normalized, perhaps."""
        own = {id(parameter) for parameter in self.model.parameters()}
        pairs = zip(self.trace.weights, self.trace.tensors, strict=True)
        names = {known.row for known, (weight, _) in pairs if id(weight) not in own}
        return [place for place, node in enumerate(self.nodes) if self.trace.nodes[node].name in names]

    def measured(self) -> Measured:
        """Numbers of its rows, on demand."""
        return Measured(self)


class Measured:
    """Row index → numbers of that row, (batch, *shape), of the module as it is; None for a row without a tensor, or
    whose numbers are not all finite, such as those of a mask of −∞, or come from weights that are not those predicted.

    Rows without a rule are known beforehand and kept from one forward pass; others take one of their own.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._values: dict[int, np.ndarray | None] = {}

    def __call__(self, row: int) -> np.ndarray | None:
        node = self._reading.nodes[row]
        if self._reading.named_law and self._weighted(node):
            return None
        if node not in self._values:
            nodes, wanted = self._reading.trace.nodes, {node}
            if not self._values:
                wanted |= {index for index in range(len(nodes)) if isinstance(nodes[index].layer, Unknown)}
            self._values |= self._kept(wanted)
        return self._values.get(node)

    def _weighted(self, node: int) -> bool:
        """Whether there are weights before a node."""
        weighted = {weights.row for weights in self._reading.trace.weights}
        return any(before.name in weighted for before in self._reading.trace.nodes[:node])

    def _kept(self, wanted: set[int]) -> dict[int, np.ndarray | None]:
        reading, kept = self._reading, dict.fromkeys(wanted)
        nodes = reading.trace.nodes

        def observe(node: int, tensor: torch.Tensor, layout: layouts.Layout) -> None:
            if node in wanted and tensor.is_floating_point() and bool(torch.isfinite(tensor).all()):
                kept[node] = tracing.canonical(tensor, nodes[node], layout)

        tracing.run(reading.model, reading.example, observe=observe)
        return kept


def read(model: Any, example_input: Any, init: str | Initialization | None = None) -> Reading:
    """Trace a module once and describe it.

    Raises
    ------
    ValueError
        If it is no module whose calls can be seen, if the example is not a finite batch of real floating-point numbers,
        if weights are not finite or all zero (the row is named).
    Exception
        What the module's own forward raises, with the row reached as a note.
    """
    module = _module(model)
    example = _example(module, example_input)
    law = None if init is None else initialization(init)
    trace = tracing.run(module, example, law)
    if not example.is_floating_point() and trace.looked_up is None:
        raise ValueError(
            f"example_input of {_kind(example)} numbers must be (batch, tokens), looked up in an Embedding"
        )
    tied = {weights.row for weights in trace.weights if weights.shared_with}
    found = graph.description(trace.nodes, trace.output, tied)
    named = (trace.nodes[node].name for node in found.nodes)
    rows = tuple(leaf._replace(name=name) for leaf, name in zip(leaves(found.net), named, strict=True))
    return Reading(module, example, found.net, rows, found.nodes, found.nested, trace, law is not None)


def describe_module(model: Any, example_input: Any, init: str | Initialization | None = None) -> Sequential:
    """The description of a torch module, as one forward pass shows it.

    Parameters
    ----------
    model : torch.nn.Module
        Unchanged, as by `predict_module`.
    example_input : torch.Tensor or array
        (batch, n), (batch, channels, length), (batch, tokens, channels) or (batch, channels, height, width), or whole
        numbers, (batch, tokens), which an Embedding looks up: then row 0 is what it finds. Its sizes and, where the
        forward pass depends on data, its values decide what is described.
    init : str or Initialization, optional
        Law of all weights; None: normal ones of the second moment that each layer's weights have.

    Returns
    -------
    Sequential
        For `predict_growth`, `jacobian_law`, `simulate_growth`, … A call without a layer is an `Unknown`.

    Raises
    ------
    ValueError
        As `predict_module`.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False))
    >>> print(describe_module(model, torch.randn(4, 3), init="he_normal"))
    input 3; Dense(5, he_normal, bias=0), relu, Dense(2, he_normal, bias=0)
    """
    return read(model, example_input, init).net


def _module(model: Any) -> nn.Module:
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    scripted = next((name for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)), None)
    if scripted is not None:
        where = f" (part {scripted})" if scripted else ""
        raise ValueError(f"a scripted or traced module hides its calls{where}: pass the module it was made from")
    tensors = [*model.parameters(), *model.buffers()]
    if any(is_lazy(tensor) for tensor in tensors):
        raise ValueError("the module has lazy parameters: run it once on an example, which gives them their shapes")
    meta = next((name for name, part in [*model.named_parameters(), *model.named_buffers()] if part.is_meta), None)
    if meta is not None:
        raise ValueError(f"parameters must hold numbers, got {meta} on the meta device: model.to_empty(device='cpu')")
    return model


def _example(model: nn.Module, example: Any) -> torch.Tensor:
    like = next((part for part in model.parameters() if part.is_floating_point()), torch.empty(0))
    if not isinstance(example, torch.Tensor):
        array = np.asarray(example)
        if array.dtype.kind not in "biufc":
            raise ValueError(f"example_input must be a tensor or an array of numbers, got {type(example).__name__}")
        example = torch.as_tensor(array)
        example = example.to(like.dtype) if example.is_floating_point() else example
    tokens = example.dtype in (torch.int32, torch.int64) and any(map(_is_table, model.modules()))
    if not example.is_floating_point() and not tokens:
        hint = "" if example.is_complex() else ", which only an Embedding reads"
        raise ValueError(f"example_input must hold real floating-point numbers, got {_kind(example)} numbers{hint}")
    if not 2 <= example.dim() <= 4 or 0 in example.shape:
        raise ValueError(f"example_input must be {AXES}, got shape {tuple(example.shape)}")
    if example.is_meta or example.layout != torch.strided:
        kind = "one on the meta device" if example.is_meta else f"a {example.layout} one"
        raise ValueError(f"example_input must be a dense tensor that holds numbers, got {kind}")
    bad = int((~torch.isfinite(example)).sum())
    if bad:
        raise ValueError(
            f"example_input must be finite, got {bad} of {example.numel()} values that are NaN or infinite"
        )
    return example.detach().to(like.device)


def _is_table(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding)


def _kind(example: torch.Tensor) -> str:
    return "complex" if example.is_complex() else str(example.dtype).removeprefix("torch.")
