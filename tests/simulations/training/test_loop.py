"""The loop: what it learns, that it is repeated, killed and resumed to the same bits, and what divergence leaves."""

import dataclasses
import functools
import math
import os
import random
import struct
import subprocess
import sys

import numpy as np
import pytest

import bntheory as bn

torch = pytest.importorskip("torch")

from simulations.training import batches, checkpoints, devices, loop  # noqa: E402
from simulations.training.datasets import idx  # noqa: E402
from simulations.training.divergence import first_not_finite  # noqa: E402
from simulations.training.modules import build  # noqa: E402
from simulations.training.probes import PROBES  # noqa: E402
from simulations.training.recipe import Recipe  # noqa: E402

MLP = Recipe(bn.mlp(2, 32, input_width=64, output_width=10), learning_rate=0.05, epochs=4)
RESNET = Recipe(bn.resnet(8, batch_norm=True, image=(3, 8, 8)), epochs=2, batch_size=256)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(folder):
    return checkpoints.read(folder / checkpoints.NAME)["model"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_loop_is_momentum_descent_on_the_cross_entropy(tmp_path):
    """The same in NumPy: one dense layer, its gradient written out."""
    net = bn.Sequential((bn.Dense(10, "lecun_normal", bias=0.1),), (64,))
    recipe = Recipe(net, learning_rate=0.1, epochs=4, weight_decay=0.01, momentum=0.8)
    history = loop.train(recipe, tmp_path)
    learn, _ = batches.examples(recipe, "cpu")
    first = build(net, recipe.seed)[0]
    weight, bias = (tensor.detach().double().numpy() for tensor in (first.weight, first.bias))
    velocity, losses = [np.zeros_like(weight), np.zeros_like(bias)], []
    for epoch in range(4):
        order = batches.order(recipe, epoch, len(learn))[0]
        for step in range(11):
            images, labels = (part.numpy() for part in learn.batch(order[128 * step : 128 * (step + 1)]))
            logits = images @ weight.T + bias
            logits -= logits.max(axis=1, keepdims=True)
            shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            losses.append(-np.log(shares[np.arange(128), labels]).mean())
            error = (shares - np.eye(10)[labels]) / 128
            gradients = error.T @ images + 0.01 * weight, error.sum(axis=0) + 0.01 * bias
            velocity = [0.8 * before + new for before, new in zip(velocity, gradients, strict=True)]
            rate = recipe.rate_at(11 * epoch + step, 44)
            weight, bias = weight - rate * velocity[0], bias - rate * velocity[1]
    np.testing.assert_allclose(history.losses, losses, rtol=1e-5)
    np.testing.assert_allclose(weights(tmp_path)["0.weight"], weight, atol=1e-5)
    np.testing.assert_allclose(weights(tmp_path)["0.bias"], bias, atol=1e-5)


def test_channels_last_changes_the_layout_and_rounding_only():
    net = bn.resnet(8, batch_norm=True, image=(3, 8, 8))
    recipe, (plain, other) = Recipe(net, seed=3), (build(net, 3) for _ in range(2))
    other = devices.put(other, "cpu")
    images, labels = batches.examples(recipe, "cpu")[0].batch(torch.arange(32))
    outputs = [model(images) for model in (plain, other)]
    for each in outputs:
        torch.nn.functional.cross_entropy(each, labels).backward()
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)
    for one, another in zip(plain.parameters(), other.parameters(), strict=True):
        assert one.dim() < 4 or another.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(one.grad, another.grad, rtol=0, atol=1e-4)


def test_a_network_with_batch_norm_learns_digits():
    history = loop.train(dataclasses.replace(RESNET, epochs=6, batch_size=64))
    assert history.outcome == "trained"
    assert history.epochs[-1]["test_accuracy"] > 0.9
    assert [epoch["learning_rate"] for epoch in history.epochs] == pytest.approx([0.1] * 3 + [0.01] * 2 + [0.001])


def test_batch_norm_bears_a_learning_rate_at_which_the_plain_network_diverges():
    plain, normed = (
        Recipe(bn.mlp(10, 64, input_width=64, output_width=10, batch_norm=norm), learning_rate=1.0, epochs=8)
        for norm in (False, True)
    )
    assert loop.train(plain).outcome == "diverged"
    assert loop.train(normed).epochs[-1]["test_accuracy"] > 0.9


def test_epoch_results_are_those_of_the_network():
    """Tested once more by hand, in evaluation mode, from the checkpoint."""
    history = loop.train(MLP)
    again = loop.train(MLP)
    assert history.losses == again.losses
    assert history.epochs[0]["train_loss"] == pytest.approx(np.mean(history.losses[:11]))


