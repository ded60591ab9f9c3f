"""simulate and crosscheck from the command line."""

import json
import math

import numpy as np
import pytest

import bntheory as bn
from simulations import comparison, simulate_growth
from simulations.training.datasets import idx


def test_simulate_growth(run, tmp_path):
    words = ("--depth", "10", "--width", "64", "--trials", "50", "--json", "g.json", "--plot", "g.png")
    status, out, _ = run("simulate", "growth", *words)
    assert status == 0 and "method 'conditional', seed 0" in out and "agree: largest |z|" in out
    data = json.loads((tmp_path / "g.json").read_text())
    assert data["trials"] == 50 and len(data["estimate"]) == 21
    assert (tmp_path / "g.png").read_bytes()[:4] == b"\x89PNG"
    status, out, _ = run("simulate", "growth", "--depth", "2", "--width", "8", "--batch", "3", "--trials", "20")
    assert status == 0 and "method 'weights'" in out


def test_simulate_growth_sends_gradients_back(run, tmp_path):
    words = ("--depth", "24", "--width", "256", "--batch-norm", "--batch", "8", "--trials", "30")
    status, out, err = run(
        "simulate", "growth", *words, "--json", "g.json", "--plot", "g.png", "--quantity", "gradients"
    )
    assert (status, err) == (0, "") and out.splitlines()[-1].startswith("Theory and measurement agree")
    data = json.loads((tmp_path / "g.json").read_text())
    median, low, high = (data[f"log_gradient_{name}"] for name in ("median", "5%", "95%"))
    assert len(median) == 73 and median[-1] == 0 and low[0] < median[0] < high[0]
    factor = float(out.split("squared norm × ")[1].split()[0])
    assert factor == pytest.approx(math.exp(data["log_gradient_per_layer"]), rel=1e-2)
    assert 1.7 < factor < 1.9 and "(layers 18 to 6, median;" in out
    assert (tmp_path / "g.png").read_bytes()[:4] == b"\x89PNG"
    _, without, _ = run("simulate", "growth", *words, "--no-gradients", "--json", "n.json")
    assert without == "".join(line for line in out.splitlines(True) if not line.startswith("Gradients"))
    assert "log_gradient_median" not in json.loads((tmp_path / "n.json").read_text())


def test_simulate_growth_writes_the_bands_of_what_it_drew(run, tmp_path):
    """Where there is no law; rows filled from the samples do not judge them."""
    words = ("simulate", "growth", "--depth", "4", "--width", "16", "--init", "orthogonal", "--json", "g.json")
    status, out, _ = run(*words, "--trials", "40")
    data = json.loads((tmp_path / "g.json").read_text())
    assert status == 0 and "largest deviation" in out and data["networks"] == 40
    assert data["band_method"] == ["exact", *["simulated"] * 8]
    assert data["gradient_band_method"] == [*["simulated"] * 8, "first-order"]
    samples = simulate_growth(bn.mlp(4, 16, init="orthogonal"), 40)
    assert data["log_growth_mean"] == pytest.approx(samples.log_second_moment.mean(axis=0), abs=1e-12)
    lower, upper = data["band_lower"][-1], data["band_upper"][-1]
    assert lower < data["log_growth_mean"][-1] < upper and data["log_growth_error"][-1] > 0
    assert data["gradient_band_lower"][0] == pytest.approx(
        np.quantile(samples.log_gradient[:, 0], 0.05, method="weibull")
    )
    run(*words, "--trials", "5", "--no-gradients")  # too few for a band of 90%
    few = json.loads((tmp_path / "g.json").read_text())
    assert few["band_method"][-1] == "simulated" and "band_lower" not in few
    assert few["gradient_band_method"][0] == "unsupported" and few["log_gradient_mean"][0] is None
    run(*words, "--trials", "40", "--batch", "2")  # the law is of one vector, the samples are of two
    assert json.loads((tmp_path / "g.json").read_text())["band_method"][-1] == "unsupported"


def test_simulate_growth_draws_until_the_mean_is_known(run):
    words = ("simulate", "growth", "--depth", "10", "--width", "64", "--no-gradients", "--trials", "256")
    status, out, _ = run(*words, "--until", "0.3")
    assert status == 0 and "below the 0.3 asked for" in out
    drawn = int(out.splitlines()[1].split()[0])
    assert drawn in (64, 128) and float(out.split(" ± ")[1].split()[0]) < 0.3
    _, plain, _ = run(*words[:-1], str(drawn))
    assert plain.splitlines()[-1] == out.splitlines()[-1]  # the same networks
    status, out, _ = run(*words, "--until", "0.001", "--workers", "1")
    assert status == 0 and "256 networks" in out and "NOT below 0.001: give more --trials" in out


