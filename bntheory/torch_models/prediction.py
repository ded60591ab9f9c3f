"""Predict the growth of a torch module as it stands."""

from __future__ import annotations

import dataclasses
from typing import Any

from bntheory.growth.prediction import Growth
from bntheory.torch_models.weights import Weights

STRANGE_MEAN = 0.05  # of mean²/second moment; independent draws have 1/entries
STRANGE_KURTOSIS = 6.0


@dataclasses.dataclass(frozen=True, eq=False)
class ModuleGrowth(Growth):
    """The growth of a torch module: `Growth`, with a row for each call, and what is known of its weights.

    Attributes
    ----------
    weights : tuple of Weights
        Of every row with weights: how many, second moment, mean²/second moment, kurtosis, mean square of biases, and
        an earlier row with the same weights.
    notes : tuple of str
        What the prediction leaves out or takes for granted.
    """

    weights: tuple[Weights, ...] = ()
    notes: tuple[str, ...] = ()

    def verdict(self) -> str:
        """`Growth.verdict`, and the notes."""
        return "\n".join([super().verdict(), *(f"Note: {note}." for note in (*self.notes, *self._strange()))])

    def to_dict(self) -> dict[str, Any]:
        """`Growth.to_dict`, with the weights and the notes."""
        return {**super().to_dict(), "weights": [part._asdict() for part in self.weights], "notes": list(self.notes)}

    def weights_table(self) -> str:
        """Return the weights as aligned text."""
        lines = [("row", "weights", "mean W²", "mean²/mean W²", "kurtosis", "mean b²", "shared with")]
        lines += [
            (part.row, f"{part.entries}", f"{part.second_moment:.4g}", f"{part.mean_share:.2g}", f"{part.kurtosis:.3g}",
             f"{part.bias:.3g}", part.shared_with)
            for part in self.weights
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)

    def _strange(self) -> list[str]:
        """Weights that are far from what theory takes them for."""
        means = [part for part in self.weights if part.mean_share > STRANGE_MEAN + 10 / part.entries]
        tails = [part for part in self.weights if part.kurtosis > STRANGE_KURTOSIS and part.entries > 100]
        lines = []
        if means:
            worst = max(means, key=lambda part: part.mean_share)
            lines.append(f"weights of {len(means)} rows have a mean, which theory takes for 0: most in {worst.row}, "
                         f"mean²/mean W² = {worst.mean_share:.2g}")  # fmt: skip
        if tails:
            worst = max(tails, key=lambda part: part.kurtosis)
            lines.append(f"weights of {len(tails)} rows have heavy tails: most in {worst.row}, "
                         f"kurtosis {worst.kurtosis:.3g} instead of 3")  # fmt: skip
        return lines