def test_test_accuracy_is_that_of_the_checkpoint(tmp_path):
    history = loop.train(RESNET, tmp_path)
    model, read = checkpoints.load_model(tmp_path)
    _, test = batches.examples(RESNET, "cpu")
    images, labels = test.batch(torch.arange(len(test)))
    with torch.no_grad():
        correct = (model.eval()(images).argmax(1) == labels).double().mean()
    assert history.epochs[-1]["test_accuracy"] == pytest.approx(correct.item())
    assert read.losses == history.losses and read.recipe == RESNET


def test_probes_see_every_batch_they_should_and_change_nothing(tmp_path):
    seen = []

    def probe(model, images, labels):
        seen.append(images.shape)
        torch.rand(1)  # which would change Dropout's masks were it not undone
        return {"norm": float(sum(tensor.detach().square().sum() for tensor in model.parameters()))}

    net = bn.Sequential((bn.Dense(32), bn.Activation("relu"), bn.Dropout(0.3), bn.Dense(10)), (64,))
    recipe = dataclasses.replace(MLP, net=net)
    plain, probed = tmp_path / "plain", tmp_path / "probed"
    loop.train(recipe, plain)
    history = loop.train(recipe, probed, probes={"norm": probe}, probe_every=5)
    assert same(weights(plain), weights(probed))
    assert [found["step"] for found in history.probes] == list(range(0, 44, 5)) and len(seen) == 9
    assert history.probes[0]["result"]["norm"] > 0


