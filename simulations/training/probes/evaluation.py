"""What every probe does with a module, a batch and a loss: checks them, evaluates them, and leaves all as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bntheory.torch_models import tracing
from simulations.training.modules import torch

nn = torch.nn
Loss = Callable[[Any, torch.Tensor], torch.Tensor]


def refuse_other_models(model: Any) -> None:
    """Raise TypeError for what is no module, ValueError for a module whose weights have no shapes yet."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError("model has lazy modules without shapes: run it once before it is measured")


def numbers(name: str, given: ArrayLike | torch.Tensor, like: torch.Tensor | None) -> torch.Tensor:
    """Return a batch as a tensor on the device of `like`, in its type where the batch has a point; finite.

    Raises
    ------
    ValueError
        If it is not of real numbers, has no entries, or some that are not finite or beyond the range of that type.
    """
    given = given.detach() if isinstance(given, torch.Tensor) else np.asarray(given)
    if given.is_complex() if isinstance(given, torch.Tensor) else given.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be real numbers, got {given.dtype}")
    tensor = torch.as_tensor(given)
    if not tensor.ndim or not tensor.numel():
        raise ValueError(f"{name} must have a first axis that counts them, and entries, got {tuple(tensor.shape)}")
    if like is None:
        like = torch.empty(0, dtype=tensor.dtype)
    converted = tensor.to(like) if tensor.is_floating_point() else tensor.to(like.device)
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite of {tensor.numel()} values")
    if not torch.isfinite(converted).all():
        low, high = torch.aminmax(tensor)
        raise ValueError(f"{name} must fit into the model's {converted.dtype}, got values from {low:g} to {high:g}")
    return converted


def targets(labels: ArrayLike | torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return labels on the device of the images, one for each; integers as int64, as losses of classes want them."""
    tensor = numbers("labels", labels, images)
    if tensor.shape[:1] != images.shape[:1]:
        raise ValueError(f"labels must be one for each of {len(images)} images, got shape {tuple(tensor.shape)}")
    return tensor if tensor.is_floating_point() else tensor.long()


@contextlib.contextmanager
def unchanged(model: nn.Module, device: torch.device, gradients: bool) -> Iterator[None]:
    """Let a module run in the mode and precision that it has itself, not compiled, whatever surrounds the probe.

    Parameters, buffers, attributes, modes, hooks and random states are as before afterwards, also if something raises.
    """
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(gradients),
        tracing.unchanged_random_states(device),
        tracing.unchanged_module(model),
        tracing.eager(model),
        torch.autocast(device.type, enabled=False),
    ):
        yield


def outputs_of(model: nn.Module, tensors: Mapping[str, torch.Tensor], images: torch.Tensor) -> Any:
    """Run the module with parameters and buffers of one's own; what it raises gets a note that says so."""
    try:  # on a clone: the pass may write to what it is given
        return torch.func.functional_call(model, dict(tensors), (images.clone(),))
    except Exception as error:
        error.add_note("raised by the module's own forward")
        raise


def loss_of(loss: Loss, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Return loss(outputs, labels), a tensor without axes.

    Raises
    ------
    ValueError
        In one line, if a loss of classes is given labels that the outputs do not have, the loss fails, or it does not
        return one real number.
    """
    _refuse_classes(loss, outputs, labels)
    try:
        value = loss(outputs, labels)
    except Exception as error:
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"loss fails on outputs {_kind(outputs)} and labels {tuple(labels.shape)}: {what}") from error
    if not isinstance(value, torch.Tensor) or value.numel() != 1 or not value.is_floating_point():
        raise ValueError(f"loss must return a tensor of one real number, got {_kind(value)}")
    return value.reshape(())


def _refuse_classes(loss: Loss, outputs: Any, labels: torch.Tensor) -> None:
    """Refuse labels without a logit, before a GPU sees them: its error ends the process's use of it."""
    known = loss in (nn.functional.cross_entropy, nn.functional.nll_loss)
    known = known or isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss))
    if not known or labels.is_floating_point() or not isinstance(outputs, torch.Tensor) or outputs.ndim < 2:
        return
    ignored = labels == getattr(loss, "ignore_index", -100)
    wrong = labels[((labels < 0) | (labels >= outputs.shape[1])) & ~ignored]
    if wrong.numel():
        raise ValueError(f"labels must be classes from 0 to {outputs.shape[1] - 1}, got {int(wrong[0])}")


def _kind(value: Any) -> str:
    """The shape of a tensor, the type of anything else."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return f"{tuple(value.shape)}" if value.is_floating_point() else f"{value.dtype} {tuple(value.shape)}"
