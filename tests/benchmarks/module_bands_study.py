"""Draw the networks of two tests many times, and keep quantiles of ln(mean of h²) of every row.

The weights are drawn as the prediction takes them: normal, of the variances that the first draw has. Too slow for the
test suite; `test_zoo.py` and `test_idioms.py` of tests/bntheory/torch_models read the files and judge predictions by
them. Networks that a file has already are not drawn again: remove it where one of them has changed.

    OMP_NUM_THREADS=1 python tests/benchmarks/module_bands_study.py
"""

import importlib.util
import pathlib

import numpy as np

from simulations.training.redraws import measure_module

FOLDER = pathlib.Path(__file__).parents[1] / "bntheory" / "torch_models"


def main() -> None:
    """Run the study."""
    for name in ("test_zoo", "test_idioms"):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        tests = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tests)
        quantiles = dict(np.load(tests.DRAWN)) if tests.DRAWN.exists() else {}
        for word in (word for word in tests.WORDS if word not in quantiles):
            measured = measure_module(*tests.network(word), tests.draws(word), gradients=False, seed=1)
            quantiles[word] = np.quantile(measured.log_second_moment, tests.LEVELS, axis=0).astype(np.float32)
            print(word, quantiles[word].shape, flush=True)
            np.savez_compressed(tests.DRAWN, **quantiles)


if __name__ == "__main__":
    main()
