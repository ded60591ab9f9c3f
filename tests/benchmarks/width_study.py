"""Draw networks of depth 50 at widths 64 … 1024, and write how far their mean square is from that of infinite width.

Too slow for the test suite; `tests/bntheory/growth/test_first_order.py` reads the JSON file and judges it.

    python tests/benchmarks/width_study.py [--trials 20000] [--seed 0] [--workers 1]
"""

import math

import numpy as np
import studies

from bntheory import initialization, mlp, predict_growth
from bntheory.growth.finite_width import first_order
from simulations import simulate_growth

DEPTH, WIDTHS = 50, (64, 128, 256, 512, 1024)
# gain² = weight variance times width, and bias variance: networks that neither vanish nor explode at these widths
SETTINGS = {
    "tanh": (1.0, 0.0),
    "erf": (1.0, 0.0),
    "gelu": (1.8, 0.1),
    "selu": (1.0, 0.0),
    "silu": (2.0, 0.1),
    "softplus": (1.8, 0.0),
}


def network(name: str, width: int):
    """The network of that activation and width."""
    variance, bias = SETTINGS[name]
    return mlp(DEPTH, width, name, initialization("lecun_normal", gain=math.sqrt(variance)), bias or None)


def compare(name: str, width: int, trials: int, seed: int, workers: int) -> dict:
    """The logarithm of the mean, and the mean and variance of the logarithm, of the last row's mean square."""
    net = network(name, width)
    drawn = simulate_growth(net, trials, seed=seed, method="conditional", gradients=False, workers=workers)
    log = drawn.log_second_moment[:, -1]
    infinite = float(predict_growth(net).log_second_moment[-1])
    size = np.exp(log - infinite)
    predicted = first_order.fluctuations(net, 0.0)
    centred = log - log.mean()
    return {
        "width": width,
        "trials": trials,
        "infinite_width": infinite,
        "log_mean_error": math.log(size.mean()),
        "log_mean_standard_error": float(size.std() / size.mean()) / math.sqrt(trials),
        "mean": float(log.mean()),
        "mean_first_order": float(predicted.mean[-1]),
        "mean_standard_error": float(log.std()) / math.sqrt(trials),
        "std": float(log.std()),
        "std_first_order": float(predicted.std[-1]),
        "std_standard_error": float(np.std(centred**2)) / math.sqrt(trials) / (2 * float(log.std())),
    }


def results(trials: int = 20_000, seed: int = 0, workers: int = 1) -> dict:
    """Of all activations and widths."""
    found = {name: [compare(name, width, trials, seed, workers) for width in WIDTHS] for name in SETTINGS}
    return {
        "what": f"mean of h² in the last row of MLPs of depth {DEPTH}, input of mean square 1, against infinite width",
        "settings": {name: {"gain": math.sqrt(square), "bias": bias} for name, (square, bias) in SETTINGS.items()},
        "results": found,
    }


if __name__ == "__main__":
    studies.run(results)
