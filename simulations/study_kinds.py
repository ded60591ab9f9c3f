"""What a study draws at one point of its grid: sizes of networks, spectra, or what a function returns."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

import bntheory
from bntheory import arguments
from bntheory.networks import Sequential
from simulations import streams
from simulations.growth import plan_growth
from simulations.products import plan_spectrum
from simulations.samples import COLUMNS, QUANTITIES

ARCHITECTURES = ("mlp", "cnn", "vgg", "resnet")
SETTINGS = {"growth": {"batch": None, "method": None, "gradients": True, "dtype": "float64"}, "spectrum": {}}
RESERVED = ("trial", "row", "row_name")  # of the results, whose other dimensions are the axes
UNSTORABLE = ("file", "allow_pickle")  # arguments of np.savez
Arrays = dict[str, np.ndarray]


class Sampler(NamedTuple):
    """What draws at one point: from a range of trials to arrays (trials, rows) by name."""

    draw: Callable[[range], Arrays]
    row_names: tuple[str, ...] = ()
    memory: int = 0  # bytes that one thread needs, about; 0 where it is not known
    never_nan: tuple[str, ...] | None = None  # quantities in which a NaN is a fault; None: all


def name_of(kind: object) -> str:
    """Return the word for a kind: its own, or "module:name" of a function; ValueError if it has none.

    Examples
    --------
    >>> name_of("growth"), name_of(np.linalg.norm)
    ('growth', 'numpy.linalg:norm')
    """
    if isinstance(kind, str) and (kind in SETTINGS or ":" in kind):
        return kind
    if not callable(kind):
        arguments.choice("kind", kind, (*SETTINGS, "a function", "package.module:function"))
    name = f"{getattr(kind, '__module__', None)}:{getattr(kind, '__qualname__', None)}"
    try:
        found = _function(name)
    except ValueError:
        found = None
    if found is not kind:
        raise ValueError(f"kind must be a function that its module has by its name, got {kind!r:.80}")
    return name


def check_variable(what: str, name: str, others: Iterable[str] = ()) -> None:
    """Refuse a name that a dataset of results cannot have, as it has it already or by the rules of NetCDF."""
    if name in RESERVED or name in others:
        raise ValueError(f"{what} cannot be called {name!r}: the results have that dimension already")
    if not name or "/" in name:
        raise ValueError(f"{what} cannot be called {name!r}: NetCDF has no such names")


def check_names(kind: str, grid: Iterable[str], description: Mapping[str, Any]) -> None:
    """Refuse, with the nearest name, a parameter that no network of the study takes."""
    grid = list(grid)
    if kind not in SETTINGS:
        return
    architectures = ARCHITECTURES if "architecture" in grid else (description.get("architecture", "mlp"),)
    known = ["architecture", *SETTINGS[kind]]
    for name in architectures:
        known += _of_network(arguments.choice("architecture", name, ARCHITECTURES))
    for name in grid:
        arguments.choice("an axis", name, dict.fromkeys(known))
    for name in description:
        arguments.choice("a name in the description", name, dict.fromkeys(known))


def sampler(kind: str, parameters: Mapping[str, Any], seed: int) -> Sampler:
    """Return what draws at a point of the grid; ValueError for parameters that do not make a network."""
    if kind == "growth":
        return _growth(parameters, seed)
    if kind == "spectrum":
        return _spectrum(parameters, seed)
    return _of_function(_function(kind), parameters, seed)


def faults(drawn: Arrays, never_nan: tuple[str, ...] | None) -> list[str]:
    """Return the names of the quantities that have a NaN where none may be."""
    checked = drawn if never_nan is None else never_nan
    return [name for name in checked if np.isnan(drawn[name]).any()]


def _growth(parameters: Mapping[str, Any], seed: int) -> Sampler:
    net, settings = _network(parameters, "growth")
    plan = plan_growth(net, inputs=None, root=seed, **settings)
    kept = [place for place, name in enumerate(COLUMNS) if plan.gradients or not name.endswith("gradient")]
    engine = functools.cache(plan.engine)  # whose buffers are for those who draw, not for those who only check

    def draw(trials: range) -> Arrays:
        drawn = np.stack([engine()(streams.stream(seed, trial)) for trial in trials])
        return {COLUMNS[place]: np.ascontiguousarray(drawn[..., place]) for place in kept}

    needed = 0 if plan.is_radial() else plan.memory()
    never_nan = (*QUANTITIES, "log_gradient") if plan.gradients else QUANTITIES  # the others are at many rows
    return Sampler(draw, tuple(row.name for row in plan.rows), needed, never_nan)


def _spectrum(parameters: Mapping[str, Any], seed: int) -> Sampler:
    net, _ = _network(parameters, "spectrum")
    plan = plan_spectrum(net, inputs=None)
    return Sampler(lambda trials: {"log_singular_value": plan.logs(seed, trials)}, memory=plan.memory())


def _network(parameters: Mapping[str, Any], kind: str) -> tuple[Sequential, dict[str, Any]]:
    """The network of the parameters, and the settings of the simulation among them."""
    given = dict(parameters)
    settings = {name: given.pop(name, default) for name, default in SETTINGS[kind].items()}
    architecture = arguments.choice("architecture", given.pop("architecture", "mlp"), ARCHITECTURES)
    build = getattr(bntheory, architecture)
    known = inspect.signature(build).parameters
    for name in given:
        arguments.choice(f"an argument of {architecture}", name, _of_network(architecture))
    init, gain = given.pop("init", known["init"].default), given.pop("gain", None)
    missing = [name for name, entry in known.items() if entry.default is entry.empty and name not in given]
    if missing:
        raise ValueError(f"{architecture} needs {' and '.join(missing)}: put it into the description or the grid")
    return build(**given, init=bntheory.initialization(init, gain=gain)), settings


def _of_network(architecture: str) -> list[str]:
    return [*inspect.signature(getattr(bntheory, architecture)).parameters, "gain"]


def _of_function(function: Callable[..., Any], parameters: Mapping[str, Any], seed: int) -> Sampler:
    def draw(trials: range) -> Arrays:
        drawn = [_arrays(function(dict(parameters), streams.own_seed(seed, trial)), parameters) for trial in trials]
        for other in drawn:
            if {name: len(row) for name, row in other.items()} != {name: len(row) for name, row in drawn[0].items()}:
                raise ValueError("the function must return the same names and lengths in every trial of a point")
        return {name: np.stack([row[name] for row in drawn]) for name in drawn[0]}

    return Sampler(draw)


def _arrays(result: Any, parameters: Iterable[str]) -> Arrays:
    """One trial's result as rows by name, another than those of the parameters."""
    named = result if isinstance(result, Mapping) else {"value": result}
    rows = {}
    for name, value in named.items():
        row = np.atleast_1d(np.asarray(value))
        if not isinstance(name, str) or row.ndim != 1 or not row.size or row.dtype.kind not in "fiub":
            what = f"{row.dtype} of shape {row.shape}"
            raise ValueError(f"the function must return real numbers or 1-D arrays by name, got {name!r}: {what}")
        check_variable("a result of the function", name, (*parameters, *UNSTORABLE))
        rows[name] = row.astype(np.float64)
    if not rows:
        raise ValueError("the function must return at least one number, got an empty dict")
    return rows


def _function(place: str) -> Callable[..., Any]:
    """The function that is named "package.module:name", found from the current folder as `python -m` would."""
    path, _, name = place.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(path)
    except Exception as error:  # whatever that file does
        raise ValueError(f"cannot import {path!r} from {os.getcwd()}: {type(error).__name__}: {error}") from error
    for word in name.split("."):
        found = getattr(found, word, None)
    if not callable(found):
        raise ValueError(f"{path!r} has no function {name!r}")
    return found
