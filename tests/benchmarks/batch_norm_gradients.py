"""Gradients of wide networks with BN, every row, beside the theory; writes what came out beside this file.

Too slow for the test suite; `tests/bntheory/growth/test_batch_norm.py` reads the JSON file and judges it.

    python tests/benchmarks/batch_norm_gradients.py [--depth 12] [--width 4096] [--seed 0] [--workers 1]
"""

import math
import time

import numpy as np
import studies

from bntheory import activation, mlp
from bntheory.growth.infinite_width.batch_norm import normalized_moments, pullback
from bntheory.layers import BatchNorm
from simulations import simulate_growth

ACTIVATIONS, TRIALS = ("relu", "linear", "tanh", "gelu"), {8: 400, 32: 60, 128: 12}
GAIN, EPSILON = 2.0, BatchNorm().epsilon  # of he_normal, and of `mlp`


def predicted(phi: str, batch: int, depth: int) -> list[float]:
    """ln of the squared gradient norm of every row, relative to the last, whose gradient is white."""
    function, log_distance, distances = activation(phi), math.log(2), []
    for _ in range(depth):
        distances.append(log_distance + math.log(GAIN))
        log_distance = normalized_moments(function, distances[-1], batch, EPSILON).log_distance
    state, log_norm, rows = np.array([1.0, 1 / batch]), 0.0, [0.0]
    for log_d in reversed(distances):
        back = pullback(function, log_d, batch, EPSILON)
        after_norm = log_norm + math.log((back.activation @ state)[0])
        log_norm += back.log_scale + math.log(back.on_total * state[0] + back.on_mean * state[1])
        rows += [after_norm, log_norm, log_norm + math.log(GAIN)]  # after BN, before it, before the Dense layer
        state, log_norm = np.array([1.0, 0.0]), rows[-1]
    return rows[::-1]


def study(phi: str, batch: int, trials: int, depth: int, width: int, seed: int, workers: int) -> dict:
    """Mean over networks of the squared gradient norms, row by row, and growth per layer over all but the ends."""
    net = mlp(depth, width, phi, batch_norm=True)
    samples = simulate_growth(net, trials, batch=batch, seed=seed, workers=workers, method="conditional")
    logs = samples.log_gradient
    simulated = np.logaddexp.reduce(logs, axis=0) - math.log(len(logs))
    error = np.exp(logs - simulated).std(axis=0, ddof=1) / math.sqrt(len(logs))
    theory = np.array(predicted(phi, batch, depth))
    first, last = 4, 3 * (depth - 1) + 1  # outputs of the second Dense layer (the first reads the inputs) and the last
    rate, rate_theory = (math.exp((row[first] - row[last]) / (depth - 2)) for row in (simulated, theory))
    return {
        "activation": phi,
        "batch": batch,
        "trials": len(logs),
        "predicted_rate": rate_theory,
        "simulated_rate": rate,
        "rate_standard_error": rate * float(np.hypot(error[first], error[last])) / (depth - 2),
        "log_gradient_predicted": np.round(theory, 5).tolist(),
        "log_gradient_simulated": np.round(simulated, 5).tolist(),
        "log_gradient_standard_error": np.round(error, 5).tolist(),
    }


def widths(depth: int, width: int, seed: int, workers: int) -> list[dict]:
    """ln of simulated over predicted gradients below the last BN of linear networks, where theory is farthest off."""
    result = []
    for part in (8, 4, 2, 1):
        run = study("linear", 32, 100 * part, depth, width // part, seed + 1, workers)
        at = {name: run[f"log_gradient_{name}"][-3] for name in ("predicted", "simulated", "standard_error")}
        deviation = round(at["simulated"] - at["predicted"], 5)
        result.append({"width": width // part, "deviation": deviation, "standard_error": at["standard_error"]})
    return result


def results(depth: int = 12, width: int = 4096, seed: int = 0, workers: int = 1) -> dict:
    """Runs of all activations and batches, and widths."""
    start, runs = time.perf_counter(), []
    for batch in TRIALS:
        for phi in ACTIVATIONS:
            runs.append(study(phi, batch, TRIALS[batch], depth, width, seed, workers))
            print(*list(runs[-1].values())[:6], f"{time.perf_counter() - start:.0f} s", flush=True)
    return {
        "what": "squared gradient norms of MLPs with BN (he_normal, orthogonal inputs, white gradient at the output)",
        "runs": runs,
        "widths": widths(depth, width, seed, workers),
    }


if __name__ == "__main__":
    studies.run(results)
