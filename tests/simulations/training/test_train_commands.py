"""bntheory train and sweep: what they print and write, and what they refuse."""

import json
import signal

import pytest

torch = pytest.importorskip("torch")

from bntheory import layers, networks  # noqa: E402
from simulations.training import checkpoints, loop  # noqa: E402

SMALL = ("--architecture", "mlp", "--depth", "2", "--width", "16", "--epochs", "2", "--learning-rate", "0.05")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_run_is_printed_written_and_resumed(run, tmp_path):
    words = ("train", *SMALL, "--out", "run", "--probe", "logit_gradients", "--probe-every", "20")
    status, out, err = run(*words, "--json", "run.json", "--plot", "run.png")
    assert (status, err) == (0, "") and out.count("\n") == 5
    assert "digits, learning rate 0.05, 2 epochs, cpu" in out and "epoch   2/2" in out and "Test accuracy" in out
    found = json.loads((tmp_path / "run.json").read_text())
    assert found == json.loads((tmp_path / "run" / "run.json").read_text())
    assert [probe["step"] for probe in found["probes"]] == [0, 20] and (tmp_path / "run.png").stat().st_size > 10_000
    status, out, err = run(*words, "--resume")
    assert (status, err) == (0, "") and "epoch" not in out.splitlines()[-1].split("after")[0]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["losses"] == found["losses"]


def test_networks_of_every_kind_fit_the_preset(run, tmp_path):
    """Also --resnet, which says architecture and depth of a preset that has both."""
    for words, first in {
        ("--resnet", "8", "--batch-norm"): "input 3×8×8; Conv(16, 3×3, xavier_normal",
        ("--depth", "8"): "input 3×8×8; Conv(16, 3×3, xavier_normal",
        ("--architecture", "cnn", "--depth", "2", "--channels", "4"): "input 3×8×8; 2 × [Conv(4",
        ("--architecture", "mlp", "--depth", "2", "--width", "4"): "input 64; 2 × [Dense(4",
        ("--net", "net.json"): "input 64; Dense(10",
    }.items():
        (tmp_path / "net.json").write_text(networks.Sequential((layers.Dense(10),), (64,)).to_json())
        status, out, err = run("train", *words, "--epochs", "1", "--batch-size", "700")
        assert (status, err) == (0, "") and out.startswith(first), words
    status, _, err = run("train", "--resnet", "8", "--depth", "8")
    assert status == 2 and "leave out --depth" in err


def test_bfloat16_and_divergence_are_results(run):
    assert run("train", *SMALL, "--precision", "bfloat16")[0] == 0
    status, out, err = run("train", *SMALL[:-1], "1e5")
    assert (status, err) == (0, "") and "The run diverged at step" in out


def test_interrupted_it_says_how_to_continue(run, tmp_path, monkeypatch):
    def interrupt(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop, "_close_epoch", interrupt)
    status, _, err = run("train", *SMALL, "--out", "run")
    assert status == 130 and "continue with: bntheory train" in err and err.rstrip().endswith("--out run --resume")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run("train", *SMALL, "--out", "run", "--resume")[0] == 0


