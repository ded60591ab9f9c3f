"""One forward pass of a module as it stands, seen by hooks; gradients may be taken, and nothing changes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from bntheory.networks import Sequential
from bntheory.torch_models import tracing
from simulations.training.modules import torch

nn = torch.nn
Hook = Callable[[nn.Module, Any, Any], None]
Loss = Callable[[Any, torch.Tensor], torch.Tensor]


class Pass(NamedTuple):
    """Its input, a leaf; the parameters that it ran with, leaves that share the module's memory; its result."""

    images: torch.Tensor
    parameters: dict[str, torch.Tensor]
    outputs: Any


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
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(gradients),
        tracing.unchanged_random_states(inputs.device),
        tracing.unchanged_module(model),
        tracing.eager(model),
        torch.autocast(inputs.device.type, enabled=False),
        contextlib.ExitStack() as attached,
    ):
        leaf = inputs.detach().requires_grad_(gradients)
        parameters = {
            name: parameter.detach().requires_grad_(gradients and parameter.is_floating_point())
            for name, parameter in model.named_parameters()
        }
        buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        for module, hook in hooks:
            attached.callback(module.register_forward_hook(hook).remove)
        try:  # on a clone: the pass may write to what it is given
            outputs = torch.func.functional_call(model, {**parameters, **buffers}, (leaf.clone(),))
        except Exception as error:
            error.add_note("raised by the module's own forward")
            raise
        yield Pass(leaf, parameters, outputs)


def loss_of(loss: Loss, outputs: Any, labels: Any, images: torch.Tensor) -> torch.Tensor:
    """Return loss(outputs, labels), the labels brought to the device of the images.

    Raises
    ------
    ValueError
        If there are not as many labels as images, if cross-entropy is given labels that the outputs do not have, or if
        the loss is not one number.
    Exception
        What the loss itself raises, with a note that says so.
    """
    targets = torch.as_tensor(labels).to(images.device)
    if targets.shape[:1] != images.shape[:1]:
        raise ValueError(f"labels must be one for each of {len(images)} images, got shape {tuple(targets.shape)}")
    if loss is nn.functional.cross_entropy and isinstance(outputs, torch.Tensor) and outputs.ndim > 1:
        if not targets.is_floating_point() and not 0 <= int(targets.min()) <= int(targets.max()) < outputs.shape[1]:
            found = f"from {int(targets.min())} to {int(targets.max())}"
            raise ValueError(f"labels must be from 0 to {outputs.shape[1] - 1}, as the model's outputs, got {found}")
    try:
        value = loss(outputs, targets)
    except Exception as error:
        error.add_note("raised by the loss")
        raise
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        kind = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"loss must return a tensor of one number, got {kind}")
    if not value.requires_grad:
        raise ValueError("loss must depend on the model's parameters and outputs, got a constant")
    return value.squeeze()


def refuse_other_models(model: Any) -> None:
    """Raise TypeError for what is no module, ValueError for a module whose weights have no shapes yet."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError("model has lazy modules without shapes: run it once before it is measured")


def prepared(batch: np.ndarray | torch.Tensor, model: nn.Module) -> torch.Tensor:
    """Return the batch, checked, in the type and on the device of the model's parameters."""
    refuse_other_models(model)
    given = batch.detach() if isinstance(batch, torch.Tensor) else np.asarray(batch)
    if str(given.dtype) not in ("float32", "float64", "torch.float32", "torch.float64"):
        raise ValueError(f"batch must be float32 or float64, got {given.dtype}: convert (and standardise) it first")
    tensor = torch.as_tensor(given)
    description = vars(model).get("description")
    expected = description.input_shape if isinstance(description, Sequential) else None
    wanted = "*one input's shape" if expected is None else ", ".join(map(str, expected))
    if tensor.ndim < 2 or 0 in tensor.shape or (expected is not None and tuple(tensor.shape[1:]) != expected):
        raise ValueError(f"batch must have shape (batch, {wanted}) and entries, got {tuple(tensor.shape)}")
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise ValueError(f"batch must be finite, got {bad} NaN or infinite of {tensor.numel()} values")
    low, high = (float(end) for end in torch.aminmax(tensor))
    if low == high and (high == 0 or tensor.numel() > 1):
        raise ValueError(f"batch must not be constant (its standardised values would be 0), every value is {high:g}")
    converted = _like_parameters(tensor, model)
    if not torch.isfinite(converted).all():
        raise ValueError(f"batch does not fit into the model's {converted.dtype}, got values from {low:g} to {high:g}")
    return converted


def _like_parameters(tensor: torch.Tensor, model: nn.Module) -> torch.Tensor:
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return tensor.to(parameter)
    return tensor
