"""predict and crosscheck: torch modules from the command line."""

import json

import pytest

SOURCE = """
from torch import nn

def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))

def wrong():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(7, 7))

def tokens():
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4))

def broken():
    raise RuntimeError("no weights\\nto be had")

ready = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
"""


@pytest.fixture
def networks(tmp_path):
    (tmp_path / "networks_of_this_test.py").write_text(SOURCE)
    return "networks_of_this_test"


def test_a_factory_is_predicted(run, networks, tmp_path):
    words = ("--json", "p.json", "--plot", "p.png", "--batch", "4", "--seed", "3")
    status, out, err = run("predict", f"{networks}:network", "--input", "3,8,8", *words)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{networks}:network on 4 inputs of noise, seed 3"
    assert any(line.startswith("3  ") and "Dense(10, weights(gain=" in line for line in lines)
    assert any(line.startswith("row  weights  mean W²") for line in lines)
    assert "The second moment" in out
    data = json.loads((tmp_path / "p.json").read_text())
    assert data["name"] == ["input", "0", "1", "2", "3"]
    assert [part["row"] for part in data["weights"]] == ["0", "3"]
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_the_seed_makes_the_weights(run, networks):
    once, again, other = (run("predict", f"{networks}:network", "--input", "3,8,8", "--seed", s)[1] for s in "112")
    assert once == again != other


def test_a_named_law_and_other_shapes(run, networks):
    status, out, _ = run("predict", f"{networks}:tokens", "--input", "5,6", "--init", "lecun_normal")
    assert status == 0 and "lecun_normal" in out and "LayerNorm(over=channels)" in out


REFUSED = {
    "cannot import 'nowhere'": ("nowhere:network", "--input", "3,8,8"),
    "has no 'netwrok'; the nearest: network": ("NET:netwrok", "--input", "3,8,8"),
    "Missing option '--input'": ("NET:network",),
    "must be one to three sizes": ("NET:network", "--input", "3,8,8,8"),
    "RuntimeError: mat1 and mat2": ("NET:wrong", "--input", "3,8,8"),
    "after row '0'": ("NET:wrong", "--input", "3,8,8"),
    "NET:broken cannot be made: RuntimeError: no weights to be had": ("NET:broken", "--input", "3,8,8"),
    "init must be one of": ("NET:network", "--input", "3,8,8", "--init", "good"),
    "batch must be at least 1, got 0": ("NET:network", "--input", "3,8,8", "--batch", "0"),
    "quantity must be one of": ("NET:network", "--input", "3,8,8", "--quantity", "spectra"),
    "level must be": ("NET:network", "--input", "3,8,8", "--level", "2"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused_takes_one_line(run, networks, message):
    status, out, err = run("predict", *(word.replace("NET", networks) for word in REFUSED[message]))
    assert (status, out) == (2, "")
    assert message.replace("NET", networks) in err and err.count("\n") == 1


def test_crosscheck_of_a_factory(run, networks, tmp_path):
    words = ("--input", "3,8,8", "--trials", "20", "--data", "noise", "--json", "c.json", "--plot", "c.png")
    status, out, err = run("crosscheck", f"{networks}:network", *words)
    assert (status, err) == (0, ""), out
    assert "20 networks in PyTorch on 8 noise inputs, seed 0" in out
    assert "Theory and measurement agree" in out
    assert json.loads((tmp_path / "c.json").read_text())["agrees"] is True
    assert (tmp_path / "c.png").stat().st_size > 10_000


@pytest.mark.parametrize("redraw", ["theory", "reset"])
def test_crosscheck_of_a_module_as_it_is(run, networks, redraw):
    words = ("--input", "4", "--trials", "20", "--data", "noise", "--redraw", redraw)
    status, out, _ = run("crosscheck", f"{networks}:ready", *words)
    assert status == 0 and "agree" in out


def test_crosscheck_exits_1_where_networks_are_not_what_theory_takes_them_for(run, networks, tmp_path):
    """Weights that are drawn from another law than the one that was named."""
    source = f"from {networks} import network as small\nfrom torch import nn\n"
    source += "calls = []\ndef network():\n    calls.append(0)\n    model = small()\n"
    source += "    nn.init.normal_(model[3].weight, std=1.0 if len(calls) > 2 else 0.1)\n    return model\n"
    (tmp_path / "changing_networks.py").write_text(source)
    status, out, _ = run(
        "crosscheck", "changing_networks:network", "--input", "3,8,8", "--data", "noise", "--trials", "10"
    )
    assert status == 1 and "DISAGREE from row 3" in out


NOT_CHECKED = {
    "--input belongs to a torch module": ("NET:network",),
    "leave out --depth, --width": ("NET:network", "--input", "3,8,8", "--depth", "3", "--width", "8"),
    "--redraw belongs to a torch module": ("--depth", "3", "--redraw", "reset"),
    "--device belongs to a torch module": ("--depth", "3", "--device", "cpu"),
    "device must be one of auto, cpu, cuda; got 'tpu'": ("NET:network", "--input", "3,8,8", "--device", "tpu"),
    "redraw must be one of": ("NET:network", "--input", "3,8,8", "--redraw", "again"),
    "which --redraw reset would not draw": (
        "NET:network",
        "--input",
        "3,8,8",
        "--init",
        "he_normal",
        "--redraw",
        "reset",
    ),
    "is a single module": ("NET:ready", "--input", "4", "--data", "noise", "--redraw", "factory"),
}


@pytest.mark.parametrize("message", NOT_CHECKED)
def test_what_crosscheck_refuses(run, networks, message):
    status, out, err = run("crosscheck", *(word.replace("NET", networks) for word in NOT_CHECKED[message]))
    assert (status, out) == (2, "")
    assert message in err and err.count("\n") == 1
