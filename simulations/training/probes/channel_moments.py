"""Probe: means and standard deviations of channels by depth (figure 5), reduced while the network runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from simulations.graded import Floats
from simulations.training.modules import torch
from simulations.training.probes import passes, weight_layers
from simulations.training.probes.evaluation import Loss, refuse_other_models
from simulations.training.probes.reporting import aligned, plain, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

nn = torch.nn
CONVOLUTION = nn.modules.conv._ConvNd
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
FEATURES_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding)


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """What `channel_moments` found, a row for every output in the order of execution.

    Attributes
    ----------
    rows : tuple of str
        Names of modules; "(2)" is the second call.
    kinds : tuple of str
        Their classes.
    numbers : tuple of int or None
        Numbers of convolutions and linear layers along the main path, as the paper counts.
    log_std, log_mean : tuple of ndarray, (channels,)
        ln of the standard deviation over images and positions, and ln |mean|; −inf where they are 0, NaN where outputs
        are not finite.
    """

    rows: tuple[str, ...]
    kinds: tuple[str, ...]
    numbers: tuple[int | None, ...]
    log_std: tuple[Floats, ...]
    log_mean: tuple[Floats, ...]

    @property
    def alive(self) -> np.ndarray:
        """Channels of a finite deviation that is not 0, (rows,)."""
        return np.array([np.isfinite(logs).sum() for logs in self.log_std])

    def averages(self, name: str) -> tuple[Floats, Floats]:
        """Mean and standard deviation over channels of "log_std" or "log_mean", (rows,) each.

        Only channels count where the logarithm is finite; NaN where there is none.
        """
        parts = [logs[np.isfinite(logs)] for logs in getattr(self, name)]
        found = [(logs.mean(), logs.std()) if logs.size else (np.nan, np.nan) for logs in parts]
        mean, spread = np.array(found).reshape(-1, 2).T
        return mean, spread

    def to_dict(self) -> dict[str, Any]:
        """Return the averages as plain data, ready for strict JSON (see `reporting.plain`)."""
        found: dict[str, Any] = {
            "rows": list(self.rows),
            "kinds": list(self.kinds),
            "numbers": list(self.numbers),
            "channels": [len(logs) for logs in self.log_std],
            "alive": self.alive.tolist(),
        }
        for name in ("log_std", "log_mean"):
            found[name], found[f"{name}_spread"] = map(plain, self.averages(name))
        return found

    def table(self, most: int = 24) -> str:
        """Return the averages as aligned text; of many rows the first and last `most`/2."""
        counts = [f"{alive} of {len(logs)}" for alive, logs in zip(self.alive, self.log_std, strict=True)]
        columns = zip(*self.averages("log_std"), *self.averages("log_mean"), strict=True)
        rows = zip(self.rows, self.kinds, self.numbers, counts, columns, strict=True)
        lines = [(row, kind, short(number), count, *map(short, logs)) for row, kind, number, count, logs in rows]
        return aligned(("output", "of", "layer", "alive", "ln std", "±", "ln |mean|", "±"), lines, most)

    def __str__(self) -> str:
        return self.table()

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw both averages over the layers of the main path, with bars of the standard deviation over channels.

        Parameters
        ----------
        ax : Axes, optional
            None: a new figure.

        Returns
        -------
        Axes
        """
        from matplotlib import pyplot

        from bntheory.plotting import BLUE, ORANGE

        ax = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        main = [row for row, number in enumerate(self.numbers) if number is not None]
        at = [self.numbers[row] for row in main]
        for name, text, color in (("log_std", "ln std", BLUE), ("log_mean", "ln |mean|", ORANGE)):
            mean, spread = (part[main] for part in self.averages(name))
            ax.errorbar(at, mean, spread, fmt=".-", color=color, lw=1, elinewidth=0.5, label=text)
        ax.set_xlabel(r"layer $\ell$ along the main path")
        ax.set_ylabel("mean over channels ± standard deviation")
        ax.legend(fontsize="small")
        return ax


