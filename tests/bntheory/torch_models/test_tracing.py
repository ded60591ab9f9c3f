"""What a forward pass shows, and that nothing is changed by looking at it."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bntheory.layers import Unknown
from bntheory.torch_models import tracing


def rows(model, example):
    """Name, operation and parents of every row."""
    return [(node.name, str(node.layer), node.parents) for node in tracing.run(model, example).nodes[1:]]


class Wrapped(nn.Module):
    """Any function as a module."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def test_modules_functions_methods_and_operators_are_seen():
    def forward(self, x):
        h = self.conv(x)
        h = F.relu(h)
        h = h.tanh()
        h = torch.sigmoid(h)
        h += x
        return h * 2

    found = rows(Wrapped(forward, conv=nn.Conv2d(3, 3, 1, bias=False)), torch.randn(2, 3, 4, 4))
    assert [name for name, _, _ in found] == ["conv", "relu", "tanh", "sigmoid", "add", "mul"]
    assert [parents for _, _, parents in found] == [(0,), (1,), (2,), (3,), (4, 0), (5,)]


def test_a_module_used_twice_has_two_rows():
    layer = nn.Linear(4, 4)
    trace = tracing.run(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(2, 4))
    assert [node.name for node in trace.nodes] == ["input", "0", "1", "0 (2)"]
    assert [weights.shared_with for weights in trace.weights] == ["", "0"]


def test_branches_are_those_that_the_data_takes():
    def forward(self, x):
        return self.one(x) if x.mean() > 0 else self.other(x)

    model = Wrapped(forward, one=nn.Linear(4, 4), other=nn.Linear(4, 4))
    x = torch.rand(3, 4)
    assert "one" in [name for name, _, _ in rows(model, x)]
    assert "other" in [name for name, _, _ in rows(model, -x)]


def test_inplace_functions_change_the_row_of_every_reader():
    """After F.relu(x, inplace=True) the shortcut reads what is left in x."""

    def forward(self, x):
        h = self.conv(x)
        return h + self.conv2(F.relu(h, inplace=True))

    found = rows(Wrapped(forward, conv=nn.Conv2d(3, 3, 1), conv2=nn.Conv2d(3, 3, 1)), torch.randn(2, 3, 4, 4))
    assert found[-1][2] == (2, 3)


def test_a_change_through_an_alias_has_no_rule():
    def forward(self, x):
        h = self.linear(x)
        h.view(-1)[:2] = 0
        return torch.tanh(h)

    found = rows(Wrapped(forward, linear=nn.Linear(4, 4)), torch.randn(2, 4))
    assert ("a change through an alias", "a change through an alias", (1,)) in found


def test_numbers_from_elsewhere_have_no_rule():
    """Tensors that come back from NumPy are not taken for constants."""

    def forward(self, x):
        h = torch.from_numpy(self.linear(x).detach().numpy() ** 2)
        return torch.tanh(h)

    found = rows(Wrapped(forward, linear=nn.Linear(4, 4)), torch.randn(2, 4))
    assert found[-2][0] == tracing.UNSEEN
    assert found[-1][1] == "tanh"


def test_constants_that_a_module_holds_are_constants():
    def forward(self, x):
        return self.linear((x - self.mean) / self.std[None])

    model = Wrapped(forward, linear=nn.Linear(4, 4), mean=torch.ones(2, 1) * 0.5, std=[torch.full((4,), 2.0)][0])
    found = rows(model, torch.randn(2, 4))
    assert tracing.UNSEEN not in [name for name, _, _ in found]
    assert [name for name, _, _ in found] == ["sub", "div", "linear"]


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: torch.sort(x).values,
        lambda self, x: torch.softmax(x, 1),
        lambda self, x: x[:, [0, 2]],
        lambda self, x: x[1:],
        lambda self, x: x @ x.T,
        lambda self, x: x.cumsum(1),
        lambda self, x: torch.stack([x, x]),
        lambda self, x: x * torch.randn(2, 4),
        lambda self, x: torch.where(x > 0, x, torch.zeros(())),
        lambda self, x: F.normalize(x),
        lambda self, x: torch.fft.rfft(x).real,
    ],
)
def test_what_has_no_rule_is_named(function):
    trace = tracing.run(Wrapped(function), torch.randn(2, 4))
    assert any(isinstance(node.layer, Unknown) for node in trace.nodes[1:])


def everything(model):
    """What must stay as it is."""
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "gradients": {name: part.grad for name, part in model.named_parameters()},
        "training": [part.training for part in model.modules()],
        "hooks": [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in model.modules()],
        "global hooks": len(torch.nn.modules.module._global_forward_hooks),
        "attributes": [sorted(vars(part)) for part in model.modules()],
        "torch": torch.random.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
    }


def same(first, second):
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


class Noisy(nn.Module):
    """Draws from all three generators, changes its buffers, and raises if asked."""

    def __init__(self, fails):
        super().__init__()
        self.fails = fails
        self.norm, self.drop, self.linear = nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        h = self.drop(self.norm(x)) * random.random() * np.random.rand()  # noqa: NPY002
        if self.fails:
            raise RuntimeError("out of patience")
        return self.linear(h)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_changed(fails):
    model, example = Noisy(fails), torch.randn(5, 4)
    model.linear.register_forward_hook(lambda *_: None)
    kept, before = copy.deepcopy(example), everything(model)
    if fails:
        with pytest.raises(RuntimeError, match="out of patience") as caught:
            tracing.run(model, example)
        assert caught.value.__notes__ == ["raised by the module's own forward, after row 'mul (2)'"]
    else:
        tracing.run(model, example)
    assert same(before, everything(model))
    assert torch.equal(example, kept) and not example.requires_grad


def test_two_passes_draw_the_same():
    """So that numbers measured later belong to the same pass."""
    seen = []
    for _ in range(2):
        values = {}
        tracing.run(
            Noisy(False), torch.ones(5, 4), observe=lambda node, tensor, _, to=values: to.update({node: tensor.clone()})
        )
        seen.append(values[max(values) - 1])
    assert torch.equal(*seen)


def test_observed_numbers_are_those_of_the_modules():
    """Against forward hooks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(45, 2))
    example, hooked, seen = torch.randn(2, 3, 8, 8), {}, {}
    for name, part in model.named_children():
        part.register_forward_hook(lambda module, args, out, name=name: hooked.update({name: out.clone()}))
    trace = tracing.run(
        model,
        example,
        observe=lambda node, tensor, layout: seen.update({node: (tensor.clone(), layout)}),
    )
    for node, (tensor, layout) in seen.items():
        name = trace.nodes[node].name
        assert tracing.canonical(tensor, trace.nodes[node], layout).shape[1:] == trace.nodes[node].shape
        if name != "input":
            assert torch.equal(tensor, hooked[name])


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_modules_run_eagerly():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model.compile()
    assert [name for name, _, _ in rows(model, torch.randn(2, 4))] == ["0", "1"]


def test_an_output_without_the_input_is_refused():
    with pytest.raises(ValueError, match="does not depend on its input, got Tensor"):
        tracing.run(Wrapped(lambda self, x: torch.zeros(3)), torch.randn(2, 4))


def test_several_outputs_are_said():
    trace = tracing.run(Wrapped(lambda self, x: {"a": x * 2, "b": x * 3}), torch.randn(2, 4))
    assert trace.nodes[trace.output].name == "mul"
    assert "returns 2 tensors" in trace.notes["outputs"]
