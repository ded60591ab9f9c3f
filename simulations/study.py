"""A study as plain data: what is drawn × a grid of parameters × trials, and how that is cut into chunks."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from bntheory import arguments
from simulations import streams, study_kinds

MOST_TRIALS = 10**9


class Chunk(NamedTuple):
    """Some trials at one point of the grid: what is computed, stored, lost or repeated as a whole."""

    point: int
    first: int
    trials: int

    def __str__(self) -> str:
        return f"point {self.point}, trials {self.first} to {self.first + self.trials - 1}"


@dataclass(frozen=True)
class Study:
    """A description × a grid × trials, drawn by `run_study`.

    Trial t at point g depends on (seed, g, t) alone: not on workers, chunks, interruptions, or how many trials follow.
    Points are counted through the grid with the last axis fastest.

    Parameters
    ----------
    kind : str or callable
        "growth": what `simulate_growth` records; "spectrum": `log_singular_values`; or a function f(parameters, seed)
        of a module, or its name "package.module:function". It gets the parameters of the point as a dict and a 128-bit
        seed of the trial's own, and returns a number, a 1-D array, or a dict of those by name. The name is all that is
        known of it: when its code changes, start in another folder.
    grid : mapping of str to sequence
        Axes by name, with their values: distinct numbers, words, flags or (for shapes) sequences of integers.
    trials : int
        At every point, at least 1.
    description : mapping, optional
        Parameters that are the same at every point. With the axes they are the arguments of ``architecture`` ("mlp",
        the default, "cnn", "vgg" or "resnet") and ``gain``; for growth ``batch``, ``method``, ``gradients`` and
        ``dtype`` too. A function takes any names.
    chunk : int
        Trials of a chunk, at most: work of a second or so, which is what an interruption may lose.
    seed : int or numpy.random.Generator

    Raises
    ------
    ValueError
        For a value that is out of range, not plain or given twice, and for an axis that the kind does not have.

    Examples
    --------
    >>> study = Study("growth", {"width": [8, 16], "depth": [2, 4, 6]}, trials=100, chunk=60)
    >>> study.shape, study.parameters(5), len(list(study.chunks()))
    ((2, 3), {'width': 16, 'depth': 6}, 12)
    """

    kind: str | Callable[..., Any]
    grid: Mapping[str, Sequence[Any]]
    trials: int
    description: Mapping[str, Any] = field(default_factory=dict)
    chunk: int = 100
    seed: int | np.random.Generator = 0

    def __post_init__(self) -> None:
        kind = study_kinds.name_of(self.kind)
        grid = {name: _axis(name, values) for name, values in _mapping("grid", self.grid).items()}
        if not grid:
            raise ValueError('grid must have at least one axis, got none: for example {"width": [64, 256]}')
        described = _mapping("description", self.description)
        description = {name: _plain(f"description {name}", value) for name, value in described.items()}
        for name in grid:
            study_kinds.check_variable("an axis", name)
            if name in description:
                raise ValueError(f"{name} is an axis of the grid and in the description: leave out one of them")
        study_kinds.check_names(kind, grid, description)
        checked = {
            "kind": kind,
            "grid": grid,
            "trials": arguments.integer("trials", self.trials, at_most=MOST_TRIALS),
            "description": description,
            "chunk": arguments.integer("chunk", self.chunk),
            "seed": streams.root(self.seed),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(len(values) for values in self.grid.values())

    @property
    def points(self) -> int:
        """How many points the grid has."""
        return math.prod(self.shape)

    def point(self, index: int) -> dict[str, Any]:
        """Return the point's place in the grid: a value of every axis."""
        places = np.unravel_index(index, self.shape)
        return {name: values[int(place)] for (name, values), place in zip(self.grid.items(), places, strict=True)}

    def parameters(self, index: int) -> dict[str, Any]:
        """Return everything that is given at a point: the description, then its place in the grid."""
        return {**self.description, **self.point(index)}

    def seed_of(self, index: int) -> int:
        """Return the seed that repeats the point by itself, with `simulate_growth` or `log_singular_values`."""
        return streams.own_seed(streams.root(self.seed), index)

    def chunks(self) -> Iterator[Chunk]:
        """Go through the chunks of every point."""
        for point in range(self.points):
            for first in range(0, self.trials, self.chunk):
                yield Chunk(point, first, min(self.chunk, self.trials - first))

    def __len__(self) -> int:
        return self.points * -(-self.trials // self.chunk)

    def sampler(self, index: int) -> study_kinds.Sampler:
        """Return what draws at a point; ValueError names the point."""
        try:
            return study_kinds.sampler(study_kinds.name_of(self.kind), self.parameters(index), self.seed_of(index))
        except ValueError as error:
            where = ", ".join(f"{name}={value!r}" for name, value in self.point(index).items())
            raise ValueError(f"at {where}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the study as dicts, lists, numbers and words, for JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, data: object) -> Study:
        """Rebuild a study from `to_dict` or from what a study file says; an unknown key is named, with the nearest one.

        Examples
        --------
        >>> Study.from_dict({"kind": "growth", "grid": {}, "trails": 10})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: a key must be one of kind, grid, trials, ...; got 'trails' (did you mean trials?)
        """
        fields = {entry.name: entry for entry in dataclasses.fields(cls)}
        given = _mapping("a study", data)
        for name in given:
            arguments.choice("a key", name, fields)
        for name in ("kind", "grid", "trials"):
            if name not in given:
                raise ValueError(f"a study needs {name}, got {', '.join(given) or 'nothing'}")
        return cls(**given)


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Say field by field how two nested dicts differ.

    Examples
    --------
    >>> differences({"seed": 1, "grid": {"width": [4]}}, {"seed": 2, "grid": {}})
    ['seed 1 became 2', 'grid.width [4] is gone']
    >>> differences({"layers": [{"type": "Dense"}, {"size": 3}]}, {"layers": [{"type": "Dense"}, {"size": 4}]})
    ['layers.1.size 3 became 4']
    """
    found = []
    for name in dict.fromkeys([*one, *other]):
        place = f"{prefix}{name}"
        if name not in other:
            found.append(f"{place} {one[name]!r:.60} is gone")
        elif name not in one:
            found.append(f"{place} {other[name]!r:.60} is new")
        elif isinstance(one[name], Mapping) and isinstance(other[name], Mapping):
            found += differences(one[name], other[name], f"{place}.")
        elif _are_tables(one[name]) and _are_tables(other[name]):
            numbers = len(one[name]), len(other[name])
            if numbers[0] == numbers[1]:
                found += differences(*(dict(enumerate(tables)) for tables in (one[name], other[name])), f"{place}.")
            else:
                found.append(f"{place} with {numbers[0]} entries became one with {numbers[1]}")
        elif json.dumps(one[name]) != json.dumps(other[name]):  # which tells 1 from True
            found.append(f"{place} {one[name]!r:.60} became {other[name]!r:.60}")
    if not prefix and not found and list(one.get("grid", ())) != list(other.get("grid", ())):
        found.append(f"the order of the axes {', '.join(one['grid'])} became {', '.join(other['grid'])}")
    return found


def _are_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value)


def _mapping(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{name} must be a table of names and values, got {value!r:.60}")
    return dict(value)


def _axis(name: str, values: object) -> tuple[Any, ...]:
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Sequence):
        raise ValueError(f"axis {name} must be a list of values, got {values!r:.60}")
    if not len(values):
        raise ValueError(f"axis {name} must have at least one value, got none")
    plain = tuple(_plain(f"axis {name}", value) for value in values)
    for place, value in enumerate(plain):
        if value in plain[:place]:
            raise ValueError(f"axis {name} must have distinct values, got {value!r} twice")
    return plain


def _plain(name: str, value: Any) -> Any:
    """Numbers, words, flags, None, and tuples of them: what JSON keeps as it is."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (list, tuple)):
        return tuple(_plain(name, entry) for entry in value)
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError(f"{name} must be numbers, words or flags, got {value!r:.60}; laws go by their names")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return value
