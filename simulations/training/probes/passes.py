"""One forward pass of a module as it stands, seen by hooks; gradients may be taken, and nothing changes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bntheory.networks import Sequential
from simulations.training.modules import torch
from simulations.training.probes import evaluation
from simulations.training.probes.evaluation import Loss

nn = torch.nn
Hook = Callable[[nn.Module, Any, Any], None]


class Pass(NamedTuple):
    """Its input, a leaf; the parameters that it ran with, leaves that share the module's memory; its result.

    loss : of the result; only where `watched` was asked for it.
    """

    images: torch.Tensor
    parameters: dict[str, torch.Tensor]
    outputs: Any
    loss: torch.Tensor | None = None

    def gradients(self, wanted: Sequence[torch.Tensor], zeros: bool = True) -> tuple[torch.Tensor, ...]:
        """Of the loss; the graph is kept for other probes. Of what it does not depend on zeros, or None."""
        return torch.autograd.grad(self.loss, wanted, retain_graph=True, allow_unused=True, materialize_grads=zeros)


class Watch(NamedTuple):
    """What a probe wants of a pass: hooks, whether gradients of the loss, and what it finds in the end."""

    hooks: list[tuple[nn.Module, Hook]]
    gradients: bool
    result: Callable[[Pass], Any]


def watched(
    watches: Sequence[Watch],
    model: nn.Module,
    images: np.ndarray | torch.Tensor,
    labels: Any = None,
    loss: Loss | None = None,
) -> list[Any]:
    """Return what several probes find in one pass forward; each that wants gradients goes back by itself.

    Raises
    ------
    TypeError, ValueError, Exception
        As `forward` and `loss_of`.
    """
    gradients = any(watch.gradients for watch in watches)
    with forward(model, images, [hook for watch in watches for hook in watch.hooks], gradients) as run:
        if gradients and loss is not None:
            run = run._replace(loss=loss_of(loss, run, labels))
        return [watch.result(run) for watch in watches]


@contextlib.contextmanager
def forward(
    model: nn.Module,
    images: np.ndarray | torch.Tensor,
    hooks: Iterable[tuple[nn.Module, Hook]] = (),
    gradients: bool = True,
) -> Iterator[Pass]:
    """Run a module in the mode and precision it is in; until the end of the context gradients may be taken.

    The pass works on copies of the buffers and on aliases of the parameters: gradients reach no ``.grad`` and no hook
    of a parameter. Afterwards parameters, buffers, attributes, modes, hooks and random states are as before, also if
    something raises.

    Parameters
    ----------
    model : torch.nn.Module
    images : array or tensor of float32 or float64, (batch, *shape)
        Converted to the type and device of the parameters.
    hooks : iterable of (module, hook)
        Forward hooks, for this pass alone.
    gradients : bool
        Whether to record what gradients need.

    Raises
    ------
    TypeError, ValueError
        If `model` is no module, has lazy parts, or `images` are not such a batch.
    Exception
        What the module itself raises, with a note that says so.
    """
    inputs = prepared(images, model)
    with evaluation.unchanged(model, inputs.device, gradients), contextlib.ExitStack() as attached:
        leaf = inputs.detach().requires_grad_(gradients)
        parameters = {
            name: parameter.detach().requires_grad_(gradients and parameter.is_floating_point())
            for name, parameter in model.named_parameters()
        }
        buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        for module, hook in hooks:
            attached.callback(module.register_forward_hook(hook).remove)
        yield Pass(leaf, parameters, evaluation.outputs_of(model, {**parameters, **buffers}, leaf))


def loss_of(loss: Loss, run: Pass, labels: Any) -> torch.Tensor:
    """Return loss(outputs, labels) of a pass, to be differentiated.

    Raises
    ------
    ValueError
        As `evaluation.targets` and `evaluation.loss_of`; if the loss depends on nothing.
    """
    value = evaluation.loss_of(loss, run.outputs, evaluation.targets(labels, run.images))
    if not value.requires_grad:
        raise ValueError("loss must depend on the model's parameters and outputs, got a constant")
    return value


def prepared(images: np.ndarray | torch.Tensor, model: nn.Module) -> torch.Tensor:
    """Return a batch of floating-point numbers, checked, in the type and on the device of the model's parameters.

    Raises
    ------
    TypeError, ValueError
        As `evaluation.refuse_other_models` and `evaluation.numbers`; if the batch is of other numbers, of another shape
        than a network of a description takes, or constant.
    """
    evaluation.refuse_other_models(model)
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), None)
    tensor = evaluation.numbers("images", images, like)
    given = images.dtype if isinstance(images, torch.Tensor) else np.asarray(images).dtype
    if str(given).removeprefix("torch.") not in ("float32", "float64"):
        raise ValueError(f"images must be float32 or float64, got {given}: convert (and standardise) them first")
    description = vars(model).get("description")
    expected = description.input_shape if isinstance(description, Sequential) else None
    wanted = "*one input's shape" if expected is None else ", ".join(map(str, expected))
    if tensor.ndim < 2 or (expected is not None and tuple(tensor.shape[1:]) != expected):
        raise ValueError(f"images must have shape (batch, {wanted}), got {tuple(tensor.shape)}")
    low, high = (float(end) for end in torch.aminmax(tensor))
    if low == high and (high == 0 or tensor.numel() > 1):
        raise ValueError(f"images must not be constant (their standardised values would be 0), every value is {high:g}")
    return tensor
