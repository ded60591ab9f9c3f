"""One real forward pass, seen through every torch function that it calls.

`torch.overrides.TorchFunctionMode` shows calls of modules, functions, methods and operators alike, in loops and behind
conditions, whatever the Python around them. Tensors are known by identity and version: what was changed through an
alias that nothing has shown is said to have no rule.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils.weak import WeakIdKeyDictionary

from bntheory.initializations import Initialization
from bntheory.layers import Flatten, Shape, Unknown
from bntheory.networks import output_shape
from bntheory.torch_models import layouts, weights
from bntheory.torch_models.graph import Node
from bntheory.torch_models.layouts import Layout
from bntheory.torch_models.rules import RULES
from bntheory.torch_models.weights import Weights

Observer = Callable[[int, torch.Tensor, Layout], None]  # row, tensor, layout
STANDARDIZED = 1e-8  # of (sum of a unit's weights)² over its mean for independent ones: below, the sums are 0
LEAVING = ("item", "tolist", "__float__")
UNSEEN = "a tensor from outside torch's functions"


class Value(NamedTuple):
    """What is known of a tensor: its row, its layout and sizes after the batch, and its version when it was seen."""

    node: int
    layout: Layout
    sizes: Shape
    version: int = 0


@dataclasses.dataclass
class Trace:
    """What a forward pass has shown.

    nodes : the rows, the input first;  weights : of those that have some, and `tensors`, weights and biases themselves;
    notes : remarks, by a key;  output : the row of the module's result;
    looked_up : of whole numbers, what the first embedding has made of them: row 0.
    """

    nodes: list[Node] = dataclasses.field(default_factory=list)
    weights: list[Weights] = dataclasses.field(default_factory=list)
    tensors: list[tuple[torch.Tensor, torch.Tensor | None]] = dataclasses.field(default_factory=list)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    output: int = 0
    looked_up: torch.Tensor | None = None


class Call:
    """One call of a torch function, as its rule sees it; of several results, the one at `place`."""

    def __init__(
        self, tracer: Tracer, function: str, qualified: str, known: dict[int, Value], results: list[Any], place: int = 0
    ) -> None:
        self._tracer, self._known = tracer, known
        self.function, self.qualified, self.results, self.place = function, qualified, results, place
        self.result = results[place]
        self._name = tracer.name(function)
        self._rows = 0

    def value(self, tensor: Any) -> Value | None:
        """What is known of an argument; None if it does not depend on the input."""
        return self._known.get(id(tensor))

    def alias(self, before: Value, layout: Layout) -> Value:
        """The same row, in another layout."""
        return Value(before.node, layout, _sizes(self.result))

    def leaf(self, before: Value, layer: Any, layout: Layout) -> Value:
        """A row that reads one other."""
        return self._row((before.node,), layer, output_shape(layer, self._shape(before)), layout)

    def join(self, parts: list[Value], layer: Any, layout: Layout) -> Value:
        """A row that reads several others, of the first one's shape but for concatenated channels."""
        shape = self._shape(parts[0])
        if layer == "concatenate":
            shape = (sum(self._shape(part)[0] for part in parts), *shape[1:])
        return self._row(tuple(part.node for part in parts), layer, shape, layout)

    def looked_up(self, table: torch.Tensor) -> Value | None:
        """Rows of a table that the module's input names, (batch, tokens): given numbers, in place of the input."""
        return self._tracer.looked_up(self.result, table)

    def unknown(self) -> Value:
        """A row without a rule."""
        parents = tuple(dict.fromkeys(value.node for value in self._known.values()))
        layout, shape = layouts.of_shape(_sizes(self.result), next(iter(self._known.values()))[1:3])
        self._rows = 0  # those of a rule that has given up are gone
        return self._row(parents, Unknown(self.function.strip("_"), shape), shape, layout)

    def law(self, weight: torch.Tensor, bias: Any, fan_in: int, key: Any = None) -> tuple[Initialization, float]:
        """The law of the row's weights, and the mean square of its biases."""
        return self._tracer.law(self._name, weight, bias, fan_in, weight if key is None else key)

    def note(self, key: str, text: str) -> None:
        """Remark something once."""
        self._tracer.trace.notes.setdefault(key, text)

    def _shape(self, value: Value) -> Shape:
        return self._tracer.trace.nodes[value.node].shape

    def _row(self, parents: tuple[int, ...], layer: Any, shape: Shape, layout: Layout) -> Value:
        self._rows += 1
        name = self._name if self._rows == 1 else f"{self._name}.{type(layer).__name__.lower()}"
        nodes = self._tracer.trace.nodes
        nodes.append(Node(name, parents, layer, shape))
        return Value(len(nodes) - 1, layout, _sizes(self.result))


