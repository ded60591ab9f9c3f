"""What is known of a training run: losses step by step, results epoch by epoch, divergence, probes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simulations.training.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass
class Divergence:
    """Where a run ended early: the loss became non-finite, or 1000 times what it was at the first step.

    Parameters
    ----------
    step : int
        The first whose loss is so, counted from 0 over all epochs.
    loss : float
    row : str
        The first weight, activation or running statistic that is not finite then, in the order of the forward pass;
        empty if all are finite.
    """

    step: int
    loss: float
    row: str = ""

    def __str__(self) -> str:
        where = f", not finite from {self.row} on" if self.row else ""
        return f"diverged at step {self.step}: loss {self.loss:.3g}{where}"


@dataclass
class History:
    """A run from its first step to where it is.

    Parameters
    ----------
    recipe : Recipe
    data : str
        What the images are known to be.
    steps : int
        Of an epoch.
    machines : list of dict
        Device, threads and version of torch, of every part of the run between interruptions.
    losses : list of float
        Mean cross-entropy of every step's batch, before the step.
    epochs : list of dict
        learning_rate, train_loss, train_accuracy (both over the epoch's batches, in training mode), test_loss and
        test_accuracy (in evaluation mode, after it), seconds (of training alone).
    divergence : Divergence, optional
    probes : list of dict
        step, name, result.
    images : list of str
        SHA-256 of the images that are learned from and their labels, and of those to test on.
    """

    recipe: Recipe
    data: str
    steps: int
    machines: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    divergence: Divergence | None = None
    probes: list[dict[str, Any]] = field(default_factory=list)
    images: list[str] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: all epochs are done, or the run has diverged."""
        return self.divergence is not None or len(self.epochs) == self.recipe.epochs

    @property
    def outcome(self) -> str:
        """How it ended: "diverged", "unfinished", "stuck" (the last epoch's loss is that of guessing) or "trained"."""
        if self.divergence is not None:
            return "diverged"
        if not self.finished:
            return "unfinished"
        return "trained" if self.epochs[-1]["train_loss"] < math.log(self.recipe.classes) else "stuck"

    def verdict(self) -> str:
        """Return the result in one sentence."""
        if self.divergence is not None:
            rate = self.recipe.rate_at(self.divergence.step, self.steps * self.recipe.epochs)
            return f"The run {self.divergence}, learning rate {rate:g}."
        if not self.epochs:
            return f"Not one epoch of {self.recipe.epochs} is finished."
        last = self.epochs[-1]
        where = f"after {len(self.epochs)} of {self.recipe.epochs} epochs"
        guess = ", no better than guessing" if self.outcome == "stuck" else ""
        return (
            f"Test accuracy {last['test_accuracy']:.2%} on {self.data} {where} "
            f"(training loss {last['train_loss']:.4g}{guess}, {sum(epoch['seconds'] for epoch in self.epochs):.0f} s)."
        )

    def line(self) -> str:
        """Return the last epoch in one line."""
        last = self.epochs[-1]
        return (
            f"epoch {len(self.epochs):3}/{self.recipe.epochs}  rate {last['learning_rate']:<8.3g} "
            f"loss {last['train_loss']:<10.4g} accuracy {last['train_accuracy']:.4f}  "
            f"test loss {last['test_loss']:<10.4g} accuracy {last['test_accuracy']:.4f}  {last['seconds']:.1f} s"
        )

    def state(self) -> dict[str, Any]:
        """Return everything as numbers, words, lists and dicts."""
        divergence = None if self.divergence is None else vars(self.divergence)
        return {**vars(self), "recipe": self.recipe.to_dict(), "divergence": divergence}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> History:
        """Rebuild a history from `state`."""
        divergence = state["divergence"]
        kept = {"recipe": Recipe.from_dict(state["recipe"]), "divergence": divergence and Divergence(**divergence)}
        return cls(**{**state, **kept})

    def to_dict(self) -> dict[str, Any]:
        """Return everything and the outcome for JSON, with None for numbers that are not finite."""
        return _finite({"outcome": self.outcome, **self.state()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the loss of every step, on a logarithmic axis, and the test accuracy of every epoch on the right."""
        from matplotlib import pyplot

        ax = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        ax.plot(self.losses, lw=0.8, color="C0", label="loss of a batch")
        ax.set(xlabel="step", ylabel="cross-entropy ℓ", yscale="log")
        ax.set_title(self._title(), loc="left", fontsize="medium")
        if self.epochs:
            right, ends = ax.twinx(), [self.steps * (epoch + 1) for epoch in range(len(self.epochs))]
            right.plot(
                ends, [epoch["test_accuracy"] for epoch in self.epochs], "o-", ms=3, color="C1", label="accuracy"
            )
            right.set(ylabel="test accuracy", ylim=(0, 1))
            handles = [*ax.get_lines(), *right.get_lines()]
            words = [str(line.get_label()) for line in handles]
            ax.legend(handles, words, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
        return ax

    def _title(self) -> str:
        norm = "BN" if self.recipe.normalizes_batches else "no BN"
        return f"{self.data}, {norm}, learning rate {self.recipe.learning_rate:g}: {self.outcome}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
