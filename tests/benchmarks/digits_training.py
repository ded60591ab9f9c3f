"""Figure 1 on digits with the paper's number of epochs: ResNet-110 at the paper's learning rates, three seeds.

165 epochs of 22 steps, batches of 64, one thread a run. The folder given as the argument keeps what is done, and a
second call goes on there. `paper_figures/figure1.py` draws the result.

    python tests/benchmarks/digits_training.py FOLDER
"""

import pathlib
from importlib import metadata
from typing import Any

import studies

from paper_figures.epochs import accuracies
from simulations.study import Study

RESULT = pathlib.Path(__file__).parents[2] / "paper_figures" / "results" / "digits_training.json"
RATES = {"none": (0.0001,), "all": (0.0001, 0.003, 0.1)}
SETTING = {"depth": 110, "image": (3, 8, 8), "data": "digits", "batch_size": 64, "epochs": 165}


def trained(folder: pathlib.Path) -> dict[str, Any]:
    """Accuracies of every run, epoch by epoch."""
    runs = []
    for norm, rates in RATES.items():
        study = Study(accuracies, {"learning_rate": rates, "seed": range(3)}, 1, {**SETTING, "norm": norm}, chunk=1)
        for index, found in enumerate(studies.points_of(study, folder / norm)):
            rows = {name: [float(f"{one:.4g}") for one in values[0]] for name, values in found.items()}
            runs.append({"norm": norm, **study.point(index), **rows})
    return {**SETTING, "torch": metadata.version("torch"), "runs": runs}


if __name__ == "__main__":
    studies.run_in_folder(trained, RESULT)