def test_simulate_growth_in_float32(run):
    words = ("--depth", "3", "--width", "32", "--batch-norm", "--batch", "8", "--trials", "10", "--dtype", "float32")
    status, out, _ = run("simulate", "growth", *words)
    assert status == 0 and "seed 0, float32 (off by at most" in out


def test_simulate_growth_of_a_described_convolutional_network(run, tmp_path):
    (tmp_path / "net.json").write_text(bn.resnet(8, image=(1, 8, 8)).to_json())
    status, out, _ = run("simulate", "growth", "--net", "net.json", "--trials", "5")
    assert status == 0 and "method 'weights'" in out and "a block going back" in out
    assert "Theory and measurement agree" in out


def test_a_dead_network_is_one_line_on_standard_error(run):
    words = ("simulate", "growth", "--depth", "200", "--width", "2", "--trials", "20")
    status, out, err = run(*words)
    assert status == 0 and "Gradients: none reaches the input." in out
    assert err.startswith("bntheory: the network is dead in every one of 20 trials") and err.count("\n") == 1
    status, _, err = run(*words, "--until", "1")
    assert status == 2 and "got 20 dead and 0 out of range of 20" in err and err.count("\n") == 1


def test_simulate_spectrum(run, tmp_path):
    words = ("--factors", "2", "--size", "60", "--trials", "4", "--seed", "7", "--json", "s.json", "--plot", "s.svg")
    status, out, _ = run("simulate", "spectrum", *words)
    assert status == 0 and out.startswith("2 matrices 60×60, entries of variance 1/60, 4 draws, seed 7\n")
    data = json.loads((tmp_path / "s.json").read_text())
    assert data["kolmogorov_distance"] < 0.05 and len(data["log_singular_values"]) == 4
    assert data["edge"] == pytest.approx((27 / 4) ** 0.5) and data["zeros"] == 0


def test_simulate_spectrum_of_one_rectangular_matrix(run, tmp_path):
    """Marchenko–Pastur of 90 rows and 60 columns: a third of the values zero, and the edge (1 + √1.5)."""
    status, out, _ = run("simulate", "spectrum", "--ratio", "1.5", "--size", "60", "--trials", "4", "--json", "s.json")
    assert status == 0 and out.startswith("matrix 90×60, entries of variance 1/60, 4 draws, seed 0\n")
    data = json.loads((tmp_path / "s.json").read_text())
    assert data["kolmogorov_distance"] < 0.03 and data["edge"] == pytest.approx(1 + 1.5**0.5)
    assert data["zeros"] == 0 and len(data["log_singular_values"][0]) == 60


def test_simulate_spectrum_of_networks(run, tmp_path):
    """The Kolmogorov distance of 10 draws of a ReLU network is 0.02; 0.05 would be another law."""
    words = ("--depth", "2", "--width", "100", "--json", "s.json", "--plot", "s.png")
    status, out, _ = run("simulate", "spectrum", *words)
    data = json.loads((tmp_path / "s.json").read_text())
    assert status == 0 and "Jacobian of input 100; 2 × [Dense(100, he_normal), relu]" in out
    assert 0.45 < data["zeros"] < 0.6 and None in data["log_singular_values"][0]
    assert data["kolmogorov_distance"] < 0.05 and data["edge"] == pytest.approx(11.090170**0.5)
    image = ("--architecture", "cnn", "--depth", "2", "--channels", "3", "--image", "1,4,4", "--trials", "2")
    status, out, _ = run("simulate", "spectrum", *image, "--plot", "s.png")
    assert status == 0 and "no law: not available because the input has shape (1, 4, 4)" in out


def test_crosscheck_on_real_images(run, tmp_path):
    pytest.importorskip("torch")
    words = ("--depth", "5", "--width", "32", "--input-width", "64", "--trials", "40", "--json", "c.json")
    status, out, _ = run("crosscheck", *words, "--plot", "c.png")
    assert status == 0 and "Theory and measurement agree" in out and "on 1 digits input," in out
    assert json.loads((tmp_path / "c.json").read_text())["agrees"] is True
    status, out, _ = run("crosscheck", *words[:6], "--data", "noise", "--batch", "4", "--trials", "20")
    assert status == 0 and "on 4 noise inputs" in out