def test_a_full_disk_takes_one_line_and_leaves_nothing_that_is_trusted(run, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    status, _, err = run("train", *SMALL, "--out", "run")
    assert status == 2 and err.startswith("bntheory: No space left on device") and err.count("\n") == 1
    assert not (tmp_path / "run" / checkpoints.NAME).exists()


REFUSED = {
    "learning_rate must be finite and above 0, got 0": (*SMALL, "--learning-rate", "0"),
    "learning_rate must be finite and above 0, got nan": (*SMALL, "--learning-rate", "nan"),
    "batch_size must be at most the number of images, 1437, got 5000": (*SMALL, "--batch-size", "5000"),
    "batch_size must be at least 2 with BatchNorm": (*SMALL, "--batch-norm", "--batch-size", "1"),
    "data must be one of digits": (*SMALL, "--data", "nowhere"),
    "probe must be one of gradient_histogram": (*SMALL, "--probe", "gradients"),
    "raised by one of the probes moments_along_step at step 0": (*SMALL, "--probe", "moments_along_step"),
    "probe_every must be at least 1, got 0": (*SMALL, "--probe-every", "0"),
    "--resume needs the folder of the run": (*SMALL, "--resume"),
    "threads must be at least 1, got 0": (*SMALL, "--threads", "0"),
    "--preset full needs --data FOLDER": ("--preset", "full"),
    "preset must be one of quick, standard, full": ("--preset", "fast"),
    "holds no known set of images": ("--preset", "full", "--data", "."),
    "net must have weights to train": ("--net", "empty.json"),
    "labels of digits must be below the network's 5 outputs, got 0 to 9": ("--net", "few.json"),
    "type must be one of": ("--net", "bad.json"),
    "is not text": ("--net", "bytes.json"),
    "file is a file: a run needs a folder": (*SMALL, "--out", "file"),
}
if not torch.cuda.is_available():
    REFUSED["device 'cuda' is not available"] = (*SMALL, "--device", "cuda")


@pytest.mark.parametrize("message", REFUSED)
def test_what_train_refuses_takes_one_line_and_leaves_nothing(run, tmp_path, message):
    (tmp_path / "empty.json").write_text(networks.Sequential((layers.Flatten(),), (1, 8, 8)).to_json())
    (tmp_path / "few.json").write_text(networks.Sequential((layers.Dense(5),), (64,)).to_json())
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    (tmp_path / "file").write_text("x")
    out_folder = () if "--out" in REFUSED[message] or "--resume" in REFUSED[message] else ("--out", "run")
    status, out, err = run("train", *REFUSED[message], *out_folder, "--json", "refused.json")
    assert status == 2 and message in err and err.count("\n") == 1
    assert "raised by" in message or out == ""
    assert not list(tmp_path.glob("run/*.*")) and not (tmp_path / "refused.json").exists()


GRID = ("--depths", "8", "--epochs", "1", "--seeds", "1", "--learning-rates", "0.1")
REFUSED_SWEEPS = {
    "seeds must be at least 1, got 0": ("--seeds", "0"),
    "must be 6 n + 2, got 9": ("--depths", "9"),
    "--learning-rates must be numbers, got 'x'": ("--learning-rates", "0.1,x"),
    "learning_rate must be finite and above 0, got -1": ("--learning-rates", "-1"),
    "must rise from above 0": ("--learning-rates", "1:0.1:3"),
    "norm must be one of none, all, last": ("--norms", "al"),
    "workers must be at least 1, got 0": ("--workers", "0"),
    "data must be one of digits": ("--data", "nowhere"),
    "batch_size must be at most the number of images": ("--batch-size", "2000"),
    "--preset full needs --data FOLDER": ("--preset", "full"),
    "preset must be one of quick, standard, full": ("--preset", "fast"),
}


@pytest.mark.parametrize("message", REFUSED_SWEEPS)
def test_what_sweep_refuses_before_anything_is_trained(run, tmp_path, message):
    status, out, err = run("sweep", "--out", "sweep", *GRID, *REFUSED_SWEEPS[message])
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1
    assert not (tmp_path / "sweep").exists()


def test_presets_of_sweep_are_those_of_train(monkeypatch, run):
    studies = []

    def stop(study, *_):
        studies.append(study)
        raise OSError(0, "stopped")

    monkeypatch.setattr("simulations.training.sweep.sweep", stop)
    words = ("sweep", "--out", "a", "--preset", "standard", "--data", "noise")
    run(*words)
    run(*words, "--side", "8", "--no-augment", "--depths", "8")
    plain, changed = studies
    names = ("data", "image", "epochs", "augment")
    assert [plain.description[name] for name in names] == ["noise", (3, 32, 32), 15, True]
    assert [changed.description[name] for name in names] == ["noise", (3, 8, 8), 15, False]
    assert (plain.grid["depth"], changed.grid["depth"]) == ((20,), (8,))


def test_the_folder_of_a_run_is_not_that_of_a_sweep(run):
    assert run("train", *SMALL, "--out", "run")[0] == 0
    status, _, err = run("sweep", "--show", "--out", "run")
    assert status == 2 and "is not the folder of a study" in err
    status, _, err = run("sweep", "--out", "run", *GRID)
    assert status == 2 and err.count("\n") == 1
