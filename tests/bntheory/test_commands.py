"""The program as its users call it: what it prints, writes and refuses."""

import json
import math
import subprocess
import sys

import pytest

import bntheory as bn


def test_growth_prints_what_the_library_predicts(run, tmp_path):
    status, out, err = run("growth", "--depth", "100", "--width", "128", "--json", "g.json", "--plot", "g.png")
    assert (status, err) == (0, "")
    growth = bn.predict_growth(bn.mlp(100, 128))
    assert growth.table() in out and growth.verdict() in out
    assert "between -5.292 and 1.306" in out  # the 90% band at depth 100
    data = json.loads((tmp_path / "g.json").read_text())
    assert data["log_growth_mean"] == growth.log_growth_mean.tolist()
    assert data["upper"][-1] == pytest.approx(growth.band(0.9)[1][-1])
    assert (tmp_path / "g.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.json", "g.png"]  # nothing temporary left


def test_growth_reads_a_description(run, tmp_path):
    (tmp_path / "net.json").write_text(bn.resnet(20, batch_norm=True).to_json())
    status, out, _ = run("growth", "--net", "net.json")
    assert status == 0
    assert "No rule for Conv(16, 3×3" in out
    (tmp_path / "net.json").write_text(bn.mlp(2, 5, "tanh", residual=True, input_width=3).to_json())
    status, out, _ = run("growth", "--net", "net.json")
    assert status == 0 and "Residual" in out and "mean-field" in out


def test_gain_bias_and_activation_reach_the_prediction(run, tmp_path):
    words = ("--depth", "3", "--width", "8", "--activation", "leaky_relu(0.2)", "--gain", "1.5", "--bias", "0.1")
    run("growth", *words, "--init", "lecun_normal", "--json", "g.json")
    data = json.loads((tmp_path / "g.json").read_text())
    q = 1.0
    for _ in range(3):
        q = (1.5**2 * q + 0.1) * (1 + 0.2**2) / 2
    assert data["log_second_moment"][-1] == pytest.approx(math.log(q), rel=1e-12)


def test_spectrum_prints_edge_and_quantiles(run, tmp_path):
    status, out, _ = run("spectrum", "--factors", "5", "--json", "s.json", "--plot", "s.pdf")
    assert status == 0 and "largest singular value 3.86393" in out
    data = json.loads((tmp_path / "s.json").read_text())
    law = bn.FussCatalan(5)
    assert law.log.cdf(data["log_x"]) == pytest.approx(data["level"], rel=1e-9)
    assert (tmp_path / "s.pdf").read_bytes()[:4] == b"%PDF"
    status, out, _ = run("spectrum", "--ratio", "4")
    assert status == 0 and "atom of mass 0.75 at x = 0" in out and "largest singular value 3\n" in out
    assert run("spectrum", "--factors", "1000000")[0] == 0


def test_phase_names_the_critical_gain(run, tmp_path):
    status, out, _ = run("phase", "--activation", "tanh", "--json", "p.json", "--plot", "p.png")
    assert status == 0 and "critical gain σ_w = 1: σ_w² = 1 at σ_b² = 0" in out
    data = json.loads((tmp_path / "p.json").read_text())
    assert data["critical_gain"] == pytest.approx(1.0) and data["regime"] == "critical"
    status, out, _ = run("phase", "--activation", "gelu")
    assert status == 0 and "not reached from variance 1, which diverges" in out
    status, out, _ = run("phase", "--activation", "softplus", "--weight-variance", "1")
    assert status == 0 and "softplus has no critical gain" in out and "ordered" in out


REFUSED = {
    "depth must be at least 1, got 0": ("growth", "--depth", "0"),
    "width must be at least 1, got -3": ("growth", "--width", "-3"),
    "'x' is not a valid integer": ("growth", "--depth", "x"),
    "gain must be finite and above 0, got nan": ("growth", "--gain", "nan"),
    "gain must be finite and above 0, got inf": ("growth", "--gain", "inf"),
    "bias must be finite and at least 0, got -1.0": ("growth", "--bias", "-1"),
    "did you mean 'relu'": ("growth", "--activation", "rleu"),
    "did you mean he_normal?": ("growth", "--init", "he_norml"),
    "level must be in (0, 1), got 1.5": ("growth", "--level", "1.5"),
    "No such file or directory: missing.json": ("growth", "--net", "missing.json"),
    "'g.xyz' must end in .png, .pdf, .svg": ("growth", "--plot", "g.xyz"),
    "cannot write 'no/such/folder.json': there is no folder 'no/such'": ("growth", "--json", "no/such/folder.json"),
    "factors must be at least 1, got 0": ("spectrum", "--factors", "0"),
    "scale": ("spectrum", "--scale", "nan"),
    "ratio": ("spectrum", "--ratio", "-1"),
    "--ratio is for one matrix, got --factors 3": ("spectrum", "--ratio", "2", "--factors", "3"),
    "weight_variance must be finite and above 0, got 0.0": ("phase", "--weight-variance", "0"),
    "bias_variance must be finite and at least 0, got -1.0": ("phase", "--bias-variance", "-1"),
    "softplus has no critical gain": ("phase", "--activation", "softplus"),
    "'' must be the name of a file": ("growth", "--json", ""),
    "'.' must be the name of a file": ("growth", "--plot", "."),
    "width must be at most 1,000,000,000, got 1000000000000": ("growth", "--width", "1000000000000"),
    "depth must be at most 1,000,000, got 100000000": ("growth", "--depth", "100000000"),
    "No such command 'grow'": ("grow",),
    "No such option '--dept'": ("growth", "--dept", "3"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_arguments_get_one_line_and_status_2(run, message, tmp_path):
    status, _, err = run(*REFUSED[message])
    assert status == 2
    assert message in err and err.count("\n") == 1 and err.startswith("bntheory"), err
    assert not list(tmp_path.iterdir())


def test_a_refused_description_file_is_named(run, tmp_path):
    (tmp_path / "net.json").write_text('{"type": "Sequentiel"}')
    status, _, err = run("growth", "--net", "net.json")
    assert status == 2 and "did you mean Sequential?" in err and err.count("\n") == 1


def test_the_installed_program_refuses_without_a_traceback():
    code = "from bntheory.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "growth", "--depth", "0"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "bntheory: depth must be at least 1, got 0\n")


@pytest.mark.parametrize("words", [(), ("simulate",)])
def test_without_a_command_the_help_is_shown_as_it_is(run, words):
    status, out, _ = run(*words)
    assert status == 2 and out.startswith("Usage: bntheory") and "\n  growth " in out