def test_crosscheck_on_images_from_a_folder(run, tmp_path):
    """Forty random images of 6×6 bytes in idx format go by the name of their folder, whatever is done to them."""
    pytest.importorskip("torch")
    (tmp_path / "squares").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 6), dtype=np.uint8)
    for name, array in {"images-idx3": pixels, "labels-idx1": np.zeros(40, np.uint8)}.items():
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (tmp_path / "squares" / f"train-{name}-ubyte").write_bytes(header + array.tobytes())
    words = ("crosscheck", "--data", "squares", "--depth", "3", "--width", "32", "--trials", "20", "--json", "c.json")
    status, out, _ = run(*words, "--batch", "3", "--input-width", "36")
    assert status == 0 and "on 3 squares inputs, seed 0" in out
    status, out, _ = run(*words, "--input-width", "192")
    assert status == 0 and "on 1 squares input (enlarged from 6×6 to 8×8, in 3 equal channels), seed 0" in out
    data = json.loads((tmp_path / "c.json").read_text())
    assert (data["data"], data["treatment"]) == ("squares", "enlarged from 6×6 to 8×8, in 3 equal channels")
    status, _, err = run(*words, "--batch", "41", "--input-width", "36")
    assert status == 2 and err == "bntheory: batch must be at most 40, got 41\n"
    (tmp_path / "squares" / "train-labels-idx1-ubyte").unlink()
    status, _, err = run(*words)
    assert (
        status == 2
        and err == "bntheory: squares lacks the file train-labels-idx1-ubyte or train-labels-idx1-ubyte.gz\n"
    )


@pytest.mark.skipif(not idx.FOLDER.is_dir(), reason="to run: apt-get install dataset-fashion-mnist (Debian)")
def test_crosscheck_on_fashion_mnist(run):
    pytest.importorskip("torch")
    words = ("--depth", "5", "--width", "32", "--input-width", "784", "--trials", "40")
    status, out, _ = run("crosscheck", *words, "--data", "fashion-mnist")
    assert status == 0 and "on 1 fashion-mnist input, seed 0" in out and "Theory and measurement agree" in out


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
    "until must be finite and above 0, got 0.0": ("simulate", "growth", "--until", "0", "--depth", "2"),
    "trials must be at least 2, got 1": ("simulate", "growth", "--until", "1", "--trials", "1", "--depth", "2"),
    "dtype must be one of float64, float32; got 'float16'": ("simulate", "growth", "--dtype", "float16"),
    "workers must be at least 1, got 0": ("simulate", "growth", "--workers", "0", "--depth", "2"),
    "did you mean gradients?": ("simulate", "growth", "--quantity", "gradient", "--depth", "2"),
    "--quantity gradients needs --gradients": ("simulate", "growth", "--quantity", "gradients", "--no-gradients"),
    "seed must be at least 0, got -1": ("simulate", "growth", "--seed", "-1", "--depth", "2"),
    "factors must be at least 1, got 0": ("simulate", "spectrum", "--factors", "0"),
    "size must be at least 1, got 0": ("simulate", "spectrum", "--size", "0"),
    "ratio must be finite and above 0, got -1": ("simulate", "spectrum", "--ratio", "-1"),
    "rows must be at least 1, got 0": ("simulate", "spectrum", "--ratio", "0.001", "--size", "100"),
    "--ratio is one rectangular matrix": ("simulate", "spectrum", "--ratio", "2", "--factors", "2"),
    "layer 1 (BatchNorm) is not supported": ("simulate", "spectrum", "--depth", "2", "--batch-norm"),
    "--factors, --size and --ratio are for matrices": ("simulate", "spectrum", "--depth", "2", "--size", "9"),
    "No such command 'grwth'": ("simulate", "grwth"),
    "data must be one of digits, fashion-mnist, noise or an existing folder, got 'cifar'": (
        *("crosscheck", "--data", "cifar"),
    ),
    "images are square": ("crosscheck", "--input-width", "65", "--depth", "2"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_arguments_get_one_line_and_status_2(run, message):
    status, _, err = run(*REFUSED[message])
    assert status == 2 and message in err and err.count("\n") == 1, err
