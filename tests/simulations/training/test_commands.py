"""bntheory probe: described networks and torch modules from the command line."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")

SOURCE = """
import torch
from torch import nn
from bntheory import resnet
from simulations.training.modules import build

def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))

def described():
    return build(resnet(8, image=(3, 8, 8)), seed=torch.initial_seed())

def small():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def empty():
    return nn.Flatten()

def wrong():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(7, 7))

def images():
    return nn.Conv2d(1, 10, 3)
"""


@pytest.fixture
def networks(tmp_path):
    (tmp_path / "probed_networks.py").write_text(SOURCE)
    return "probed_networks"


def test_all_probes_of_a_described_network(run, tmp_path):
    words = (
        "--resnet",
        "8",
        "--batch-norm",
        "--image",
        "3,8,8",
        "--batch",
        "16",
        "--data",
        "noise",
        "--json",
        "p.json",
    )
    status, out, err = run("probe", *words)
    assert (status, err) == (0, "")
    assert "16 images of noise, seed 0" in out and "get the most frequent prediction" in out
    data = json.loads((tmp_path / "p.json").read_text())
    assert list(data["probes"]) == ["gradient_histogram", "channel_moments", "logit_gradients", "kernel_alignment"]
    again = run("probe", *words[:-1], "again.json")[1]
    assert again == out and json.loads((tmp_path / "again.json").read_text()) == data


def test_the_numbers_are_those_of_the_functions(run, networks, tmp_path):
    """Images and labels of digits, weights from the seed, cross-entropy."""
    pytest.importorskip("sklearn")
    import torch

    import simulations as sim

    words = ("--batch", "20", "--seed", "3", "--probe", "kernel_alignment", "--json", "p.json")
    status, out, err = run("probe", f"{networks}:network", *words)
    assert (status, err) == (0, "") and "20 images of digits, seed 3" in out
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten())
    model.append(torch.nn.Linear(144, 10))
    inputs = sim.images_for((1, 8, 8), "digits", 20, 3)
    found = sim.kernel_alignment(model, inputs.values, inputs.labels)
    assert json.loads((tmp_path / "p.json").read_text())["probes"] == {"kernel_alignment": found.to_dict()}
    assert found.table() in out


@pytest.mark.parametrize("name", ["gradient_histogram", "channel_moments", "logit_gradients", "kernel_alignment"])
def test_pictures(run, networks, tmp_path, name):
    layered = ("--layer", "2") if name in ("gradient_histogram", "kernel_alignment") else ()
    words = ("--data", "noise", "--batch", "12", "--probe", name, "--plot", "p.png")
    status, _, err = run("probe", f"{networks}:described", *words, *layered)
    assert (status, err) == (0, "")
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_a_step_is_given_where_none_diverges_and_few_images_have_noise(run, tmp_path):
    words = ("--resnet", "8", "--batch-norm", "--image", "3,8,8", "--batch", "8", "--data", "noise")
    probes = ("--probe", "moments_along_step", "--probe", "sgd_noise")
    status, _, err = run("probe", *words, *probes)
    assert status == 2 and "no step up to 0.2 raises the loss by 1000" in err
    status, out, err = run("probe", *words, *probes, "--step", "0.5", "--json", "p.json")
    assert (status, err) == (0, "") and "by 4 of 8 images" in out
    assert json.loads((tmp_path / "p.json").read_text())["probes"]["moments_along_step"]["step"] == 0.5


def test_a_layer_by_name_or_number(run, networks, tmp_path):
    counts = []
    for layer in ("2", "4", "none"):
        words = ("--input", "1,8,8", "--data", "noise", "--probe", "gradient_histogram", "--json", "p.json")
        status, *_ = run("probe", f"{networks}:network", *words, *(() if layer == "none" else ("--layer", layer)))
        if layer != "4":  # digits are a number along the path, of which there are two
            counts.append(json.loads((tmp_path / "p.json").read_text())["probes"]["gradient_histogram"]["histogram"])
        assert status == (2 if layer == "4" else 0)
    assert [np.sum(part["counts"]) for part in counts] == [1440, 1476]
    assert [part["layer"] for part in counts] == ["4", "all layers"]


REFUSED = {
    "NET:empty has no parameters": ("NET:empty", "--data", "noise", "--input", "1,8,8"),
    "RuntimeError: mat1 and mat2": ("NET:wrong", "--data", "noise", "--input", "1,8,8"),
    "raised by the module's own forward": ("NET:wrong", "--data", "noise", "--input", "1,8,8"),
    "labels must be classes from 0 to 2, got": ("NET:small", "--data", "noise", "--input", "1,8,8"),
    "the model must return a tensor (batch, classes), got (128, 10, 6, 6)": (
        "NET:images",
        "--data",
        "noise",
        "--input",
        "1,8,8",
        "--probe",
        "logit_gradients",
    ),
    "--input says what shape noise has": ("NET:network", "--data", "noise"),
    "probe must be one of": ("NET:network", "--probe", "hessian"),
    "did you mean logit_gradients?": ("NET:network", "--probe", "logit_gradient"),
    "--plot draws one probe": ("NET:network", "--plot", "p.png"),
    "--layer belongs to gradient_histogram and kernel_alignment": (
        "NET:network",
        "--layer",
        "2",
        "--probe",
        "logit_gradients",
    ),
    "layer must be from 1 to 2": ("NET:network", "--data", "noise", "--input", "1,8,8", "--layer", "3"),
    "got 'conv'": ("NET:network", "--data", "noise", "--input", "1,8,8", "--layer", "conv"),
    "--step belongs to moments_along_step, got curvature": ("--resnet", "8", "--step", "1", "--probe", "curvature"),
    "step must be finite and above 0, got 0": (
        "--resnet",
        "8",
        "--batch",
        "4",
        "--step",
        "0",
        "--probe",
        "moments_along_step",
    ),
    "--input belongs to a torch module": ("--resnet", "8", "--input", "3,8,8"),
    "--init draws a network that is described": ("NET:network", "--init", "he_normal"),
    "--resnet says both architecture and depth: leave out --depth": ("--resnet", "8", "--depth", "8"),
    "batch must be at least 1, got 0": ("--resnet", "8", "--batch", "0"),
    "data must be one of digits": ("--resnet", "8", "--data", "nowhere"),
    "Expected more than 1 value per channel": (
        "--batch-norm",
        "--depth",
        "3",
        "--width",
        "16",
        "--data",
        "noise",
        "--batch",
        "1",
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused_takes_one_line(run, networks, tmp_path, message):
    words = (word.replace("NET", networks) for word in REFUSED[message])
    status, out, err = run("probe", *words, "--json", "refused.json")
    assert (status, out) == (2, "")
    assert message.replace("NET", networks) in err and err.count("\n") == 1
    assert not (tmp_path / "refused.json").exists()


def test_resnet_is_short_for_architecture_and_depth(run):
    short, long = (
        run("growth", *words, "--no-covariances")[1]
        for words in (("--resnet", "8"), ("--architecture", "resnet", "--depth", "8"))
    )
    assert short == long and "ln E h²" in short
