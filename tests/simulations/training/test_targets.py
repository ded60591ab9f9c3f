"""bntheory crosscheck and probe of the checkpoint of a run, and all probes by name."""

import json

import numpy as np
import pytest

import bntheory as bn

torch = pytest.importorskip("torch")

import simulations as sim  # noqa: E402
from simulations.training import commands, loop, probes  # noqa: E402
from simulations.training.recipe import Recipe  # noqa: E402

NET = bn.mlp(3, 64, input_width=64, output_width=10)


@pytest.fixture
def trained(tmp_path):
    """The folder of a run of two epochs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loop.train(Recipe(NET, learning_rate=0.05, epochs=2), tmp_path / "run", device="cpu")
    yield tmp_path / "run"
    torch.set_num_threads(threads)


def test_the_trained_network_is_held_against_theory_and_so_are_redraws(run, trained, tmp_path):
    """The gap is that of theory_gap; exit status 0, since random weights of the same sizes are as predicted."""
    words = ("--trials", "40", "--batch", "6", "--seed", "3", "--json", "c.json")
    status, out, err = run("crosscheck", "run", *words)
    assert (status, err) == (0, "")
    assert "after 2 of 2 epochs on digits (step 22)" in out and "as it is on 6 digits inputs" in out
    assert "Random weights of these sizes, not the network itself: Theory and measurement " in out
    assert "with random weights of the same sizes\n40 networks in PyTorch" in out
    model, _ = sim.load_model(trained)
    images = sim.images_for((64,), "digits", 6, 3).values
    gap, found = sim.theory_gap(model, images), json.loads((tmp_path / "c.json").read_text())
    assert found["gap"] == gap.to_dict() and gap.table() in out
    assert found["trials"] == 40 and found["agrees"]
    with torch.no_grad():  # the measured output, by hand
        square = model(torch.from_numpy(images).float()).double().square().mean()
    assert gap.measured[-1] == pytest.approx(np.log(square.item()), rel=1e-5)
    assert run("crosscheck", "run/checkpoint.pt", *words)[1].split("\n", 1)[1] == out.split("\n", 1)[1]


def test_a_checkpoint_is_probed_on_the_images_it_was_trained_on(run, trained, tmp_path):
    words = ("--probe", "logit_gradients", "--batch", "20", "--json", "p.json", "--device", "cpu")
    status, out, err = run("probe", "run", *words)
    assert (status, err) == (0, "") and "20 images of digits" in out
    model, _ = sim.load_model(trained)
    inputs = sim.images_for((64,), "digits", 20)
    found = sim.logit_gradients(model, inputs.values, inputs.labels).to_dict()
    assert json.loads((tmp_path / "p.json").read_text())["probes"] == {"logit_gradients": found}


def test_commands_name_all_probes_streaming_ones_first():
    assert list(probes.PROBES) == list(commands.NAMES) and commands.NAMES[:4] == probes.STREAMING
    table = [line.split()[0] for line in probes.__doc__.splitlines() if "   " in line and line[:1].islower()]
    assert table[1:] == list(commands.NAMES), "the table of the package has others"


@pytest.mark.parametrize("name", commands.NAMES)
def test_every_probe_can_be_called_by_name(run, tmp_path, name):
    """Of a network at a large gain, whose loss diverges along its gradient."""
    network = ("--depth", "20", "--width", "16", "--output-width", "10", "--gain", "2", "--batch", "40")
    status, out, err = run("probe", *network, "--data", "noise", "--probe", name, "--json", "p.json")
    assert (status, err) == (0, "") and name.replace("_", " ") in out
    assert json.loads((tmp_path / "p.json").read_text())["probes"][name]


REFUSED = {
    "there is no checkpoint nowhere/checkpoint.pt": ("nowhere/checkpoint.pt",),
    "there is no checkpoint run.pt": ("run.pt",),
    "is not a checkpoint of a run, or damaged": ("damaged.pt",),
    "a network is named package.module:factory": ("models",),
    "--input belongs to a torch module: a checkpoint": ("run", "--input", "64"),
}


@pytest.mark.parametrize("command", ["probe", "crosscheck"])
@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused(run, trained, tmp_path, command, message):
    (tmp_path / "damaged.pt").write_bytes(b"no checkpoint")
    status, out, err = run(command, *REFUSED[message])
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1


def test_what_crosscheck_refuses_of_a_checkpoint(run, trained):
    for words, message in {
        ("--redraw", "factory"): "choose --redraw theory or reset",
        ("--init", "he_normal"): "--init belongs to a torch module",
    }.items():
        status, out, err = run("crosscheck", "run", *words)
        assert (status, out) == (2, "") and message in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_probe_without_a_gpu(run):
    status, out, err = run("probe", "--resnet", "8", "--device", "cuda")
    assert (status, out) == (2, "") and "device 'cuda' is not available" in err
