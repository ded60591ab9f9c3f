"""Draw products of five Gaussian matrices of four sizes, and write how far each is from the limit law, and its end.

Too slow for the test suite; `tests/agreement/test_spectra.py` reads the JSON file and judges how both fall with N.

    OMP_NUM_THREADS=1 python tests/benchmarks/product_sizes.py

Means over draws and their standard errors, of the Kolmogorov distance of one draw's squared singular values from
Fuss–Catalan's law and of the largest of them.
"""

import json
import pathlib

import numpy as np

from bntheory import FussCatalan, mlp
from simulations import log_singular_values
from simulations.statistics import kolmogorov_distance, mean_with_error

RESULT = pathlib.Path(__file__).with_suffix(".json")
FACTORS, TRIALS = 5, {50: 1200, 100: 600, 200: 320, 400: 160}


def measured(width: int) -> dict[str, list[float]]:
    """Of draws of one size: mean and standard error of the distance and of the largest value."""
    net = mlp(FACTORS, width, "linear", "lecun_normal")
    squares = np.exp(2 * log_singular_values(net, TRIALS[width], seed=1))
    distances = [kolmogorov_distance(draw, FussCatalan(FACTORS).cdf) for draw in squares]
    pairs = {"distance": mean_with_error(np.array(distances)), "largest": mean_with_error(squares[:, 0])}
    return {name: [round(float(number), 7) for number in pair] for name, pair in pairs.items()}


def main() -> None:
    """Run the study."""
    found = [measured(width) for width in TRIALS]
    columns = {name: [one[name] for one in found] for name in ("distance", "largest")}
    study = {"factors": FACTORS, "width": list(TRIALS), "trials": list(TRIALS.values()), **columns}
    RESULT.write_text(json.dumps(study, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
