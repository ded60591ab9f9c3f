"""Probe: the gradient of a batch's loss by the network's outputs, image by image (figure 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from simulations.graded import Floats
from simulations.training.modules import torch
from simulations.training.probes import passes
from simulations.training.probes.evaluation import Loss
from simulations.training.probes.reporting import aligned, plain, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

nn = torch.nn
MOST = 1280  # numbers of the matrix that go into a file: 128 images, 10 classes


@dataclass(frozen=True, eq=False)
class LogitGradients:
    """What `logit_gradients` found.

    Attributes
    ----------
    gradient : ndarray, (images, classes)
        ∂L/∂(output), L the loss of the batch.
    predictions : ndarray of int, (images,)
        Class of the largest output; −1 where an output is not finite.
    loss : float
    """

    gradient: Floats
    predictions: np.ndarray
    loss: float

    @property
    def predicted(self) -> np.ndarray:
        """How many images every class is predicted for, (classes,)."""
        return np.bincount(self.predictions[self.predictions >= 0], minlength=self.gradient.shape[1])

    @property
    def share(self) -> float:
        """Share of the images with the most frequent prediction."""
        return float(self.predicted.max() / len(self.predictions))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for strict JSON (see `reporting.plain`): None for a matrix of over 1280."""
        small = self.gradient.size <= MOST
        return {
            "loss": plain([self.loss])[0],
            "share": self.share,
            "most_frequent": int(self.predicted.argmax()),
            "predicted": self.predicted.tolist(),
            "largest": plain([np.abs(self.gradient).max()])[0],
            "gradient": [plain(row) for row in self.gradient] if small else None,
        }

    def table(self, most: int = 24) -> str:
        """Return a line a class as aligned text, and the share of the most frequent prediction."""
        lines = [
            (str(k), str(count), short(column.mean()), short(column.min()), short(column.max()))
            for k, (count, column) in enumerate(zip(self.predicted, self.gradient.T, strict=True))
        ]
        text = aligned(("class", "predicted", "mean gradient", "least", "largest"), lines, most)
        return (
            f"{text}\n{self.share:.1%} of {len(self.predictions)} images get the most frequent prediction, "
            f"{self.predicted.argmax()}; loss {self.loss:.4g}"
        )

    def __str__(self) -> str:
        return self.table()

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the matrix, a row an image.

        Parameters
        ----------
        ax : Axes, optional
            None: a new figure.

        Returns
        -------
        Axes
        """
        from matplotlib import pyplot

        ax = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        reach = float(np.abs(self.gradient).max())
        image = ax.imshow(self.gradient, aspect="auto", interpolation="none", vmin=-reach, vmax=reach, cmap="RdBu_r")
        ax.figure.colorbar(image, ax=ax, label="∂L/∂output")
        ax.set_xlabel("class")
        ax.set_ylabel("image")
        return ax


def logit_gradients(
    model: nn.Module,
    images: np.ndarray | torch.Tensor,
    labels: np.ndarray | torch.Tensor,
    loss: Loss = nn.functional.cross_entropy,
) -> LogitGradients:
    """Return the gradient of a batch's loss by the outputs, and what the network predicts.

    With cross-entropy, averaged over B images, it is (softmax(output) − one-hot(label)) / B: a column near 1/B
    everywhere belongs to a class that is predicted whatever the image. Nothing of the model is changed, also if
    something raises. Costs one forward pass.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode it is in; returns (batch, classes).
    images : array or tensor of float32 or float64, (batch, *shape)
    labels : array or tensor, (batch, …)
    loss : callable
        loss(outputs, labels), one number.

    Returns
    -------
    LogitGradients
        ``table``, ``to_dict``, ``plot``.

    Raises
    ------
    ValueError
        If the outputs have another shape, the batch is not one of finite numbers or labels do not fit.

    References
    ----------
    Bjorck, Gomes, Selman, Weinberger 2018 (arXiv 1806.02375), figure 6.

    Examples
    --------
    >>> model = nn.Linear(2, 2)
    >>> _ = model.load_state_dict({"weight": torch.zeros(2, 2), "bias": torch.tensor([1.0, 0.0])})
    >>> print(logit_gradients(model, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), [0, 1]))
    class  predicted  mean gradient    least  largest
    0              2         0.1155  -0.1345   0.3655
    1              0        -0.1155  -0.3655   0.1345
    100.0% of 2 images get the most frequent prediction, 0; loss 0.8133
    """
    (found,) = passes.watched([watch(model, labels, loss)], model, images)
    return found


def watch(model: nn.Module, labels: Any, loss: Loss) -> passes.Watch:
    """What the probe wants of a pass, which may have other probes too."""

    def result(run: passes.Pass) -> LogitGradients:
        outputs = run.outputs
        if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2 or len(outputs) != len(run.images):
            kind = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
            raise ValueError(f"the model must return a tensor (batch, classes), got {kind}")
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            value = passes.loss_of(loss, run._replace(outputs=leaf), labels)
            (gradient,) = torch.autograd.grad(value, leaf)
        finite = outputs.isfinite().all(dim=1)
        predictions = torch.where(finite, outputs.argmax(dim=1), -1)
        return LogitGradients(gradient.double().cpu().numpy(), predictions.cpu().numpy(), float(value.detach()))

    return passes.Watch([], False, result)
