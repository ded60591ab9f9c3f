"""simulate and crosscheck from the command line."""

import json

import pytest

import bntheory as bn


def test_simulate_growth(run, tmp_path):
    words = ("--depth", "10", "--width", "64", "--trials", "50", "--json", "g.json", "--plot", "g.png")
    status, out, _ = run("simulate", "growth", *words)
    assert status == 0 and "method 'conditional', seed 0" in out and "agree: largest |z|" in out
    data = json.loads((tmp_path / "g.json").read_text())
    assert data["trials"] == 50 and len(data["estimate"]) == 21
    assert (tmp_path / "g.png").read_bytes()[:4] == b"\x89PNG"
    status, out, _ = run("simulate", "growth", "--depth", "2", "--width", "8", "--batch", "3", "--trials", "20")
    assert status == 0 and "method 'weights'" in out


def test_simulate_spectrum(run, tmp_path):
    words = ("--factors", "2", "--width", "60", "--trials", "4", "--seed", "7", "--json", "s.json", "--plot", "s.svg")
    status, out, _ = run("simulate", "spectrum", *words)
    assert status == 0 and "Kolmogorov distance to FussCatalan(factors=2" in out
    data = json.loads((tmp_path / "s.json").read_text())
    assert data["kolmogorov_distance"] < 0.05 and len(data["log_singular_values"]) == 4
    assert data["edge"] == pytest.approx((27 / 4) ** 0.5)


def test_crosscheck_on_real_images(run, tmp_path):
    pytest.importorskip("torch")
    words = ("--depth", "5", "--width", "32", "--input-width", "64", "--trials", "40", "--json", "c.json")
    status, out, _ = run("crosscheck", *words, "--plot", "c.png")
    assert status == 0 and "Theory and measurement agree" in out and "on 1 digits input," in out
    assert json.loads((tmp_path / "c.json").read_text())["agrees"] is True
    status, out, _ = run("crosscheck", *words[:6], "--data", "noise", "--batch", "4", "--trials", "20")
    assert status == 0 and "on 4 noise inputs" in out


def test_crosscheck_runs_without_options(run):
    pytest.importorskip("torch")
    status, out, _ = run("crosscheck", "--trials", "2")
    assert status == 0 and out.startswith("input 64; 100 × [Dense(512")


def test_simulate_exits_1_when_theory_is_wrong(run, monkeypatch):
    predict = bn.predict_growth
    monkeypatch.setattr(bn, "predict_growth", lambda net, inputs: predict(bn.mlp(5, 32, "linear"), inputs))
    status, out, _ = run("simulate", "growth", "--depth", "5", "--width", "32", "--trials", "40")
    assert status == 1 and "DISAGREE" in out


def test_crosscheck_exits_1_when_theory_is_wrong(run, monkeypatch):
    pytest.importorskip("torch")
    from simulations import comparison

    predict = comparison.predict_growth
    other = bn.mlp(5, 32, "linear", input_width=64)
    monkeypatch.setattr(comparison, "predict_growth", lambda net, inputs: predict(other, inputs))
    status, out, _ = run("crosscheck", "--depth", "5", "--width", "32", "--data", "noise", "--trials", "40")
    assert status == 1 and "DISAGREE" in out


REFUSED = {
    "trials must be at least 1, got 0": ("simulate", "growth", "--trials", "0", "--depth", "2"),
    "batch must be at least 1, got 0": ("simulate", "growth", "--batch", "0", "--depth", "2"),
    "did you mean weights?": ("simulate", "growth", "--method", "weight", "--depth", "2"),
    "method 'conditional' needs Gaussian weights": (
        *("simulate", "growth", "--method", "conditional", "--init", "torch_default", "--depth", "2"),
    ),
    "BatchNorm needs a batch of at least 2, got 1": ("simulate", "growth", "--batch-norm", "--depth", "2"),
    "seed must be at least 0, got -1": ("simulate", "growth", "--seed", "-1", "--depth", "2"),
    "factors must be at least 1, got 0": ("simulate", "spectrum", "--factors", "0"),
    "width must be at least 1, got 0": ("simulate", "spectrum", "--width", "0"),
    "No such command 'grwth'": ("simulate", "grwth"),
    "data must be one of digits, noise": ("crosscheck", "--data", "cifar"),
    "digits are square": ("crosscheck", "--input-width", "65", "--depth", "2"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_arguments_get_one_line_and_status_2(run, message):
    status, _, err = run(*REFUSED[message])
    assert status == 2 and message in err and err.count("\n") == 1, err