def test_a_run_with_all_probes_is_the_run_without(tmp_path):
    """Weights, velocities, running statistics, masks of Dropout; between two of its steps."""
    layers = (bn.Dense(16), bn.BatchNorm(), bn.Activation("relu"), bn.Dropout(0.3), bn.Dense(10))
    recipe = dataclasses.replace(MLP, net=bn.Sequential(layers, (64,)), epochs=1)
    fewer = {
        "moments_along_step": {"step": 1.0, "fractions": [0, 1]},
        "loss_along_step": {"steps": [0.1]},
        "stable_step": {"iterations": 2, "tolerance": 1.0},
    }
    chosen = {name: functools.partial(probe, **fewer.get(name, {})) for name, probe in PROBES.items()}
    loop.train(recipe, tmp_path / "plain")
    history = loop.train(recipe, tmp_path / "probed", probes=chosen, probe_every=6)
    assert [found["name"] for found in history.probes] == 2 * list(PROBES)
    plain, probed = (checkpoints.read(tmp_path / name / checkpoints.NAME) for name in ("plain", "probed"))
    assert same(plain["model"], probed["model"]) and plain["history"].losses == probed["history"].losses
    assert torch.equal(plain["random"]["cpu"], probed["random"]["cpu"])
    for one, other in zip(*(state["optimizer"]["state"].values() for state in (plain, probed)), strict=True):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    loop.train(dataclasses.replace(MLP, epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


# one process loads torch and computes nothing with it, so that it can fork those that are killed
SCRIPT = """
import os, pathlib, random, signal, sys, time
import torch
import torch._dynamo  # takes a second; every child would import it, with its optimizer
import bntheory as bn
from simulations.training import batches, loop
from simulations.training.recipe import Recipe

layers = (bn.Conv(4, 3, padding=1), bn.BatchNorm(), bn.Activation("relu"), bn.Dropout(0.2), bn.Flatten(), bn.Dense(10))
recipe = Recipe(bn.Sequential(layers, (1, 8, 8)), epochs=4, augment=True)
torch.set_num_threads(1)
batches.examples(recipe, "cpu")  # loads what is needed, before there are children


def start(folder):
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        slow = {"slow": lambda *_: time.sleep(0.003)}
        loop.train(recipe, folder, resume=True, save_every=0, probes=slow, probe_every=1)
        os._exit(0)
    return child

whole, killed = (pathlib.Path(sys.argv[1]) / name for name in ("whole", "killed"))
assert os.waitpid(start(whole), 0)[1] == 0
checkpoint, rng = killed / "checkpoint.pt", random.Random(1)
for _ in range(5):
    child, before = start(killed), checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
        time.sleep(0.001)  # until it goes on
    time.sleep(rng.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it was over before it could be killed"
assert os.waitpid(start(killed), 0)[1] == 0
"""


def test_killed_at_five_random_moments_and_resumed(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment, check=True, timeout=300)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    histories = [checkpoints.read(tmp_path / name / checkpoints.NAME)["history"] for name in ("whole", "killed")]
    assert histories[0].losses == histories[1].losses and len(histories[0].losses) == 44
    for one, other in zip(histories[0].epochs, histories[1].epochs, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_a_finished_run_that_is_resumed_is_as_it_was(tmp_path):
    history = loop.train(MLP, tmp_path)
    result = tmp_path / loop.RESULT
    written = result.read_text()
    result.unlink()  # as if it had been killed after its last checkpoint
    again = loop.train(MLP, tmp_path, resume=True)
    assert again.losses == history.losses and again.finished and result.read_text() == written


def test_divergence_is_a_result(tmp_path):
    recipe = dataclasses.replace(MLP, learning_rate=1e4)
    history = loop.train(recipe, tmp_path)
    assert history.outcome == "diverged" and not history.epochs
    found = history.divergence
    assert found.step == len(history.losses) - 1 >= 1
    assert not found.loss <= 1000 * history.losses[0]
    assert f"diverged at step {found.step}" in history.verdict()
    again = loop.train(recipe, tmp_path, resume=True)
    assert again.divergence == found or math.isnan(found.loss)


def test_the_row_where_numbers_leave_the_range():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4, bias=False))
    images = torch.ones(2, 4)
    assert first_not_finite(model, images) == ""
    torch.nn.init.constant_(model[2].weight, 1e38)
    torch.nn.init.constant_(model[0].bias, 100.0)
    assert first_not_finite(model, images) == "2"
    model[0].weight.data[0, 0] = math.nan
    assert first_not_finite(model, images) == "0.weight"


def test_guessing_is_not_called_trained():
    net = bn.mlp(2, 32, init=bn.initialization("he_normal", gain=3.0), input_width=64, output_width=10)
    recipe = Recipe(net, learning_rate=1e-9, epochs=1)
    assert loop.train(recipe).outcome == "stuck"


def test_folders_that_are_refused(tmp_path):
    loop.train(dataclasses.replace(MLP, epochs=1), tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds a run already: continue it with --resume"):
        loop.train(dataclasses.replace(MLP, epochs=1), tmp_path / "run")
    with pytest.raises(ValueError, match=r"is of another run: epochs 1 became 4. Start in another folder"):
        loop.train(MLP, tmp_path / "run", resume=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file: a run needs a folder"):
        loop.train(MLP, tmp_path / "file")
    with pytest.raises(ValueError, match=r"is not the folder of a run: it has no checkpoint.pt but file, run"):
        loop.train(MLP, tmp_path)


def test_damaged_checkpoints_are_refused(tmp_path):
    loop.train(dataclasses.replace(MLP, epochs=1), tmp_path)
    path = tmp_path / checkpoints.NAME
    whole = path.read_bytes()
    recipe = dataclasses.replace(MLP, epochs=1)
    for bad in (whole[: len(whole) // 2], b"", b"no checkpoint", whole.replace(b"history", b"hystory")):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"damaged|is not a checkpoint"):
            loop.train(recipe, tmp_path, resume=True)
    path.write_bytes(checkpoints.sealed({"format": 2, "model": torch.nn.Linear(2, 2)}))  # which would build a module
    with pytest.raises(ValueError, match="is not a checkpoint of a run, or damaged"):
        loop.train(recipe, tmp_path, resume=True)
    path.write_bytes(whole)
    changed(tmp_path, model={})
    with pytest.raises(ValueError, match="does not fit its own description"):
        loop.train(recipe, tmp_path, resume=True)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    loop.train(dataclasses.replace(MLP, epochs=1), tmp_path / "one")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        loop.train(MLP, tmp_path / "two")
    assert not [path for path in (tmp_path / "two").iterdir() if path.name != "lock"]


def changed(folder, **parts):
    """Write a checkpoint with other parts, which has a checksum too."""
    path = folder / checkpoints.NAME
    path.write_bytes(checkpoints.sealed({**torch.load(path, weights_only=True), **parts}))


def test_every_changed_byte_is_noticed(tmp_path):
    """Which torch itself does not: of a weight it reads another number, and of the archive's own list another file."""
    recipe = dataclasses.replace(MLP, epochs=1)
    loop.train(recipe, tmp_path)
    path, rng = tmp_path / checkpoints.NAME, random.Random(1)
    whole, weight = path.read_bytes(), weights(tmp_path)["0.weight"].numpy().tobytes()
    for place in (whole.index(weight) + 5, 0, len(whole) - 1, *rng.choices(range(len(whole)), k=200)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"damaged .*checksum"):
            checkpoints.read(path)
    path.write_bytes(whole)
    assert torch.load(path, weights_only=True)["format"] == checkpoints.FORMAT


TORN = {
    "losses and results of epochs must be numbers": lambda state: {"epoch": {}},
    "damaged .losses and results": lambda state: {"history": {**state["history"], "losses": "abcdefghijk"}},
    "11 losses after 0 epochs of 2 steps": lambda state: {"history": {**state["history"], "epochs": [], "steps": 2}},
    "does not fit its own description .*RNG state": lambda state: {"random": {"cpu": torch.zeros(3)}},
    r"does not fit its own description .a velocity of shape \(2,\)": lambda state: {
        "optimizer": {**state["optimizer"], "state": {0: {"momentum_buffer": torch.zeros(2)}}}
    },
    "is not a checkpoint of a run in format 2": lambda state: {"format": 1},
    "is of a run on other images: mnist, 11 steps an epoch, SHA-256 .* and .* became digits": lambda state: {
        "history": {**state["history"], "data": "mnist"}
    },
}


@pytest.mark.parametrize("message", TORN)
def test_checkpoints_that_contradict_themselves_are_refused(message, tmp_path):
    recipe = dataclasses.replace(MLP, epochs=1)
    loop.train(recipe, tmp_path)
    changed(tmp_path, **TORN[message](torch.load(tmp_path / checkpoints.NAME, weights_only=True)))
    with pytest.raises(ValueError, match=message) as caught:
        loop.train(recipe, tmp_path, resume=True)
    assert "\n" not in str(caught.value)


def test_a_run_on_images_that_were_altered_is_not_resumed(tmp_path):
    """Of a set that nobody has published; also if only one pixel to test on is another."""
    rng, folder = np.random.default_rng(0), tmp_path / "images"
    folder.mkdir()
    for (images, labels), number in zip(idx.FILES.values(), (256, 64), strict=True):
        for name, shape in ((images, (number, 8, 8)), (labels, (number,))):
            header = struct.pack(f">I{len(shape)}I", 2048 + len(shape), *shape)
            (folder / name).write_bytes(header + rng.integers(10, size=shape, dtype=np.uint8).tobytes())
    recipe = dataclasses.replace(MLP, data=str(folder), epochs=1)
    loop.train(recipe, tmp_path / "run")
    path = folder / idx.FILES["test"][0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"is of a run on other images: .* put them back"):
        loop.train(recipe, tmp_path / "run", resume=True)
    path.write_bytes(whole)
    assert loop.train(recipe, tmp_path / "run", resume=True).finished


def test_a_run_of_another_network_says_what_differs(tmp_path):
    loop.train(dataclasses.replace(MLP, epochs=1), tmp_path)
    for net, message in (
        (bn.mlp(2, 33, input_width=64, output_width=10), r"net.layers.0.features 32 became 33; net.layers.2.features"),
        (bn.mlp(3, 32, input_width=64, output_width=10), "net.layers with 5 entries became one with 7. Start in"),
    ):
        with pytest.raises(ValueError, match=f"is of another run: {message}"):
            loop.train(dataclasses.replace(MLP, net=net, epochs=1), tmp_path, resume=True)


def test_reports_have_no_part_in_the_random_numbers(tmp_path):
    net = bn.Sequential((bn.Dense(32), bn.Activation("relu"), bn.Dropout(0.3), bn.Dense(10)), (64,))
    recipe, seen = dataclasses.replace(MLP, net=net, epochs=2), []

    def report(history):
        seen.append(len(history.epochs))
        torch.rand(7)

    assert loop.train(recipe).losses == loop.train(recipe, report=report).losses
    assert seen == [0, 1, 2]


def test_a_probe_that_raises_is_named_and_the_run_goes_on_without_it(tmp_path):
    def probe(model, images, labels):
        if len(seen) == 3:
            raise RuntimeError("on demand")
        seen.append(1)

    seen = []
    with pytest.raises(RuntimeError, match="on demand") as caught:
        loop.train(MLP, tmp_path / "run", probes={"own": probe}, probe_every=5, save_every=0)
    assert caught.value.__notes__ == ["raised by one of the probes own at step 15"]
    assert loop.train(MLP, tmp_path / "run", resume=True).losses == loop.train(MLP).losses


def test_one_process_at_a_time_and_what_a_killed_one_left(tmp_path):
    """A run inside a run of the same folder is refused; a file that was being written is not read but removed."""

    def second(*_):
        with pytest.raises(ValueError, match="is in use by this process"):
            loop.train(MLP, tmp_path, resume=True)
        return {"refused": 1.0}

    (tmp_path / "checkpoint.pt.unfinished").write_bytes(b"half of a")
    history = loop.train(MLP, tmp_path, probes={"second": second}, probe_every=40)
    assert [found["step"] for found in history.probes] == [0, 40]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "lock", "run.json"]