class Tracer(TorchFunctionMode):
    """Follows the tensors that depend on the input, showing `observe` the tensor of every row as it is made.

    A row made on the way within one call has no tensor.
    """

    def __init__(self, model: nn.Module, init: Initialization | None, observe: Observer | None = None) -> None:
        super().__init__()
        self._names = {module: name for name, module in model.named_modules()}
        self._init, self._observe = init, observe
        self._values: Any = WeakIdKeyDictionary()
        self._constants: Any = WeakIdKeyDictionary()
        self._drawn: Any = WeakIdKeyDictionary()
        self._hidden_writes = False
        self._rows_of_weights: Any = WeakIdKeyDictionary()
        self._sources: Any = WeakIdKeyDictionary()
        self._running: list[nn.Module] = []
        self._calls: dict[str, int] = {}
        self._batch, self._device = 0, torch.device("cpu")
        self.trace = Trace()

    def start(self, tensor: torch.Tensor, layout: Layout, constants: Iterator[Any]) -> None:
        """Row 0, and the tensors that do not depend on it."""
        self._batch, self._device = len(tensor), tensor.device
        self.trace.nodes.append(Node("input", (), None, layouts.described(layout, _sizes(tensor))))
        self._remember(tensor, Value(0, layout, _sizes(tensor)))
        if self._observe is not None and tensor.is_floating_point():
            self._observe(0, tensor, layout)
        for constant in constants:
            self._constants[constant] = True

    def looked_up(self, tensor: torch.Tensor, table: torch.Tensor) -> Value | None:
        """As `Call.looked_up`; None if it has been done before, or of another shape. No layer may share the table."""
        if self.trace.looked_up is not None or tensor.dim() != 3:
            return None
        self.trace.looked_up = tensor.detach()
        self._rows_of_weights[self._sources.get(table, table)] = "input", {()}  # no orientation of a matrix
        shape = layouts.described(layouts.TOKENS, _sizes(tensor))
        self.trace.nodes[0] = Node("input", (), None, shape)
        if self._observe is not None:
            self._observe(0, tensor, layouts.TOKENS)
        return Value(0, layouts.TOKENS, _sizes(tensor))

    @contextmanager
    def following(self) -> Iterator[None]:
        """See which module is running, and every function."""

        def entered(module: nn.Module, _: Any) -> None:
            self._running.append(module)

        def left(*_: Any) -> None:
            self._running.pop()

        enter, leave = register_module_forward_pre_hook(entered), register_module_forward_hook(left)
        try:
            with self:
                yield
        finally:
            enter.remove()
            leave.remove()

    def name(self, function: str) -> str:
        """Of the next row: the module if it has no parts, else the function at its place; numbered if it recurs."""
        module = next((module for module in reversed(self._running) if module in self._names), None)
        place = "" if module is None else self._names[module]
        whole = module is not None and next(module.children(), None) is None and place
        word = place if whole else f"{place}.{function.strip('_')}".lstrip(".")
        count = self._calls[word] = self._calls.get(word, 0) + 1
        return word if count == 1 else f"{word} ({count})"

    def law(self, row: str, weight: torch.Tensor, bias: Any, fan_in: int, key: Any) -> tuple[Initialization, float]:
        """As `Call.law`."""
        key = key if key._base is None else key._base  # a view, such as the transpose, is the parameter itself
        earlier, orientations = self._rows_of_weights.setdefault(self._sources.get(key, key), (row, set()))
        orientations.add(weight.stride())
        if len(orientations) > 1:
            raise ValueError(f"weights of {earlier}, used otherwise: they depend on what they have made")
        stored = weights.read(row, weight, bias, "" if earlier == row else earlier, self._init is not None)
        sums = weight.detach().double().flatten(1).sum(1)
        if float((sums**2).max()) < STANDARDIZED * fan_in * stored.second_moment:
            raise ValueError("standardized weights, which pass no mean on")
        self.trace.weights.append(stored)
        self.trace.tensors.append((key, bias))
        return (weights.law(stored, fan_in) if self._init is None else self._init), stored.bias

    def output(self, result: Any) -> tuple[torch.Tensor, int]:
        """The first tensor that the module has returned, and its row.

        Raises
        ------
        ValueError
            If nothing that is returned depends on the input.
        """
        tensors = list(_tensors(result))
        known = [(tensor, self._values[tensor].node) for tensor in tensors if tensor in self._values]
        if not known:
            raise ValueError(f"the module's output does not depend on its input, got {type(result).__name__}")
        if len(tensors) > 1:
            self.trace.notes["outputs"] = f"the module returns {len(tensors)} tensors: rows lead to the first"
        return known[0]

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and take down what it has made of the tensors that are followed."""
        options = kwargs or {}
        tensors = list(_tensors((args, options)))
        known = {id(tensor): value for tensor in tensors if (value := self._known(tensor))}
        versions, before = [_version(tensor) for tensor in tensors], _generator_state(self._device)
        result = function(*args, **options)
        drawn = any(tensor in self._drawn for tensor in tensors)
        word = getattr(function, "__name__", str(function))
        if known and word in LEAVING:
            row = self.trace.nodes[next(iter(known.values())).node].name
            self.trace.notes["numbers"] = f"numbers taken out of tensors count as constants: last of row {row}"
        if not known:
            drawn = drawn or not torch.equal(before, _generator_state(self._device))
            source = next((part for part in tensors if isinstance(part, nn.Parameter) or part in self._sources), None)
            for tensor in _tensors(result):
                self._constants[tensor] = True
                if drawn:
                    self._drawn[tensor] = True
                if source is not None and tensor is not source:  # normalized weights are those they were made from
                    self._sources[tensor] = self._sources.get(source, source)
        elif word == "__setitem__":
            self._take(Call(self, word, word, known, [args[0]]), args, options, None)
        else:
            word = word if word.startswith("__") else word.rstrip("_")
            qualified = resolve_name(function) or word
            self._hidden_writes |= qualified.endswith(".data.__get__")
            results = list(_tensors(result)) if isinstance(result, (torch.Tensor, tuple, list)) else []
            for place in range(len(results)):
                call = Call(self, word, qualified, known, results, place)
                self._take(call, args, options, None if drawn else RULES.get(word))
        if self._hidden_writes:
            self._forget_written(
                [tensor for tensor, old in zip(tensors, versions, strict=True) if old != _version(tensor)]
            )
        return result

    def _forget_written(self, written: list[torch.Tensor]) -> None:
        """``x.data`` has the memory of x, but a version of its own: after a change of it nothing is known of x."""
        places = {tensor.untyped_storage().data_ptr() for tensor in written}
        for tensor, value in list(self._values.items()) if places else []:
            others = all(tensor is not changed for changed in written)
            if others and tensor.untyped_storage().data_ptr() in places:
                self._values[tensor] = value._replace(version=-1)

    def _take(self, call: Call, args: Any, options: Any, rule: Any) -> None:
        rows, weighted = len(self.trace.nodes), len(self.trace.weights)
        value = None
        if rule is not None and call.result.is_floating_point():
            try:
                value = rule(call, *args, **options)
            except weights.Refused:
                raise
            except (ValueError, TypeError):  # arguments that the rule or its layer does not know
                pass
        if value is None:
            del self.trace.nodes[rows:], self.trace.weights[weighted:], self.trace.tensors[weighted:]
            value = call.unknown()
        self._remember(call.result, value)
        if self._observe is None:
            return
        node = value.node
        while node >= rows:  # made by this call
            self._observe(node, call.result, value.layout)
            if not isinstance(self.trace.nodes[node].layer, Flatten):
                return
            node -= 1  # the same numbers, before they were put in a line

    def _remember(self, tensor: torch.Tensor, value: Value) -> None:
        self._values[tensor] = value._replace(version=_version(tensor))

    def _known(self, tensor: torch.Tensor) -> Value | None:
        """What is known of a tensor; a row without a rule for what nothing has shown."""
        value = self._values.get(tensor)
        if value is not None and value.version == _version(tensor):
            return value
        if value is None and (tensor in self._constants or tensor.shape[:1] != (self._batch,)):
            return None
        before = 0 if value is None else value.node
        word = UNSEEN if value is None else "a change through an alias"
        layout, shape = layouts.of_shape(_sizes(tensor))
        self.trace.nodes.append(Node(word, (before,), Unknown(word, shape), shape))
        self._remember(tensor, Value(len(self.trace.nodes) - 1, layout, _sizes(tensor)))
        if self._observe is not None:
            self._observe(len(self.trace.nodes) - 1, tensor, layout)
        return self._values[tensor]


def run(
    model: nn.Module,
    example: torch.Tensor,
    init: Initialization | None = None,
    observe: Observer | None = None,
    finish: Callable[[torch.Tensor], None] | None = None,
) -> Trace:
    """Trace one forward pass; weights, buffers and random states are left as they were.

    Parameters
    ----------
    observe : callable, optional
        Shown the number, tensor and layout of every row as it is made.
    finish : callable, optional
        Shown the output; gradients are then recorded, to the input as well.

    Raises
    ------
    Exception
        What the module itself raises, with the last row reached as a note.
    """
    tracer = Tracer(model, init, observe)
    with (
        torch.set_grad_enabled(finish is not None),
        unchanged_random_states(example.device),
        unchanged_module(model) as changed,
    ):
        buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        start = example.detach().requires_grad_(finish is not None and example.is_floating_point()).clone()
        tracer.start(start, input_layout(model, example), itertools.chain(_constants(model), buffers.values()))
        with tracer.following(), eager(model):
            try:
                result = torch.func.functional_call(model, buffers, (start,))
            except weights.Refused:
                raise
            except Exception as error:
                error.add_note(f"raised by the module's own forward, after row {tracer.trace.nodes[-1].name!r}")
                raise
        output, tracer.trace.output = tracer.output(result)
        if finish is not None:
            finish(output)
    if changed:
        tracer.trace.notes["changed"] = (
            f"the forward pass changes weights, and they count as it leaves them: {changed[0]}"
        )
    return tracer.trace


def eager(model: nn.Module) -> Any:
    """Compiled parts run as they were written."""
    compiled = any(getattr(part, "_compiled_call_impl", None) or hasattr(part, "_orig_mod") for part in model.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()  # whose import takes seconds


@contextmanager
def unchanged_random_states(device: torch.device) -> Iterator[None]:
    """Random states of torch, NumPy and Python as they were, whatever is drawn."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def unchanged_module(model: nn.Module) -> Iterator[list[str]]:
    """Attributes, parts, modes and weights of a module as they were, whatever its forward pass does to them.

    What it appends to its own lists, or to objects outside, stays. Yields a list that is then filled with the names of
    weights that were changed.
    """
    tables = [
        (table, dict(table))
        for module in model.modules()
        for table in (vars(module), module._parameters, module._buffers, module._modules)
    ]
    weights = [(name, parameter, parameter.detach().clone()) for name, parameter in model.named_parameters()]
    changed: list[str] = []
    try:
        yield changed
    finally:
        for table, before in tables:
            table.clear()
            table.update(before)
        for name, parameter, kept in weights:
            if not torch.equal(parameter, kept):
                parameter.data.copy_(kept)
                changed.append(name)


def canonical(tensor: torch.Tensor, node: Node, layout: Layout) -> np.ndarray:
    """The numbers of a row, (batch, *shape), in float64."""
    values = tensor.detach()
    if "c" in layout:
        values = values.movedim(1 + layout.index("c"), 1)
    return values.reshape(-1, *node.shape).double().cpu().numpy()


def input_layout(model: nn.Module, example: torch.Tensor) -> Layout:
    """Of three axes, the last are channels, unless the first layer with weights takes them in the middle."""
    if example.dim() != 3:
        return layouts.of_shape(_sizes(example))[0]
    first = next(
        (module for module in model.modules() if next(module.parameters(recurse=False), None) is not None), None
    )
    return layouts.SEQUENCE if isinstance(first, (nn.Conv1d, nn.BatchNorm1d)) else layouts.TOKENS


def _constants(model: nn.Module) -> Iterator[torch.Tensor]:
    """Tensors that a module holds."""
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        yield from _tensors([value for key, value in vars(module).items() if not key.startswith("_")])


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # tensors of inference mode count no changes


def _generator_state(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _sizes(tensor: torch.Tensor) -> Shape:
    return tuple(tensor.shape[1:])
