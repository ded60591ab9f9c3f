"""Sweeps: learning rate × normalization × depth × initialization × seed, as a study of training runs."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import bntheory
from bntheory import arguments
from simulations.ensemble import cores
from simulations.processes import processes
from simulations.study import Study
from simulations.study_results import StudyResults
from simulations.study_run import run_study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from simulations.training.recipe import Recipe

NORMS = {"none": {}, "all": {"batch_norm": True}, "last": {"final_batch_norm": True}}  # where a ResNet has BatchNorm
SETTINGS = ("data", "learning_rate", "epochs", "batch_size", "momentum", "weight_decay", "augment", "precision", "seed")
ELSEWHERE = ("norm", "device", "machine", "torch")  # parameters of a run that are in neither recipe nor network
KIND = "simulations.training.sweep:trained"
STABLE = 2.0  # times the first loss, which the loss of a stable run does not pass
Ratio = tuple[dict[str, Any], np.ndarray]  # a place in the grid, and one number for each seed


def trained(parameters: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Train one network of a sweep, on one thread: what a study calls at every point of its grid.

    Parameters
    ----------
    parameters : mapping
        ``norm`` ("none", "all" layers, or the "last" one only), arguments of `bntheory.resnet`, fields of `Recipe`,
        ``device``. Runs with the same ``seed`` among them see the same images in the same order.
    seed : int
        Of the trial; taken where the parameters have no seed.

    Returns
    -------
    dict
        test_accuracy, train_accuracy and train_loss of the last epoch, the loss at the first step, the largest loss of
        a step over that, and the step of divergence. What there is not is infinite.
    """
    from simulations.training.devices import one_torch_thread
    from simulations.training.loop import train

    recipe = recipe_of({"seed": seed, **parameters})
    with one_torch_thread():
        history = train(recipe, device=parameters.get("device", "cpu"), progress=False)
    found = dict.fromkeys(("test_accuracy", "train_accuracy", "train_loss"), math.inf)
    if history.divergence is None:
        found = {name: history.epochs[-1][name] for name in found}
    step = math.inf if history.divergence is None else history.divergence.step
    first = history.losses[0] if math.isfinite(history.losses[0]) else math.inf
    rise = math.inf if history.divergence is not None else max(history.losses) / history.losses[0]
    return {**found, "first_loss": first, "largest_relative_loss": rise, "divergence_step": step}


def is_stable(run: Mapping[str, Any]) -> bool:
    """Whether the loss of no step was above twice the first one."""
    return run["largest_relative_loss"] < STABLE


def has_learned(run: Mapping[str, Any], share: float = 0.5) -> bool:
    """Whether so many of the last epoch's images were recognized, in training."""
    return share <= run["train_accuracy"] < math.inf


