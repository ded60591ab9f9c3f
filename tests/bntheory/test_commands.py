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
    assert data["gradient_lower"][0] == pytest.approx(growth.gradient_band(0.9)[0][0])
    assert [fact["kind"] for fact in data["findings"]["facts"]] == [fact.kind for fact in growth.findings().facts]
    assert (tmp_path / "g.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.json", "g.png"]  # nothing temporary left


def test_growth_reads_a_description(run, tmp_path):
    net = bn.resnet(8, image=(1, 8, 8))
    (tmp_path / "net.json").write_text(net.to_json())
    status, out, _ = run("growth", "--net", "net.json")
    assert status == 0 and out.startswith(str(net)) and "over 10 layers (population)." in out
    (tmp_path / "net.json").write_text(bn.mlp(2, 5, "tanh", residual=True, input_width=3).to_json())
    status, out, _ = run("growth", "--net", "net.json")
    assert status == 0 and "Residual" in out and "mean-field" in out


SMALL = ("--image", "2,8,8")


@pytest.mark.parametrize(
    ("words", "net"),
    [
        (("--depth", "2", "--width", "4"), bn.mlp(2, 4)),
        (("--depth", "3"), bn.mlp(3, 512)),
        (
            ("--depth", "2", "--width", "4", "--layer-norm", "--output-width", "3", "--input-width", "5"),
            bn.mlp(2, 4, layer_norm=True, output_width=3, input_width=5),
        ),
        (
            ("--architecture", "cnn", "--depth", "2", "--channels", "3", "--kernel", "5", "--bias", "0.1", *SMALL),
            bn.cnn(2, 3, bias=0.1, kernel=5, image=(2, 8, 8)),
        ),
        (
            ("--architecture", "vgg", "--depth", "11", "--channels", "2", "--gain", "1.2", "--classes", "4", *SMALL),
            bn.vgg(11, channels=2, init=bn.initialization("he_normal", 1.2), classes=4, image=(2, 8, 8)),
        ),
        (
            ("--architecture", "resnet", "--depth", "8", "--shortcut", "zero-pad", "--activation", "tanh", *SMALL),
            bn.resnet(8, shortcut="zero-pad", activation="tanh", image=(2, 8, 8)),
        ),
    ],
    ids=str,
)
def test_options_are_the_arguments_of_the_architecture(run, words, net):
    status, out, err = run("growth", *words)
    assert (status, err) == (0, "") and out.splitlines()[0] == str(net)


def test_defaults_are_those_of_the_architecture(monkeypatch):
    from bntheory.commands import described_network

    assert described_network({}, None) == bn.mlp(100, 512)
    assert described_network({}, 64) == bn.mlp(100, 512, input_width=64)
    for name in ("cnn", "vgg", "resnet"):
        assert described_network({"architecture": name}, 64) == getattr(bn, name)()


def test_batch_and_quantity(run, tmp_path):
    words = ("--depth", "30", "--width", "64", "--batch-norm", "--batch", "8", "--json", "g.json")
    for quantity in ("channels", "gradients"):
        status, out, _ = run("growth", *words, "--plot", f"{quantity}.png", "--quantity", quantity)
        assert status == 0 and "λ = 1.79 a layer at 8 numbers a unit" in out
        assert (tmp_path / f"{quantity}.png").read_bytes()[:4] == b"\x89PNG"
    facts = {fact["kind"]: fact for fact in json.loads((tmp_path / "g.json").read_text())["findings"]["facts"]}
    assert facts["gradients"]["problem"] and facts["gradients"]["log_per_layer"] == pytest.approx(0.581, abs=0.01)


