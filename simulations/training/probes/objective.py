"""The loss of a mini-batch as a function of a module's parameters; the module itself stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from simulations.training.modules import torch
from simulations.training.probes import evaluation
from simulations.training.probes.evaluation import Loss, loss_of

nn = torch.nn
Point = Sequence[torch.Tensor]
WIDER = "in float64, model.double(), the range is 1e308"


class Objective:
    """ℓ(θ) = loss(model_θ(images), labels), over the parameters θ that require a gradient.

    Every evaluation starts from the module's buffers and the random states as they are, so that masks of Dropout are
    the same at all θ; BatchNorm normalizes in the mode it is in. Parameters, gradients, buffers, modes and random
    states are left as they were, also if the forward pass raises.

    Parameters
    ----------
    model : torch.nn.Module
    images : array or tensor, (number, …)
        Finite; floating-point numbers are converted to the type of the model's parameters, integers stay what they are.
    labels : array or tensor, (number, …)
        Likewise; integers become int64, as losses of classes want them.
    loss : callable
        (outputs, labels) ↦ one real number, the mean over the images.

    Attributes
    ----------
    names, start : names of the parameters, and their present values
    count : number of images

    Raises
    ------
    ValueError
        If there is nothing to train, no image, a number of labels that is not that of the images, or a value that is
        not finite.
    TypeError
        If `model` is not a module.
    """

    def __init__(self, model: nn.Module, images: Any, labels: Any, loss: Loss) -> None:
        evaluation.refuse_other_models(model)
        model = getattr(model, "_orig_mod", model)  # of torch.compile
        trained = {name: own for name, own in model.named_parameters() if own.requires_grad}
        if not trained:
            raise ValueError(
                f"{type(model).__name__} has no parameters that require a gradient: there is no step to take"
            )
        self.model, self.loss = model, loss
        self.names, self.start = tuple(trained), [own.detach() for own in trained.values()]
        self._frozen = {name: own.detach() for name, own in model.named_parameters() if name not in trained}
        self.images = evaluation.numbers("images", images, self.start[0])
        self.labels = evaluation.targets(labels, self.images)
        self.count = len(self.images)

    def value(self, point: Point | None = None, part: Any = ..., wide: bool = False) -> float:
        """ℓ at a point, θ as it is if None, of some of the images; `wide` in float64. One forward pass, no graph."""
        with self._evaluation(False):
            return float(self._loss(self.start if point is None else point, part, wide))

    def value_in_range(self, point: Point, wide_point: Callable[[], Point]) -> tuple[float, bool]:
        """ℓ at a point, and whether that took float64: where it is not finite otherwise; +inf if there neither."""
        value = self.value(point)
        if np.isfinite(value):
            return value, False
        try:
            value = self.value(wide_point(), wide=True)
        except (RuntimeError, ValueError):  # a part of the module, or of the loss, insists on its type
            return np.inf, True
        return (value if np.isfinite(value) else np.inf), True

    def gradient(self, point: Point | None = None, part: Any = ...) -> tuple[float, list[torch.Tensor]]:
        """ℓ and ∇ℓ, zero for parameters that it does not depend on. One forward and one backward pass."""
        with self._evaluation(True):
            value, leaves = self._at(point, part)
            if not value.requires_grad:
                return float(value.detach()), [torch.zeros_like(leaf) for leaf in leaves]
            return float(value.detach()), list(torch.autograd.grad(value, leaves, materialize_grads=True))

    def finite_gradient(self) -> tuple[float, list[torch.Tensor]]:
        """ℓ and ∇ℓ at θ as it is; ValueError if they are not finite."""
        value, gradient = self.gradient()
        if not np.isfinite(value):
            raise ValueError(f"the loss must be finite at the start, got {value}: {WIDER}")
        for name, part in zip(self.names, gradient, strict=True):
            if not torch.isfinite(part).all():
                raise ValueError(f"the gradient must be finite, got {_bad(part)} in {name}: {WIDER}")
        return value, gradient

    def gradients(self, part: Any = ...) -> list[torch.Tensor]:
        """∇ℓ of every image by itself, (images, *shape) for each parameter; for a loss that is a mean over images."""
        images, labels = self.images[part], self.labels[part]

        def single(point: Point, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            own = {**dict(zip(self.names, point, strict=True)), **self._frozen}
            own |= {name: buffer.clone() for name, buffer in self.model.named_buffers()}
            outputs = torch.func.functional_call(self.model, own, (image[None].clone(),))
            return self.loss(outputs, label[None]).reshape(())

        with self._evaluation(True):
            try:
                each = torch.func.vmap(torch.func.grad(single), in_dims=(None, 0, 0), randomness="same")
                return [gradient.detach() for gradient in each(self.start, images, labels)]
            except (RuntimeError, NotImplementedError):  # a part of the model that cannot be vectorized
                pass
        indices = torch.arange(self.count)[part]
        rows = [self.gradient(part=slice(index, index + 1))[1] for index in indices.tolist()]
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    def curved(self) -> tuple[float, list[torch.Tensor], Callable[[Point], list[torch.Tensor]]]:
        """ℓ, ∇ℓ and v ↦ Hv, H the Hessian at θ as it is.

        The graph of the gradient is kept: a product costs one backward pass through it, about two of ℓ.
        """
        with self._evaluation(True):
            value, leaves = self._at(None, ...)
            gradient = torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
        if not any(part.requires_grad for part in gradient):
            raise ValueError("the gradient does not depend on the parameters: there is no curvature to measure")

        def product(direction: Point) -> list[torch.Tensor]:
            pairs = [(own, v) for own, v in zip(gradient, direction, strict=True) if own.requires_grad]
            outputs, vectors = zip(*pairs, strict=True)
            try:
                found = torch.autograd.grad(outputs, leaves, vectors, retain_graph=True, materialize_grads=True)
            except RuntimeError as error:
                raise ValueError(f"the loss cannot be differentiated twice: {str(error).splitlines()[0]}") from error
            return list(found)

        return float(value.detach()), [part.detach() for part in gradient], product

    def _at(self, point: Point | None, part: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        # a caller in inference mode has made tensors that no graph takes
        kept = [own.clone() if own.is_inference() else own for own in (self.start if point is None else point)]
        leaves = [own.detach().requires_grad_() for own in kept]
        return self._loss(leaves, part), leaves

    def _loss(self, point: Point, part: Any, wide: bool = False) -> torch.Tensor:
        own = {**dict(zip(self.names, point, strict=True)), **self._frozen}
        own |= {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        images, labels = self.images[part], self.labels[part]
        if wide:
            own = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in own.items()}
            images, labels = (each.double() if each.is_floating_point() else each for each in (images, labels))
        return loss_of(self.loss, evaluation.outputs_of(self.model, own, images), labels)

    @contextmanager
    def _evaluation(self, graph: bool) -> Iterator[None]:
        with evaluation.unchanged(self.model, self.start[0].device, graph):
            yield


def moved(point: Point, step: float, gradient: Point, wide: bool = False) -> list[torch.Tensor]:
    """θ − step · g, in float64 if `wide`."""
    if wide:
        point, gradient = ([each.double() for each in tensors] for tensors in (point, gradient))
    return [own - step * part for own, part in zip(point, gradient, strict=True)]


def inner(one: Point, other: Point) -> float:
    """Σ a b over all entries, in float64."""
    return sum(float((a.double() * b.double()).sum()) for a, b in zip(one, other, strict=True))


def _bad(tensor: torch.Tensor) -> float:
    """The first entry that is not finite."""
    return float(tensor[~torch.isfinite(tensor)][0])
