"""ResNet-110 without BN, draw by draw: its size at the start, its gradients, the step along them that ruins it.

Fashion-MNIST, mini-batches of 128, one thread. The folder given as the argument keeps what is done, and a second call
goes on there. `paper_figures/appendix_draws.py` draws the result.

    python tests/benchmarks/draws_without_bn.py FOLDER
"""

import pathlib
from importlib import metadata
from typing import Any

import studies

from paper_figures.draws import at_start
from simulations.study import Study

RESULT = pathlib.Path(__file__).parents[2] / "paper_figures" / "results" / "draws_without_bn.json"
SEEDS = range(20)
SETTING = {"depth": 110, "image": (3, 32, 32), "data": "fashion-mnist", "batch_size": 128}


def drawn(folder: pathlib.Path) -> dict[str, Any]:
    """Every quantity, network by network."""
    study = Study(at_start, {"seed": SEEDS}, 1, SETTING, chunk=1)
    points = studies.points_of(study, folder)
    rows = {name: [float(f"{point[name].item():.5g}") for point in points] for name in points[0]}
    return {**SETTING, "torch": metadata.version("torch"), "seeds": list(SEEDS), "draws": rows}


if __name__ == "__main__":
    studies.run_in_folder(drawn, RESULT)
