"""Count how often `randomness_test` rejects products of dense iid matrices, and matrices with something planted.

Dense matrices, NumPy's QR and SVD: nothing of the package but the test. Too slow for the test suite;
`tests/simulations/test_randomness.py` reads the JSON file and judges it. Cells that are in that file stay as they are:
without it, all are drawn anew. Spectra and nulls that are in the folder are not drawn again, so that a run that was
killed goes on; they do not depend on the number of workers.

    python tests/benchmarks/randomness_study.py [--workers 1] [--folder spectra]
"""

import argparse
import concurrent.futures
import datetime
import json
import math
import multiprocessing
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from simulations import iid_null

RESULT = pathlib.Path(__file__).with_suffix(".json")
LEVEL, TRIALS = 0.05, 1000
ENTRIES = {
    "gaussian": lambda rng, shape: rng.standard_normal(shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
    "rademacher": lambda rng, shape: rng.choice([-1.0, 1.0], shape),
    "laplace": lambda rng, shape: rng.laplace(size=shape),
}
SPIKES = (0.75, 1.0, 1.1, 1.25, 1.5, 2.0)  # largest singular value without noise to it, over the edge 2 σ √n
RANKS = ((2, 0.6), (5, 0.6), (10, 0.6), (10, 0.4), (50, 0.4))


class Cell(NamedTuple):
    """Products of that many square matrices with these entries, judged by nulls of several seeds."""

    entries: str
    width: int
    factors: int
    repetitions: int
    nulls: int  # one alone has a level of 5% ± 0.7%

    def chunks(self) -> list[tuple[int, int]]:
        """Index and size of what is drawn and kept together."""
        size = max(1, min(250, 2**22 // self.width**2))
        return [
            (index, min(size, self.repetitions - start)) for index, start in enumerate(range(0, self.repetitions, size))
        ]


SIZES = [
    *((width, factors, 10_000, 40) for width in (10, 30) for factors in (1, 5, 50)),
    *((100, factors, 5000, 20) for factors in (1, 5)),
    (100, 50, 5000, 10),
    *((300, factors, 5000, 8) for factors in (1, 5, 50)),
    (1000, 1, 1000, 1),
]
CELLS = [Cell(name, *sizes) for sizes in SIZES for name in ("gaussian", "uniform")] + [
    Cell(name, width, factors, 2000, 10)
    for width in (30, 100)
    for factors in (1, 5)
    for name in ("rademacher", "laplace")
]
PLANTED = Cell("gaussian", 100, 1, 500, 5)


def draw(entries: str, width: int, factors: int, index: int, count: int) -> dict[str, np.ndarray]:
    """Log singular values (up to a constant) and summed kurtosis, by QR steps X_k Q_{k−1} = Q_k R_k."""
    rng = np.random.default_rng([1, width, factors, list(ENTRIES).index(entries), index])
    shape = (count, width, width)
    matrix = ENTRIES[entries](rng, shape)
    kurtosis = excess(matrix)
    basis, product = np.linalg.qr(matrix) if factors > 1 else (matrix, matrix)
    for _ in range(factors - 1):
        matrix = ENTRIES[entries](rng, shape)
        kurtosis = kurtosis + excess(matrix)
        basis, triangle = np.linalg.qr(matrix @ basis)
        product = triangle @ product / math.sqrt(width)
    return {"logs": np.log(np.linalg.svd(product, compute_uv=False)), "kurtoses": kurtosis}


def draw_null(width: int, factors: int, seed: int) -> dict[str, np.ndarray]:
    """What the package's test compares with."""
    return iid_null.null_of.__wrapped__((width,) * (factors + 1), TRIALS, seed, workers=1)._asdict()


def spectra_of(cell: Cell) -> dict[str, tuple]:
    """Names of the files with the cell's spectra, and what draws each."""
    name = f"{cell.entries}-{cell.width}-{cell.factors}"
    return {f"{name}-{index}-{count}.npz": (draw, *cell[:3], index, count) for index, count in cell.chunks()}


def nulls_of(cell: Cell) -> dict[str, tuple]:
    """The same for its nulls."""
    sizes = cell.width, cell.factors
    return {f"null-{sizes[0]}-{sizes[1]}-{seed}.npz": (draw_null, *sizes, seed) for seed in range(cell.nulls)}


def keep(path: pathlib.Path, function: Callable[..., dict[str, np.ndarray]], *arguments: object) -> pathlib.Path:
    """Write the file in one step: a run that is killed leaves no half of it."""
    unfinished = path.with_suffix(".part")
    with open(unfinished, "wb") as file:
        np.savez(file, **function(*arguments))
    os.replace(unfinished, path)
    return path


def fill(folder: pathlib.Path, files: dict[str, tuple], workers: int) -> None:
    """Draw whatever of these files is not in the folder."""
    missing = [(folder / name, *task) for name, task in files.items() if not (folder / name).exists()]
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, spawn, threadpool_limits, (1,)) as pool:
        tasks = [pool.submit(keep, *task) for task in missing]
        for done, task in enumerate(concurrent.futures.as_completed(tasks), 1):
            print(f"{done}/{len(tasks)} {task.result().name}", flush=True)


def load(folder: pathlib.Path, names: dict[str, tuple]) -> Iterator[dict[str, np.ndarray]]:
    """What the files hold."""
    for name in names:
        with np.load(folder / name) as file:
            yield dict(file)


def excess(matrices: np.ndarray) -> np.ndarray:
    """Excess kurtosis of the entries of every matrix."""
    squares = matrices**2
    kurtosis = (squares**2).mean(axis=(1, 2)) / squares.mean(axis=(1, 2)) ** 2 - 3
    return np.minimum(kurtosis, iid_null.LARGEST_KURTOSIS)


def rejections(logs: np.ndarray, kurtoses: np.ndarray, cell: Cell, folder: pathlib.Path) -> dict:
    """Shares of p-values at most LEVEL, of every statistic and of all together, and of spectra with outliers."""
    counts = np.zeros(5)
    for seed, arrays in enumerate(load(folder, nulls_of(cell))):
        null, some = iid_null.Null(**arrays), slice(seed, None, cell.nulls)
        values = iid_null.centred(logs[some] - np.outer(kurtoses[some] / cell.width**2, null.bend))
        statistics = iid_null.statistics(iid_null.deviations(values, null.median, null.below, null.above))
        counts[4] += np.count_nonzero(statistics[:, 1] > null.edge(LEVEL))
        for found in statistics:
            counts[:4] += np.array(iid_null.p_values(found, null)) <= LEVEL
    names = (*iid_null.STATISTICS, "together", "outliers")
    return dict(zip(names, (counts / len(logs)).round(4).tolist(), strict=True))


def calibration(cell: Cell, folder: pathlib.Path) -> dict:
    """Rejections of one cell, whose files are in the folder."""
    parts = list(load(folder, spectra_of(cell)))
    logs, kurtoses = (np.concatenate([part[name] for part in parts]) for name in ("logs", "kurtoses"))
    error = math.sqrt(LEVEL * (1 - LEVEL) * (1 / cell.repetitions + 1 / TRIALS / cell.nulls))
    found = {**cell._asdict(), **rejections(logs, kurtoses, cell, folder), "standard_error": round(error, 5)}
    return found | provenance()


def power(rank: int, size: float, folder: pathlib.Path) -> dict:
    """Gaussian matrices plus a fixed one of that rank, whose singular values are all size times the edge 2 √width."""
    width, repetitions = PLANTED.width, PLANTED.repetitions
    rng = np.random.default_rng([2, rank, round(100 * size)])
    left, right = (np.linalg.qr(rng.standard_normal((width, rank)))[0] for _ in range(2))
    matrices = rng.standard_normal((repetitions, width, width)) + 2 * math.sqrt(width) * size * left @ right.T
    logs = np.log(np.linalg.svd(matrices, compute_uv=False))
    found = {"rank": rank, "size": size, "width": width, "repetitions": repetitions}
    return found | rejections(logs, excess(matrices), PLANTED, folder) | provenance()


def provenance() -> dict[str, str]:
    """When and with what."""
    return {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "numpy": np.__version__}


def study(folder: pathlib.Path, workers: int) -> None:
    """Add to the JSON file what it lacks."""
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {"calibration": [], "power": []}
    cells = {Cell(*(found[name] for name in Cell._fields)): found for found in known["calibration"]}
    missing = [cell for cell in CELLS if cell not in cells]
    plants = [] if known["power"] else [(1, size) for size in SPIKES] + list(RANKS)
    files = nulls_of(PLANTED) if plants else {}
    for cell in missing:
        files |= nulls_of(cell) | spectra_of(cell)
    fill(folder, files, workers)
    for cell in missing:
        cells[cell] = calibration(cell, folder)
        print(cells[cell], flush=True)
    report = {
        "what": f"share of dense products rejected at level {LEVEL}, {TRIALS} draws of the null",
        "level": LEVEL,
        "trials": TRIALS,
        "calibration": [cells[cell] for cell in CELLS],
        "power": [power(*plant, folder) for plant in plants] or known["power"],
    }
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=pathlib.Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        study(folder, given.workers)


if __name__ == "__main__":
    main()
