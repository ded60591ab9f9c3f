"""Probe: how far a network as it is lies from what theory says of random ones with weights of the same sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bntheory import arguments, predict_module
from bntheory.torch_models.prediction import ModuleGrowth
from simulations.graded import Floats
from simulations.training.modules import torch
from simulations.training.probes.reporting import aligned, plain
from simulations.training.redraws import measure_module

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 8  # images: their covariances are carried in pairs
PLACES = (1 / 4, 1 / 2, 3 / 4, 1)  # of the network's rows, where `to_dict` gives the gap


@dataclass(frozen=True, eq=False)
class TheoryGap:
    """What `theory_gap` found.

    Attributes
    ----------
    predicted : ModuleGrowth
        Of networks with independent weights of zero mean, of the mean squares that the layers have.
    measured : ndarray, (rows,)
        ln second moment of the network as it is.
    gap : ndarray, (rows,)
        measured − predicted mean of ln second moment where there is one, elsewhere − ln E second moment; NaN of a
        row without a rule; rows after it are predicted from what is measured there.
    deviations : ndarray, (rows,)
        gap over the predicted standard deviation of random networks; NaN where there is none.
    """

    predicted: ModuleGrowth
    measured: Floats
    gap: Floats
    deviations: Floats

    @property
    def last(self) -> float:
        """The gap at the output."""
        return float(self.gap[-1])

    @property
    def largest(self) -> tuple[float, str]:
        """The gap that is largest in size, and its row."""
        row = int(np.nanargmax(np.abs(self.gap)))
        return float(self.gap[row]), self.predicted.name[row]

    @property
    def root_mean_square(self) -> float:
        """Over all rows of which theory speaks."""
        return float(np.sqrt(np.nanmean(self.gap**2)))

    @property
    def outside(self) -> float:
        """Share of the rows with a band that lie outside of its 95%, |deviation| > 1.96; NaN without such rows."""
        known = self.deviations[np.isfinite(self.deviations)]
        return float(np.mean(np.abs(known) > 1.96)) if len(known) else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return what sums it up as plain data, ready for strict JSON."""
        gap, row = self.largest
        rows = [round(place * (len(self.gap) - 1)) for place in PLACES]
        weights = [part for part in self.predicted.weights if part.entries > 1]
        return plain(
            {
                "last": self.last,
                "largest": gap,
                "largest_row": row,
                "root_mean_square": self.root_mean_square,
                "outside": self.outside,
                "rows": [self.predicted.name[row] for row in rows],
                "gaps": [float(self.gap[row]) for row in rows],
                "mean_share": max((part.mean_share for part in weights), default=0.0),
                "kurtosis": max((part.kurtosis for part in weights), default=0.0),
            }
        )

    def table(self, most: int = 24) -> str:
        """Return the rows as aligned text, and a sentence."""
        columns = zip(
            self.predicted.name, self.predicted.log_second_moment, self.measured, self.gap, self.deviations, strict=True
        )
        text = aligned(("row", "predicted ln", "measured ln", "gap", "in std"), list(columns), most)
        gap, row = self.largest
        return f"{text}\nlargest gap {gap:+.3f} at row {row}, at the output {self.last:+.3f}"

    def __str__(self) -> str:
        return self.table()

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw prediction, band and the network (see `bntheory.plot_growth`)."""
        from bntheory.growth.diagnosis.layer_trends import layer_rows
        from bntheory.plotting import plot_growth

        ax = plot_growth(self.predicted, ax=ax)
        index = layer_rows(self.predicted.rows)  # of the axis, which may count blocks
        ax.plot(np.arange(len(index)), self.measured[index], "k.", ms=4, label="this network")
        ax.legend()
        return ax


def theory_gap(
    model: torch.nn.Module, images: torch.Tensor, labels: Any = None, loss: Any = None, most: int = MOST
) -> TheoryGap:
    """Compare every row of a module as it is with the prediction for random weights of the same sizes.

    At initialization the gap is one draw of the predicted fluctuations; in training it grows with what the weights have
    learned of each other and of the images, which theory takes for independent.

    Parameters
    ----------
    model : torch.nn.Module
        Unchanged.
    images : tensor or array, (number, …)
    labels, loss : optional
        Not used: for the sake of probes that need them.
    most : int
        Images that are taken, the first ones.

    Returns
    -------
    TheoryGap

    Raises
    ------
    ValueError
        As `bntheory.predict_module`.

    Notes
    -----
    Cost: three forward passes of 8 images, and the prediction, about a second for ResNet-20 at 3×8×8. A BatchNorm in
    training mode normalizes over these images.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
    >>> found = theory_gap(model, torch.randn(8, 16))
    >>> abs(found.last) < 1.5
    True
    """
    batch = images[: arguments.integer("most", most)]
    predicted = predict_module(model, batch)
    measured = measure_module(model, batch, redraw="none", gradients=False).log_second_moment[0]
    mean = np.where(np.isfinite(predicted.log_growth_mean), predicted.log_growth_mean, predicted.log_second_moment)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.where(measured == mean, 0.0, measured - mean)  # of a row that is zero, and predicted so, too
        deviations = np.where(predicted.log_growth_std > 1e-9, gap / predicted.log_growth_std, np.nan)
    return TheoryGap(predicted, measured, gap, deviations)