def recipe_of(parameters: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a run of a sweep; ValueError names a parameter that there is not."""
    from simulations.training.recipe import Recipe

    known = inspect.signature(bntheory.resnet).parameters
    for name in parameters:
        arguments.choice("a parameter", name, (*ELSEWHERE, *SETTINGS, *known))
    norm = NORMS[arguments.choice("norm", parameters.get("norm", "none"), NORMS)]
    net = bntheory.resnet(**{name: value for name, value in parameters.items() if name in known}, **norm)
    return Recipe(net, **{name: value for name, value in parameters.items() if name in SETTINGS})


def sweep_study(grid: Mapping[str, Sequence[Any]], device: str = "auto", **description: Any) -> Study:
    """Return the study of a sweep.

    Parameters
    ----------
    grid : mapping of str to sequence
        Axes: learning_rate, and norm, depth, init, seed, or any other parameter that `trained` takes.
    device : {"auto", "cpu", "cuda"}
    **description
        Parameters that are the same in all runs.

    Returns
    -------
    Study
        With one trial a point; device, its name and torch's version are in its description, since results depend on
        them.

    Raises
    ------
    ValueError
        Without learning rates, for a parameter or value that no run has, or images that are not there, before anything
        is trained.

    Examples
    --------
    >>> study = sweep_study({"learning_rate": [0.001, 0.1], "norm": ["none", "all"]}, "cpu", depth=8, image=(3, 8, 8))
    >>> len(study)
    4
    """
    from simulations.training import devices
    from simulations.training.batches import examples

    place = devices.resolve(device)
    found = devices.described(place)
    where = {"device": place, "machine": found["name"], "torch": found["torch"]}
    study = Study(KIND, grid, trials=1, description={**description, **where}, chunk=1)
    images = {}
    for point in range(study.points):
        recipe = recipe_of({"seed": 0, **study.parameters(point)})
        images[recipe.data, recipe.image, recipe.classes, recipe.batch_size] = recipe
    if "learning_rate" not in grid:
        axes = ", ".join(grid)
        raise ValueError(f"a sweep goes over learning rates: the grid needs learning_rate, got {axes}")
    for recipe in images.values():
        examples(recipe, "cpu")  # which refuses images that are not there, or not enough
    return study


def sweep(
    study: Study,
    folder: str | Path,
    resume: bool = False,
    workers: int | None = None,
    executor: Executor | None = None,
    progress: bool | None = None,
) -> SweepResult:
    """Train every network of a sweep that is not trained yet, each on one thread of a process of its own.

    Parameters
    ----------
    study : Study
        From `sweep_study`.
    folder, resume, progress
        As for `run_study`: what is finished survives anything, a run that was interrupted is begun anew.
    workers : int, optional
        Runs at a time; None: one a core.
    executor : concurrent.futures.Executor, optional
        Instead of processes here: Dask's, for example.

    Returns
    -------
    SweepResult

    Raises
    ------
    ValueError, OSError, KeyboardInterrupt
        As `run_study`.
    """
    if study.kind != KIND:
        raise ValueError(f"a sweep is a study made by sweep_study, got one of kind {study.kind!r}")
    workers = cores() if workers is None else arguments.integer("workers", workers)
    # not threads, which would share torch's number of threads and Python's lock
    with processes(workers) if executor is None else contextlib.nullcontext(executor) as pool:
        run_study(study, folder, resume, workers, pool, progress)
    return SweepResult.read(folder)


PROPERTIES = {
    "are stable": is_stable,
    "recognize 30%": functools.partial(has_learned, share=0.3),
    "recognize half": has_learned,
}


@dataclass(frozen=True)
class Largest:
    """The largest learning rates of one kind of network that have a property, one for each seed.

    Parameters
    ----------
    case : dict
        Where in the grid: every axis but learning rate and seed.
    rates : tuple of float
        One a seed; 0 if the run has the property at no learning rate of the sweep.
    beyond : bool
        Whether for some seed it is the largest of the sweep, or not all above it are tried yet, so that the true one
        may lie above.
    """

    case: dict[str, Any]
    rates: tuple[float, ...]
    beyond: bool

    @property
    def geometric_mean(self) -> float:
        """exp of the mean logarithm; 0 if a seed has none."""
        return float(np.exp(np.mean(np.log(self.rates)))) if min(self.rates) > 0 else 0.0

    def __str__(self) -> str:
        each = ", ".join(f"{rate:.3g}" if rate else "none" for rate in self.rates)
        if self.geometric_mean:
            return f"{'≥ ' if self.beyond else ''}{self.geometric_mean:.3g}  ({each})"
        return f"–  ({each}{'; may be larger' if self.beyond else ''})"


class SweepResult:
    """What a sweep has found, complete or not.

    Parameters
    ----------
    results : StudyResults
        Of a sweep.

    Attributes
    ----------
    results : StudyResults
    runs : list of dict
        One a finished run: its place in the grid, and what `trained` returns.
    """

    def __init__(self, results: StudyResults) -> None:
        if results.study.kind != KIND:
            raise ValueError(f"{results.folder} is not the folder of a sweep but of a study of {results.study.kind}")
        self.results = results
        self.runs: list[dict[str, Any]] = []
        for point, arrays in enumerate(results.points()):
            if arrays:
                found = {name: float(values[0, 0]) for name, values in arrays.items()}
                self.runs.append({**results.study.point(point), **found})

    @classmethod
    def read(cls, folder: str | Path) -> SweepResult:
        """Read the folder of a sweep, also while it runs; ValueError if it is not one."""
        return cls(StudyResults(folder))

    def cases(self) -> list[dict[str, Any]]:
        """Return the kinds of networks: points of the grid without learning rates and seeds."""
        cases = [{k: v for k, v in run.items() if k in self.results.study.grid} for run in self.runs]
        plain = [{k: v for k, v in case.items() if k not in ("learning_rate", "seed")} for case in cases]
        return [case for place, case in enumerate(plain) if case not in plain[:place]]

    def of(self, case: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the runs at a place in the grid."""
        return [run for run in self.runs if all(run[name] == value for name, value in case.items())]

    def largest(self, property: Callable[[Mapping[str, Any]], bool] = is_stable) -> list[Largest]:
        """Return the largest learning rates whose runs are stable, or have learned, for every kind of network."""
        rates = self.results.study.grid["learning_rate"]
        found = []
        for case in self.cases():
            runs = self.of(case)
            seeds = sorted({run.get("seed", 0) for run in runs})
            good = [(run.get("seed", 0), run["learning_rate"]) for run in runs if property(run)]
            largest = tuple(max((rate for own, rate in good if own == seed), default=0.0) for seed in seeds)
            tried = [(run.get("seed", 0), run["learning_rate"]) for run in runs]
            above = [[(seed, rate) for rate in rates if rate > own] for seed, own in zip(seeds, largest, strict=True)]
            found.append(Largest(case, largest, not all(each and set(each) <= set(tried) for each in above)))
        return found

    def ratios(self, property: Callable[[Mapping[str, Any]], bool] = is_stable) -> list[Ratio]:
        """Return the largest learning rate with BatchNorm in all layers over that without, seed by seed.

        Of each kind of network that the sweep has with norm "none" and "all", where all runs are there and all seeds
        have both.
        """
        found, largest = [], self.largest(property)
        for plain in largest:
            rest = {name: value for name, value in plain.case.items() if name != "norm"}
            for normed in largest:
                if plain.case.get("norm") == "none" and normed.case == {**plain.case, "norm": "all"}:
                    both = self._complete(plain.case) and self._complete(normed.case)
                    if both and min(*plain.rates, *normed.rates) > 0:
                        found.append((rest, np.array(normed.rates) / np.array(plain.rates)))
        return found

    def table(self) -> str:
        """Return the largest learning rates, their ratios, and accuracies at common learning rates."""
        lines = []
        for title, property in PROPERTIES.items():
            lines.append(f"largest learning rate whose runs {title} (geometric mean over seeds; each of them)")
            lines += [f"  {_words(one.case):<28} {one}" for one in self.largest(property)]
            for case, ratios in self.ratios(property):
                spread = f", factor {np.exp(np.log(ratios).std(ddof=1)):.2g} either way" if len(ratios) > 1 else ""
                lines.append(f"  {_words(case):<28} with BatchNorm × {np.exp(np.log(ratios).mean()):.3g}{spread}")
        lines.append("test accuracy by learning rate (mean ± standard error over the seeds that did not diverge)")
        for case in self.cases():
            lines += [f"  {_words(case):<28} {line}" for line in self._accuracies(case)]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return study, machine, runs and what they say as plain data; what is infinite as None."""
        runs = [{k: None if v == math.inf else v for k, v in run.items()} for run in self.runs]
        largest, ratios = {}, {}
        for title, property in PROPERTIES.items():
            largest[title] = [
                {**one.case, "rates": list(one.rates), "beyond": one.beyond} for one in self.largest(property)
            ]
            ratios[title] = [{**case, "ratios": values.tolist()} for case, values in self.ratios(property)]
        study = {"study": self.results.study.to_dict(), "environment": self.results.environment}
        return {**study, "runs": runs, "largest": largest, "ratios": ratios}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw test accuracy against learning rate: mean over seeds, all of them as dots, runs that diverged at 0."""
        from matplotlib import pyplot

        ax = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        styles = {"none": "--", "all": "-", "last": ":"}
        rest = [{k: v for k, v in case.items() if k != "norm"} for case in self.cases()]
        for case in self.cases():
            plain = {k: v for k, v in case.items() if k != "norm"}
            colour = f"C{[one for place, one in enumerate(rest) if one not in rest[:place]].index(plain)}"
            runs = self.of(case)
            rates = sorted({run["learning_rate"] for run in runs})
            seen = [[_accuracy(run) for run in runs if run["learning_rate"] == rate] for rate in rates]
            style = styles[case.get("norm", "none")]
            ax.plot(rates, [np.mean(values) for values in seen], style, color=colour, label=_words(case) or "runs")
            for rate, values in zip(rates, seen, strict=True):
                ax.plot([rate] * len(values), values, ".", ms=4, color=colour, alpha=0.6)
        ax.set(xscale="log", xlabel="learning rate α", ylabel="test accuracy (0: diverged)", ylim=(-0.02, 1.02))
        ax.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
        return ax

    def _complete(self, case: Mapping[str, Any]) -> bool:
        grid = self.results.study.grid
        return len(self.of(case)) == len(grid["learning_rate"]) * len(grid.get("seed", (0,)))

    def _accuracies(self, case: Mapping[str, Any]) -> Iterator[str]:
        for rate in self.results.study.grid["learning_rate"]:
            runs = self.of({**case, "learning_rate": rate})
            good = np.array([run["test_accuracy"] for run in runs if math.isfinite(run["test_accuracy"])])
            counts = f"stable {sum(map(is_stable, runs))}, learned {sum(map(has_learned, runs))} of {len(runs)}"
            error = f" ± {good.std(ddof=1) / math.sqrt(len(good)):.4f}" if len(good) > 1 else ""
            if runs:
                mean = f"{good.mean():.4f}{error}" if len(good) else "diverged"
                yield f"{rate:<8.3g} {mean:<17} {counts}"


def _accuracy(run: Mapping[str, Any]) -> float:
    return run["test_accuracy"] if math.isfinite(run["test_accuracy"]) else 0.0


def _words(case: Mapping[str, Any]) -> str:
    return ", ".join(f"BN {v}" if k == "norm" else f"{k} {v}" for k, v in case.items())