def test_a_band_without_a_law_is_measured_elsewhere(run):
    words = ("growth", "--depth", "3", "--width", "16", "--init", "orthogonal", "--level", "0.8")
    advice = "bntheory simulate growth measures it."
    assert run(*words)[1].splitlines()[-1] == f"No law for the 80% band of activations: {advice}"
    _, out, _ = run(*words, "--quantity", "gradients")
    assert out.splitlines()[-1] == f"No law for the 80% band of activations and gradients: {advice}"
    words = ("growth", "--architecture", "cnn", "--depth", "2", "--channels", "8", "--image", "1,6,6")
    _, out, _ = run(*words, "--quantity", "gradients")
    assert out.splitlines()[-1] == f"No law for the 90% band of gradients: {advice}"
    assert "No law" not in run(*words)[1]


def test_a_description_comes_alone(run, tmp_path):
    (tmp_path / "net.json").write_text(bn.mlp(2, 4).to_json())
    for words in (("--depth", "3"), ("--batch-norm",), ("--architecture", "mlp", "--image", "3,8,8")):
        status, _, err = run("growth", "--net", "net.json", *words)
        assert status == 2 and "--net describes the whole network: leave out --" in err and words[0] in err


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


def test_spectrum_derived_exactly(run):
    plain, derived = (run("spectrum", "--factors", "5", *flag)[1] for flag in ((), ("--symbolic",)))
    assert derived.startswith(plain) and "P(x, y) = x*y - (y + 1)**6 = 0" in derived
    assert "1, 6, 51, 506, 5481, 62832\nedges: 0, 46656/3125" in derived
    status, out, _ = run("spectrum", "--ratio", "4", "--scale", "0.5", "--symbolic")
    assert status == 0 and "edges: 1/2, 9/2" in out and "moments E x, …, E x^6: 1/2, 5/4," in out
    status, out, _ = run("spectrum", "--depth", "2", "--width", "64", "--symbolic")
    assert status == 0 and "E x^6: 1, 5, 33, 249, 2033, 17485" in out and "edges: 0, (11 + 5*sqrt(5))/2" in out


def test_spectrum_is_drawn_on_the_axis_that_shows_it(run, monkeypatch):
    """Zeros do not count: of a few ReLU layers the singular values, of many their logarithms."""
    views = []
    monkeypatch.setattr("bntheory.plot_spectrum", lambda law, ax, view: views.append(view), raising=False)
    for depth in ("2", "20"):
        assert run("spectrum", "--depth", depth, "--width", "64", "--plot", "s.png")[0] == 0
    assert views == ["singular", "log"]


def test_spectrum_says_where_its_law_is_approximate(run):
    assert "\napproximate: slopes of different blocks" in run("spectrum", "--depth", "2", "--residual")[1]
    assert "approximate" not in run("spectrum", "--depth", "1", "--residual")[1]


