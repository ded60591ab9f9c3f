"""Train small networks on digits of wildly varying scale: without normalization, each image normalized, or with BN.

A multilayer perceptron (3 layers of 128 ReLU units, He's weights), momentum 0.9, weight decay 5e-4, batches of 64, a
constant learning rate. `paper_figures/appendix_input_conditioning.py` draws the result.

    python tests/benchmarks/input_conditioning.py
"""

import datetime
import itertools
import json
import pathlib
import time

import numpy as np
import torch

from paper_figures.input_scales import SPREADS, TREATMENTS, images, network
from simulations import streams
from simulations.training.modules import build

RESULT = pathlib.Path(__file__).parents[2] / "paper_figures" / "results" / "input_conditioning.json"
EPOCHS, BATCH, SEEDS, DEPTH, WIDTH = 16, 64, (0, 1, 2), 3, 128
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
DIVERGED = 1e3  # times the first loss


def run(treatment: str, spread: float, rate: float, seed: int) -> dict:
    """Train one network; accuracies of its last epoch's batches, and in evaluation mode after it."""
    data = images(spread, seed)
    model = build(network(treatment, DEPTH, WIDTH), seed)
    optimizer = torch.optim.SGD(model.parameters(), rate, 0.9, weight_decay=5e-4)
    learn, labels = torch.from_numpy(data.learn).float(), torch.from_numpy(data.learn_labels)
    first = None
    for epoch in range(EPOCHS):
        right = []
        order = torch.from_numpy(streams.stream(seed, trial=epoch, grid_index=1).permutation(len(learn)))
        for chosen in order[: len(order) // BATCH * BATCH].split(BATCH):
            outputs = model(learn[chosen])
            loss = torch.nn.functional.cross_entropy(outputs, labels[chosen])
            right.append((outputs.argmax(1) == labels[chosen]).float().mean().item())
            first = loss.item() if first is None else first
            if not loss.item() <= DIVERGED * max(first, 1.0):
                return {"outcome": "diverged", "epoch": epoch}
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        tested = model(torch.from_numpy(data.test).float()).argmax(1).numpy() == data.test_labels
        learned = (model(learn).argmax(1) == labels).float().mean().item()
    small = data.test_normals < np.median(data.test_normals)  # the dimmer half
    found = {
        "batch_accuracy": np.mean(right),
        "train_accuracy": learned,
        "test_accuracy": tested.mean(),
        "test_accuracy_small": tested[small].mean(),
    }
    return {"outcome": "trained", **{name: round(float(value), 4) for name, value in found.items()}}


def main() -> None:
    """Run the study."""
    torch.set_num_threads(1)
    start, runs = time.perf_counter(), []
    for treatment, spread, rate, seed in itertools.product(TREATMENTS, SPREADS, RATES, SEEDS):
        setting = {"treatment": treatment, "spread": spread, "learning_rate": rate, "seed": seed}
        runs.append({**setting, **run(treatment, spread, rate, seed)})
        print(*runs[-1].values(), f"{time.perf_counter() - start:.0f} s", flush=True)
    result = {
        "date": str(datetime.date.today()),
        "command": "python tests/benchmarks/input_conditioning.py",
        "data": "digits",
        "network": f"{DEPTH} layers of {WIDTH} ReLU units",
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "seconds": round(time.perf_counter() - start),
        "torch": str(torch.__version__),
        "runs": runs,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
