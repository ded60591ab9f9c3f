"""Predict the growth of a torch module as it stands."""

from __future__ import annotations

import dataclasses
from typing import Any

from bntheory.growth import prediction
from bntheory.growth.prediction import Growth
from bntheory.initializations import Initialization
from bntheory.torch_models.reading import read
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


def predict_module(
    model: Any,
    example_input: Any,
    init: str | Initialization | None = None,
    batch_size: int | None = None,
    covariances: bool = True,
) -> ModuleGrowth:
    """Predict the size of every row of a torch module as it stands.

    One forward pass is traced (`describe_module`); every weight counts as independent, of zero mean and variance
    mean(W²), biases as of variance mean(b²); γ, β and the mode of normalizations as they are. The prediction is over
    redraws of the weights at these variances, not an error of this one network.

    Parameters
    ----------
    model : torch.nn.Module
        On any device. Nothing is changed: weights (of which a copy is kept meanwhile), buffers, gradients, random
        states, training flags, hooks, attributes.
    example_input : torch.Tensor or array
        (batch, n), (batch, channels, length), (batch, tokens, channels) or (batch, channels, height, width); or whole
        numbers, (batch, tokens), of a module that looks them up in an Embedding first: row 0 is then what it finds, and
        the table stays as it is. Its values give the second moments and covariances that the prediction starts from. Of
        three axes the last counts as the channels, unless the first layer with weights is one of `Conv1d` or
        `BatchNorm1d`.
    init : str or Initialization, optional
        Law of all weights in place of their own variances; biases stay as they are.
    batch_size : int, optional
        None or the number of examples, which is what BatchNorm sees.
    covariances : bool
        As for `predict_growth`: False for large images, in which pools and BatchNorm then have no rule.

    Returns
    -------
    ModuleGrowth
        A row for each call, named after the module that made it, or its place and the function; a module used twice has
        two rows. Sums have their branch before their shortcut.

    Raises
    ------
    ValueError
        If the module or a part of it is scripted, lazy or on the meta device; if the example is not a finite batch of
        real floating-point numbers, or of tokens; if weights are not finite or all zero, or a BatchNorm sees a single
        number (the row is named); if paths cross too often.
    Exception
        What the module's own forward raises, with the row reached as a note.
    ImportError
        Without PyTorch.

    Notes
    -----
    Seen are all functions of torch that the forward pass calls. A call without a rule is named in its row, as
    "unsupported", and the rows after it start from the numbers that the module as it is has there ("measured"): so do
    those after a sum or product of paths that cross or share weights, of weights used again as their transpose, of a
    change through an alias, of drawn factors, and of numbers that come from outside torch. Where `init` names other
    weights than it has, such rows behind weights stay unsupported, and always those behind numbers that are not finite.
    Attention, recurrent layers and interpolation other than the nearest are such calls. Other weights that several
    rows share count as independent; the verdict says so, and where weights have a mean or heavy tails. Weights that are
    computed from others, as by `weight_norm` and `spectral_norm`, count as independent draws of their second moment:
    there are no bands from there on.
    Where a forward pass depends on data, the prediction is of the branch that the example takes.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    >>> growth = predict_module(model, torch.randn(8, 64), init="he_normal")
    >>> growth.name, growth.moment_method[-1]
    (('input', '0', '1', '2', '3'), 'exact')
    """
    found = read(model, example_input, init)
    growth = prediction.predicted(found.net, found.rows, found.inputs, batch_size, covariances, found.measured())
    fields = {field.name: getattr(growth, field.name) for field in dataclasses.fields(Growth)}
    if found.computed:  # those who normalize weights fix what independent ones would vary by
        fields["_band_rule"] = lambda: growth._band.without(slice(found.computed[0], None))
        fields["_gradient_band_rule"] = lambda: growth._gradient_band.without(slice(0, -1))
    return ModuleGrowth(**fields, weights=tuple(found.trace.weights), notes=found.notes)