def test_spectrum_of_a_network(run, tmp_path):
    status, out, _ = run("spectrum", "--depth", "5", "--width", "64", "--json", "s.json", "--plot", "s.png")
    assert status == 0 and "5 × [Dense(64, he_normal), relu]" in out
    assert "atom of mass 0.5 at x = 0" in out and "largest singular value 5.22233" in out
    data = json.loads((tmp_path / "s.json").read_text())
    law = bn.jacobian_law(bn.mlp(5, 64))
    assert [math.exp(value) for value in data["log_moments"][:2]] == pytest.approx([1, 11])
    assert data["atoms"] == [[0, 0.5]] and data["log_x"][0] is None
    assert data["log_x"][4:] == pytest.approx(law.log.ppf(data["level"][4:]))
    status, out, _ = run("spectrum", "--depth", "1", "--width", "8", "--init", "orthogonal")
    assert status == 0 and "atom of mass 0.5 at x = 1" in out and "largest singular value 1\n" in out


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
    "gain must be finite and above 0, got 0.0": ("growth", "--gain", "0"),
    "gain must be between 1e-100 and 1e100, got 1e+200": ("growth", "--gain", "1e200"),
    "bias must be finite and at least 0, got nan": ("growth", "--bias", "nan"),
    "bias must be finite and at least 0, got inf": ("growth", "--bias", "inf"),
    "architecture must be one of mlp, cnn, vgg, resnet; got 'vg' (did you mean vgg?)": (
        "growth",
        "--architecture",
        "vg",
    ),
    "--width does not belong to --architecture vgg": ("growth", "--architecture", "vgg", "--width", "3"),
    "--shortcut does not belong to --architecture mlp": ("growth", "--shortcut", "projection"),
    "--bias does not belong to --architecture resnet": ("growth", "--architecture", "resnet", "--bias", "0.1"),
    "--layer-norm does not belong to --architecture cnn": ("growth", "--architecture", "cnn", "--layer-norm"),
    "got batch_norm=True and layer_norm=True": ("growth", "--batch-norm", "--layer-norm"),
    "'3x3' must be channels,height,width": ("growth", "--architecture", "cnn", "--image", "3x3"),
    "'3,8' must be channels,height,width": ("growth", "--architecture", "cnn", "--image", "3,8"),
    "image must be at least 1, got 0": ("growth", "--architecture", "vgg", "--image", "3,0,8"),
    "layer 2: Conv(64, 8×8, he_normal) reaches over 8 positions, got a side of 1": (
        *("growth", "--architecture", "cnn", "--kernel", "8", "--image", "3,2,2"),
    ),
    "depth of a VGG network must be 11, 13, 16 or 19, got 20": ("growth", "--architecture", "vgg", "--depth", "20"),
    "must be 6 n + 2, got 100; the nearest is 98": ("growth", "--architecture", "resnet", "--depth", "100"),
    "shortcut must be one of projection, zero-pad": ("growth", "--architecture", "resnet", "--shortcut", "none"),
    "distances between 10000 positions are too many": ("growth", "--architecture", "cnn", "--image", "3,100,100"),
    "batch must be at least 1, got 0": ("growth", "--batch", "0"),
    "BatchNorm needs a batch of at least 2, got 1": ("growth", "--batch-norm", "--batch", "1"),
    "quantity must be one of activations, channels, gradients; got 'weights'": ("growth", "--quantity", "weights"),
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
    "factors must be at most 100, got 101": ("spectrum", "--factors", "101", "--symbolic"),
    "factors must be at most 100, got 102": ("spectrum", "--depth", "51", "--width", "8", "--symbolic"),
    "no exact derivation because of row 1 (tanh)": ("spectrum", "--depth", "2", "--activation", "tanh", "--symbolic"),
    "scale": ("spectrum", "--scale", "nan"),
    "ratio": ("spectrum", "--ratio", "-1"),
    "not available because of row 1 (BatchNorm)": ("spectrum", "--depth", "2", "--batch-norm"),
    "leave them out with a network": ("spectrum", "--ratio", "2", "--depth", "2"),
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


def test_a_folder_that_takes_no_files_is_refused_before_any_work(run, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    status, _, err = run("growth", "--depth", "100000000", "--json", "numbers.json")
    assert status == 2 and "cannot write 'numbers.json': no files may be made in '.'" in err


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


def test_growth_without_covariances(run):
    """The way out of an image with too many positions."""
    large = ("growth", "--architecture", "cnn", "--depth", "2", "--channels", "4", "--image", "1,80,80")
    status, _, err = run(*large)
    assert status != 0 and "covariances=False" in err
    status, out, _ = run(*large, "--no-covariances")
    net = bn.cnn(2, 4, image=(1, 80, 80))
    assert status == 0 and bn.predict_growth(net, covariances=False).table() in out


def test_growth_refuses_a_description_that_is_not_text(run, tmp_path):
    (tmp_path / "net.bin").write_bytes(b"\xff\xfe\x00\x80")
    status, _, err = run("growth", "--net", "net.bin")
    assert status != 0 and "net.bin" in err and "not text" in err


def test_what_an_architecture_takes_includes_the_gain(run):
    status, _, err = run("growth", "--kernel", "3")
    assert status != 0 and "--architecture mlp, which takes" in err and "--gain" in err
