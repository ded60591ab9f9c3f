"""What a study has found so far: arrays by point, estimates with standard errors, an xarray.Dataset."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from simulations.statistics import mean_with_error
from simulations.store import Arrays, Store
from simulations.study import Chunk

if TYPE_CHECKING:
    import pandas
    import xarray


class Estimate(NamedTuple):
    """Mean over the trials that have a finite value, and its standard error (NaN for fewer than two)."""

    quantity: str
    mean: float
    standard_error: float
    trials: int


class StudyResults:
    """Read the folder of a study, complete or not, also while it runs.

    Parameters
    ----------
    folder : str or Path

    Attributes
    ----------
    study : Study
        What is drawn.
    finished : set of Chunk
        What was found, whole and unaltered, when the folder was opened.
    strange : list of str
        Names of files that are torn, altered or of another study; they are not read.
    failures : list of dict
        Chunks that could not be computed: point, first, trials, parameters, seed (of the point), error.

    Raises
    ------
    ValueError
        If it is not the folder of a study, or its manifest is damaged.

    Examples
    --------
    >>> import tempfile
    >>> from simulations.study import Study
    >>> from simulations.study_run import run_study
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = run_study(Study("spectrum", {"width": [4, 8]}, trials=50, description={"depth": 2}), folder)
    ...     print(StudyResults(folder).status())
    2 of 2 chunks are finished.
    """

    def __init__(self, folder: str | Path) -> None:
        self._store = Store(folder)
        self.folder = self._store.folder
        self.study = self._store.study
        self.environment = self._store.environment
        self.finished, self.strange = self._store.scan()
        self.failures = [entry for entry in self._store.failures() if _place(entry) not in self.finished]

    @property
    def complete(self) -> bool:
        """Whether every trial is there."""
        return len(self.finished) == len(self.study)

    def status(self) -> str:
        """Say how far the study is, and what failed; a line for each."""
        lines = [f"{len(self.finished)} of {len(self.study)} chunks are finished."]
        if self.strange:
            names = ", ".join(self.strange[:3])
            lines.append(f"{len(self.strange)} files are torn, altered or of another study, and not read: {names}")
        for entry in self.failures:
            given = ", ".join(f"{name}={value!r}" for name, value in entry["parameters"].items())
            lines.append(f"FAILED: {_place(entry)} ({given}; seed {entry['seed']}): {entry['error']}")
        return "\n".join(lines)

    def points(self) -> Iterator[Arrays]:
        """Go through the points of the grid, each with its arrays (trials so far, rows), empty if nothing is done."""
        found = itertools.groupby(self._read(), key=lambda item: item[0].point)
        ready = next(found, None)
        for point in range(self.study.points):
            if ready is None or ready[0] != point:
                yield {}
                continue
            parts = [arrays for _, arrays in ready[1]]
            yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            ready = next(found, None)

    def estimates(self) -> list[list[Estimate]]:
        """Return, for each point, estimates of what sums it up.

        growth: ln⟨h²⟩ of the last row, ln of the squared gradient at the input. spectrum: ln of the largest singular
        value and of the condition number, exact zeros left out. A function: the first row of every quantity.
        """
        return [[_estimate(name, values) for name, values in self._summary(arrays)] for arrays in self.points()]

    def table(self) -> str:
        """Return the estimates so far, a line a point."""
        points = [self.study.point(index) for index in range(self.study.points)]
        lines = []
        for point, found in zip(points, self.estimates(), strict=True):
            cells = [f"{name} {value}" for name, value in point.items()]
            words = [f"{one.quantity} {one.mean:.5g} ± {one.standard_error:.2g} ({one.trials})" for one in found]
            lines.append(f"{'  '.join(cells)}   {'   '.join(words) or 'nothing yet'}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return study, progress, failures and estimates as plain data; NaN as None."""
        points = []
        for index, found in enumerate(self.estimates()):
            estimates = {one.quantity: _plain(one) for one in found}
            points.append({**self.study.point(index), "seed": self.study.seed_of(index), "estimates": estimates})
        state = {"finished": len(self.finished), "chunks": len(self.study), "failures": self.failures}
        return {"study": self.study.to_dict(), "environment": self.environment, **state, "points": points}

    def dataset(self) -> xarray.Dataset:
        """Return all results as an xarray.Dataset over the axes of the grid, trial and row.

        NaN pads points of fewer rows than others, and trials that are not there. For growth ``row_name`` names the
        rows. The attributes hold the study, versions and processor as JSON:
        ``Study.from_dict(json.loads(ds.attrs["study"]))`` is the study that repeats it.
        """
        import xarray

        axes = (*self.study.grid, "trial", "row")
        values, names = self._padded(), self._row_names()
        variables: dict[str, Any] = {name: (axes, array) for name, array in values.items()}
        coordinates: dict[str, Any] = {name: _labels(tuple(axis)) for name, axis in self.study.grid.items()}
        coordinates["trial"] = np.arange(self.study.trials)
        if names is not None:
            coordinates["row_name"] = ((*self.study.grid, "row"), names)
        attributes = {
            "study": json.dumps(self.study.to_dict()),
            "environment": json.dumps(self.environment),
            "seed": str(self.study.seed),  # of up to 128 bits
            "chunks_finished": len(self.finished),
            "chunks": len(self.study),
            "failures": json.dumps(self.failures),
        }
        return xarray.Dataset(variables, coordinates, attributes)

    def to_dataframe(self) -> pandas.DataFrame:
        """Return a pandas.DataFrame with a line for each axis value, trial and row that is there."""
        dataset = self.dataset()
        return dataset.to_dataframe().dropna(how="all", subset=list(dataset.data_vars))

    def to_netcdf(self, path: str | Path) -> None:
        """Write the dataset as NetCDF 4, whole or not at all."""
        target = Path(path)
        unfinished = target.with_name(f".{target.name}.unfinished")
        try:
            self.dataset().to_netcdf(unfinished, engine="h5netcdf")
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)

    def _read(self) -> Iterator[tuple[Chunk, Arrays]]:
        """Finished chunks in order; those of one point must have the same quantities and rows."""
        before: tuple[Chunk, dict[str, int]] | None = None
        for chunk, arrays in self._store.read():
            rows = {name: array.shape[1] for name, array in arrays.items()}
            if before is not None and before[0].point == chunk.point and before[1] != rows:
                what = f"chunks of one point must have the same rows, got {before[1]} and {rows} at {chunk}"
                raise ValueError(f"{what}: correct the function and start in another folder")
            before = chunk, rows
            yield chunk, arrays

    def _padded(self) -> Arrays:
        """(axes, trials, rows) by name."""
        study = self.study
        rows: dict[str, int] = {}
        for _, arrays in self._read():
            rows |= {name: max(rows.get(name, 0), array.shape[1]) for name, array in arrays.items()}
        most = max(rows.values(), default=0)
        padded = {name: np.full((study.points, study.trials, most), np.nan) for name in rows}
        for chunk, arrays in self._read():  # again, so that not everything is in memory twice
            for name, array in arrays.items():
                padded[name][chunk.point, chunk.first : chunk.first + chunk.trials, : array.shape[1]] = array
        return {name: array.reshape(*study.shape, study.trials, most) for name, array in padded.items()}

    def _row_names(self) -> np.ndarray | None:
        """(axes, rows): names of rows of networks; empty where a network has fewer."""
        if self.study.kind != "growth":
            return None
        names = [self.study.sampler(point).row_names for point in range(self.study.points)]
        most = max(map(len, names))
        padded = np.array([[*here, *[""] * (most - len(here))] for here in names], dtype=object)
        return padded.reshape(*self.study.shape, most)

    def _summary(self, arrays: Arrays) -> Iterator[tuple[str, np.ndarray]]:
        if not arrays:
            return
        if self.study.kind == "growth":
            yield "ln⟨h²⟩ at the end", arrays["log_second_moment"][:, -1]
            if "log_gradient" in arrays:
                yield "ln gradient² at the input", arrays["log_gradient"][:, 0]
        elif self.study.kind == "spectrum":
            logs = arrays["log_singular_value"]
            least = np.where(np.isfinite(logs), logs, np.inf).min(axis=1)
            yield "ln of the largest singular value", logs[:, 0]
            yield "ln of the condition number", logs[:, 0] - least
        else:
            for name, values in arrays.items():
                yield name, values[:, 0]


def _estimate(name: str, values: np.ndarray) -> Estimate:
    finite = values[np.isfinite(values)]
    if len(finite) < 2:
        return Estimate(name, float(finite[0]) if len(finite) else math.nan, math.nan, len(finite))
    mean, error = mean_with_error(finite)
    return Estimate(name, float(mean), float(error), len(finite))


def _place(failure: dict[str, Any]) -> Chunk:
    return Chunk(failure["point"], failure["first"], failure["trials"])


def _plain(one: Estimate) -> dict[str, Any]:
    numbers = {"mean": one.mean, "standard_error": one.standard_error, "trials": one.trials}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _labels(axis: tuple[Any, ...]) -> list[Any]:
    """An axis as a coordinate: numbers that NetCDF has, or words (of shapes, flags and whatever is mixed with them)."""
    if all(type(value) in (int, float) and abs(value) < 2**63 for value in axis):
        return list(axis)
    return ["×".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in axis]
