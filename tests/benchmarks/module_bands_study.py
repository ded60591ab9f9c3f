"""Draw the narrow networks of the zoo many times, and keep quantiles of ln(mean of h²) of every row.

The weights are drawn as the prediction takes them: normal, of the variances that the first draw has. Too slow for the
test suite; `tests/bntheory/torch_models/test_zoo.py` reads the file and judges the predicted bands by it. Networks that
the file has already are not drawn again: remove it where one of them has changed.

    OMP_NUM_THREADS=1 python tests/benchmarks/module_bands_study.py
"""

import importlib.util
import pathlib

import numpy as np

from simulations.training.redraws import measure_module

HERE = pathlib.Path(__file__)
ZOO = HERE.parents[1] / "bntheory" / "torch_models" / "test_zoo.py"
RESULT = ZOO.with_name("band_draws.npz")
DRAWS = 1000
LEVELS = np.linspace(0, 1, 101)


def main() -> None:
    """Run the study."""
    spec = importlib.util.spec_from_file_location("zoo", ZOO)
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    quantiles = dict(np.load(RESULT)) if RESULT.exists() else {}
    for word in (word for word in zoo.NARROW if word not in quantiles):
        model, batch = zoo.narrow(word)
        measured = measure_module(model, batch, DRAWS, gradients=False, seed=1)
        quantiles[word] = np.quantile(measured.log_second_moment, LEVELS, axis=0).astype(np.float32)
        print(word, quantiles[word].shape, flush=True)
    np.savez_compressed(RESULT, **quantiles)


if __name__ == "__main__":
    main()
