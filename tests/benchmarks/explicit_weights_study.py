"""Draw every weight of 20,000 ReLU networks of width 128 and depth 100, and write what came out beside this file.

Too slow for the test suite (3.3e10 weights); `tests/agreement/test_growth.py` reads the JSON file and judges it.

    python tests/benchmarks/explicit_weights_study.py [--trials 20000] [--seed 0] [--workers 2]
"""

import argparse
import datetime
import json
import math
import pathlib
import time

import numpy as np

from bntheory import mlp, predict_growth
from simulations import simulate_growth

RESULT = pathlib.Path(__file__).with_suffix(".json")
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


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    start = time.perf_counter()
    samples = simulate_growth(mlp(DEPTH, WIDTH), method="weights", **vars(arguments))
    result = {
        "what": f"ln(mean of h²) of He ReLU MLPs with explicit weights: depth {DEPTH}, width {WIDTH}, input of size 1",
        **summary(samples.log_second_moment[:, -1]),
        "depth": DEPTH,
        "width": WIDTH,
        **vars(arguments),
        "seconds": round(time.perf_counter() - start),
        "command": f"python tests/benchmarks/{pathlib.Path(__file__).name} --trials {arguments.trials} "
        f"--seed {arguments.seed} --workers {arguments.workers}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "numpy": np.__version__,
    }
    RESULT.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
