"""Draw every weight of 20,000 ReLU networks of width 128 and depth 100, and write what came out beside this file.

Too slow for the test suite (3.3e10 weights); `tests/agreement/test_growth.py` reads the JSON file and judges it.

    python tests/benchmarks/explicit_weights_study.py [--trials 20000] [--seed 0] [--workers 2]
"""

import math

import numpy as np
import studies

from bntheory import mlp, predict_growth
from simulations import simulate_growth

DEPTH, WIDTH, LEVEL = 100, 128, 0.90


def summary(log_growth: np.ndarray) -> dict:
    """Mean and standard deviation with their standard errors, and the share of draws inside the predicted band."""
    lower, upper = (edge[-1] for edge in predict_growth(mlp(DEPTH, WIDTH)).band(LEVEL))
    alive = log_growth[np.isfinite(log_growth)]
    centred, count = alive - alive.mean(), len(alive)
    std = math.sqrt(float(np.mean(centred**2)) * count / (count - 1))
    kurtosis = float(np.mean(centred**4)) / std**4
    coverage = float(np.mean((lower <= alive) & (alive <= upper)))
    return {
        "dead": len(log_growth) - count,
        "mean": float(alive.mean()),
        "mean_standard_error": std / math.sqrt(count),
        "std": std,
        "std_standard_error": std * math.sqrt((kurtosis - 1) / (4 * count)),
        "band_level": LEVEL,
        "coverage": coverage,
        "coverage_standard_error": math.sqrt(LEVEL * (1 - LEVEL) / count),
    }


def results(trials: int = 20_000, seed: int = 0, workers: int = 2) -> dict:
    """Of the last row."""
    samples = simulate_growth(mlp(DEPTH, WIDTH), trials, method="weights", seed=seed, workers=workers)
    return {
        "what": f"ln(mean of h²) of He ReLU MLPs with explicit weights: depth {DEPTH}, width {WIDTH}, input of size 1",
        **summary(samples.log_second_moment[:, -1]),
        "depth": DEPTH,
        "width": WIDTH,
    }


if __name__ == "__main__":
    studies.run(results)
