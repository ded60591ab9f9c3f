"""Count how often `randomness_test` rejects products of dense iid matrices, and matrices with something planted.

Dense matrices, NumPy's QR and SVD: nothing of the package but the test. Too slow for the test suite;
`tests/simulations/test_randomness.py` reads the JSON file and judges it.

    OMP_NUM_THREADS=1 python tests/benchmarks/randomness_study.py [--folder spectra]
"""

import argparse
import datetime
import functools
import json
import math
import pathlib
import time

import numpy as np

from simulations import iid_null

null_of = functools.cache(iid_null.null_of.__wrapped__)  # the package keeps only a few
RESULT = pathlib.Path(__file__).with_suffix(".json")
LEVEL, TRIALS = 0.05, 1000
ENTRIES = {
    "gaussian": lambda rng, shape: rng.standard_normal(shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
    "rademacher": lambda rng, shape: rng.choice([-1.0, 1.0], shape),
    "laplace": lambda rng, shape: rng.laplace(size=shape),
}
# width, factors, repetitions, seeds of the null: one null alone has a level of 5% ± 0.7%
CELLS = [
    *((width, factors, 10_000, 40) for width in (10, 30) for factors in (1, 5, 50)),
    *((100, factors, 5000, 20) for factors in (1, 5)),
    (100, 50, 5000, 10),
    *((300, factors, 5000, 8) for factors in (1, 5)),
    (1000, 1, 1000, 1),
]
OTHERS = [(width, factors, 2000, 10) for width in (30, 100) for factors in (1, 5)]
SPIKES = (0.75, 1.0, 1.1, 1.25, 1.5, 2.0)  # largest singular value without noise to it, over the edge 2 σ √n
RANKS = ((2, 0.6), (5, 0.6), (10, 0.6), (10, 0.4), (50, 0.4))


def draw(entries: str, width: int, factors: int, repetitions: int) -> tuple[np.ndarray, np.ndarray]:
    """Log singular values (up to a constant) and summed kurtosis, by QR steps X_k Q_{k−1} = Q_k R_k."""
    chunk, found = max(1, min(250, 2**22 // width**2)), []
    for index, start in enumerate(range(0, repetitions, chunk)):
        rng = np.random.default_rng([1, width, factors, list(ENTRIES).index(entries), index])
        shape = (min(chunk, repetitions - start), width, width)
        matrix = ENTRIES[entries](rng, shape)
        kurtosis = excess(matrix)
        basis, product = np.linalg.qr(matrix) if factors > 1 else (matrix, matrix)
        for _ in range(factors - 1):
            matrix = ENTRIES[entries](rng, shape)
            kurtosis = kurtosis + excess(matrix)
            basis, triangle = np.linalg.qr(matrix @ basis)
            product = triangle @ product / math.sqrt(width)
        found.append((np.log(np.linalg.svd(product, compute_uv=False)), kurtosis))
    logs, kurtoses = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return logs, kurtoses


def excess(matrices: np.ndarray) -> np.ndarray:
    """Excess kurtosis of the entries of every matrix."""
    squares = matrices**2
    kurtosis = (squares**2).mean(axis=(1, 2)) / squares.mean(axis=(1, 2)) ** 2 - 3
    return np.minimum(kurtosis, iid_null.LARGEST_KURTOSIS)


def rejections(logs: np.ndarray, kurtoses: np.ndarray, width: int, factors: int, nulls: int) -> dict:
    """Shares of p-values at most LEVEL, of every statistic and of all together, and of spectra with outliers."""
    counts = np.zeros(5)
    for seed in range(nulls):
        null = null_of((width,) * (factors + 1), TRIALS, seed)
        values = iid_null.centred(logs[seed::nulls] - np.outer(kurtoses[seed::nulls] / width**2, null.bend))
        statistics = iid_null.statistics(iid_null.deviations(values, null.median, null.below, null.above))
        counts[4] += np.count_nonzero(statistics[:, 1] > null.edge(LEVEL))
        for found in statistics:
            counts[:4] += np.array(iid_null.p_values(found, null)) <= LEVEL
    names = (*iid_null.STATISTICS, "together", "outliers")
    return dict(zip(names, (counts / len(logs)).round(4).tolist(), strict=True))


def calibration(entries: str, cell: tuple[int, int, int, int], folder: pathlib.Path | None) -> dict:
    """One cell; its spectra are read from the folder, or kept there."""
    start, (width, factors, repetitions, nulls) = time.perf_counter(), cell
    kept = folder / f"{entries}-{width}-{factors}-{repetitions}.npz" if folder else None
    if kept and kept.exists():
        with np.load(kept) as file:
            logs, kurtoses = file["logs"], file["kurtoses"]
    else:
        logs, kurtoses = draw(entries, width, factors, repetitions)
        if kept:
            np.savez(kept, logs=logs, kurtoses=kurtoses)
    error = math.sqrt(LEVEL * (1 - LEVEL) * (1 / repetitions + 1 / TRIALS / nulls))
    sizes = {"entries": entries, "width": width, "factors": factors, "repetitions": repetitions, "nulls": nulls}
    found = {**sizes, **rejections(logs, kurtoses, width, factors, nulls), "standard_error": round(error, 5)}
    print(found, f"{time.perf_counter() - start:.0f} s", flush=True)
    return found


def power(rank: int, size: float, width: int = 100, repetitions: int = 500, nulls: int = 5) -> dict:
    """Gaussian matrices plus a fixed one of that rank, whose singular values are all size times the edge 2 √width."""
    rng = np.random.default_rng([2, rank, round(100 * size)])
    left, right = (np.linalg.qr(rng.standard_normal((width, rank)))[0] for _ in range(2))
    matrices = rng.standard_normal((repetitions, width, width)) + 2 * math.sqrt(width) * size * left @ right.T
    logs = np.log(np.linalg.svd(matrices, compute_uv=False))
    found = {"rank": rank, "size": size, "width": width, "repetitions": repetitions}
    found |= rejections(logs, excess(matrices), width, 1, nulls)
    print(found, flush=True)
    return found


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    planted = [power(rank, size) for rank, size in (*((1, size) for size in SPIKES), *RANKS)]
    cells = [calibration(name, cell, folder) for cell in CELLS for name in ("gaussian", "uniform")]
    cells += [calibration(name, cell, folder) for cell in OTHERS for name in ("rademacher", "laplace")]
    report = {
        "what": f"share of dense products rejected at level {LEVEL}, {TRIALS} draws of the null",
        "level": LEVEL,
        "trials": TRIALS,
        "calibration": cells,
        "power": planted,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "numpy": np.__version__,
    }
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
