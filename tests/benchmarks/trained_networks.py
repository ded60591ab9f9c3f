"""Follow networks in training: where theory of random weights stops holding for the weights that they have.

At step 0, every epoch and the end, on eight training images: rows as predicted from the present sizes of the weights
beside the rows as they are (`theory_gap`), what becomes of a white gradient on its way from the outputs to the first
row, every weight matrix against random ones (`weight_spectra`), and the Jacobian at one image against its law where
there is one (`jacobian_spectrum`). `paper_figures/appendix_trained_networks.py` draws the result.

    python tests/benchmarks/trained_networks.py
"""

import concurrent.futures
import datetime
import json
import pathlib
import tempfile

import numpy as np

import bntheory as bn

RESULT = pathlib.Path(__file__).parents[2] / "paper_figures" / "results" / "trained_networks.json"
EPOCHS, BATCH, SEEDS = 16, 64, (0, 1, 2)
NETWORKS = {  # and the learning rate: the largest at which all seeds learn
    "ResNet-20 with BatchNorm": (bn.resnet(20, batch_norm=True, image=(3, 8, 8)), 0.1),
    "ResNet-20 without BatchNorm": (bn.resnet(20, image=(3, 8, 8)), 0.01),
    "MLP, 6 layers of 128 tanh": (bn.mlp(6, 128, "tanh", "xavier_normal", input_width=64, output_width=10), 0.1),
    "MLP, 6 layers of 128 relu": (bn.mlp(6, 128, "relu", "he_normal", input_width=64, output_width=10), 0.03),
}


def look(model, images, labels) -> dict:
    """What is kept of the probes."""
    import simulations as sim

    predicted, measured = bn.predict_module(model, images), sim.measure_module(model, images, redraw="none")
    gap = sim.theory_gap(model, images).to_dict()
    spectra = sim.weight_spectra(model, trials=400)
    tested = [found for found in spectra.matrices if found.p_value == found.p_value]
    found = {
        "gap_at_the_output": gap["last"],
        "gap_of_gradients": float(measured.log_gradient[0, 0] - predicted.log_gradient[0]),
        "gap_root_mean_square": gap["root_mean_square"],
        "rows_outside_of_95%": gap["outside"],
        "largest_mean_share": gap["mean_share"],
        "p_values": sorted(round(one.p_value, 4) for one in tested),
        "matrices_unlike_random": sum(one.p_value <= 0.01 for one in tested) / len(tested),
        "largest_over_edge": float(np.exp(max(one.excess for one in tested))),
    }
    if not any(isinstance(layer, bn.BatchNorm | bn.Conv) for layer in model.description.layers):
        inner = type(model)(*list(model)[:-1])  # without the classifier, whose ten values say little
        found["jacobian_distance"] = sim.jacobian_spectrum(inner.double(), images[0].double()).distance
        inner.float()
    return {name: None if value in (np.inf, "nan") or value != value else value for name, value in found.items()}


def follow(name: str, seed: int) -> dict:
    """One run."""
    import torch

    import simulations as sim
    from simulations.training import batches

    torch.set_num_threads(1)
    net, rate = NETWORKS[name]
    recipe = sim.Recipe(net, learning_rate=rate, epochs=EPOCHS, batch_size=BATCH, seed=seed)
    learn, _ = batches.examples(recipe, "cpu")
    images, labels = learn.batch(torch.arange(8))
    with tempfile.TemporaryDirectory() as folder:
        history = sim.train(
            recipe, folder, device="cpu", probes={"look": lambda model, *_: look(model, images, labels)}, probe_every=22
        )
        model, _ = sim.load_model(folder)
    looks = [{"step": found["step"], **found["result"]} for found in history.probes]
    looks.append({"step": len(history.losses), **look(model, images, labels)})
    accuracy = [epoch["train_accuracy"] for epoch in history.epochs]
    print(name, seed, history.verdict(), flush=True)
    return {"network": name, "seed": seed, "outcome": history.outcome, "train_accuracy": accuracy, "looks": looks}


def main() -> None:
    """Run the study."""
    import torch

    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        runs = list(pool.map(follow, *zip(*((name, seed) for name in NETWORKS for seed in SEEDS), strict=True)))
    described = {
        "command": "python tests/benchmarks/trained_networks.py",
        "data": "digits",
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "torch": str(torch.__version__),
    }
    RESULT.write_text(json.dumps({"date": str(datetime.date.today()), **described, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