def channel_moments(
    model: nn.Module,
    images: np.ndarray | torch.Tensor,
    labels: np.ndarray | torch.Tensor | None = None,
    loss: Loss | None = None,
    also: Sequence[str] = (),
) -> ChannelMoments:
    """Measure the mean and the standard deviation of every channel, over images and positions, of many outputs.

    They are those of convolutions and linear layers, of blocks (modules of several parts with a convolution or linear
    layer inside, containers and the whole left out), and of what is named. Each is reduced when it appears: nothing is
    kept. Nothing of the model is changed, also if something raises. Costs one forward pass.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode it is in.
    images : array or tensor of float32 or float64, (batch, *shape)
    labels, loss
        Not used: probes are called alike.
    also : sequence of str
        Names of further modules, as in ``model.named_modules()``; each returns a real tensor of two axes or more.

    Returns
    -------
    ChannelMoments
        ``averages``, ``table``, ``to_dict``, ``plot``.

    Raises
    ------
    ValueError
        If there is no module of a name, nothing to measure, or the batch is not one of finite numbers.
    TypeError
        If a module that was named returns something else.

    Notes
    -----
    Channels are axis 1, after Linear and LayerNorm the last one; a block's output of three axes has them where its last
    such layer had them. For all rows of a description there is `simulations.measure_growth`.

    References
    ----------
    Bjorck, Gomes, Selman, Weinberger 2018 (arXiv 1806.02375), figure 5: outputs of convolutions before BN.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
    >>> _ = model.load_state_dict({"0.weight": torch.tensor([[1.0], [2.0]]), "0.bias": torch.tensor([3.0, -9.0])})
    >>> print(channel_moments(model, torch.tensor([[-2.0], [2.0]]), also=["1"]))
    output      of  layer   alive  ln std       ±  ln |mean|       ±
    0       Linear      1  2 of 2    1.04  0.3466      1.648  0.5493
    1         ReLU         1 of 2  0.6931       0      1.099       0
    """
    (found,) = passes.watched([watch(model, also=also)], model, images)
    return found


def watch(model: nn.Module, labels: Any = None, loss: Loss | None = None, also: Sequence[str] = ()) -> passes.Watch:
    """What the probe wants of a pass, which may have other probes too."""
    watched = _watched(model, also)
    layers = [name for module, name in watched.items() if isinstance(module, (CONVOLUTION, nn.Linear))]
    numbers = weight_layers.numbered(layers)
    rows: list[tuple[str, str, int | None]] = []
    logs: list[torch.Tensor] = []
    calls, axis = dict.fromkeys(watched, 0), 1

    def hook(module: nn.Module, _: object, output: Any) -> None:
        nonlocal axis
        name = watched[module]
        if not isinstance(output, torch.Tensor) or output.is_complex() or output.ndim < 2:
            if name in also:
                kind = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
                raise TypeError(f"output of {name} must be a real tensor (batch, channels, …), got {kind}")
            return
        if isinstance(module, (CONVOLUTION, *FEATURES_LAST)):
            axis = -1 if isinstance(module, FEATURES_LAST) else 1
            place = axis
        else:
            place = axis if output.ndim == 3 else 1
        calls[module] += 1
        word = name if calls[module] == 1 else f"{name} ({calls[module]})"
        rows.append((word, type(module).__name__, numbers.get(name)))
        logs.append(_log_moments(output.detach(), place))

    def result(_: passes.Pass) -> ChannelMoments:
        if not rows:
            raise ValueError(f"none of {', '.join(watched.values()):.80} has run or returned a tensor of channels")
        names, kinds, places = zip(*rows, strict=True)
        found = [part.cpu().numpy() for part in logs]
        return ChannelMoments(names, kinds, places, *(tuple(part[k] for part in found) for k in range(2)))

    return passes.Watch([(module, hook) for module in watched], False, result)


def _watched(model: nn.Module, also: Sequence[str]) -> dict[nn.Module, str]:
    """The modules whose outputs are measured, and their names."""
    refuse_other_models(model)
    modules = dict(model.named_modules())
    for name in also:
        if name not in modules:
            raise ValueError(f"{type(model).__name__} has no module {name!r}: model.named_modules() lists them")
    wanted = {name or "model": module for name, module in _layers_and_blocks(model)}
    wanted |= {name: modules[name] for name in also}
    if not wanted:
        raise ValueError(f"{type(model).__name__} has no convolution or linear layer: name modules to measure in also")
    return {module: name for name, module in wanted.items()}


def _layers_and_blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if "parametrizations" in name.split("."):  # those compute weights
            continue
        layer = isinstance(module, (CONVOLUTION, nn.Linear))
        parts = not layer and module is not model and not isinstance(module, CONTAINERS)
        if layer or (parts and any(isinstance(part, (CONVOLUTION, nn.Linear)) for part in module.modules())):
            yield name, module


def _log_moments(output: torch.Tensor, axis: int) -> torch.Tensor:
    """ln std and ln |mean| of channels, (2, channels), float64; in units of the largest entry: nothing overflows."""
    channels = output.movedim(axis, 0).flatten(1)
    largest = torch.linalg.vector_norm(channels, torch.inf).double()
    units = channels.double().div_(torch.where(largest > 0, largest, 1.0))
    first = units[:, :1].clone()
    units -= first  # so that channels which are constant have variance 0, without rounding
    shift = units.mean(dim=1)
    variance = (torch.linalg.vector_norm(units, dim=1) ** 2 / units.shape[1] - shift**2).clamp_min(0)
    return torch.stack([variance.log() / 2, (first[:, 0] + shift).abs().log()]) + largest.log()
