"""What runs on a CPU runs on a GPU, to the same numbers; skipped where PyTorch finds none."""

import dataclasses
import json

import numpy as np
import pytest

import bntheory as bn

torch = pytest.importorskip("torch")

import simulations as sim  # noqa: E402
from simulations.training import batches, checkpoints, devices, loop  # noqa: E402
from simulations.training.modules import build  # noqa: E402
from simulations.training.probes import PROBES, STREAMING  # noqa: E402
from simulations.training.recipe import Recipe  # noqa: E402
from simulations.training.sweep import sweep, sweep_study  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU here"),
]
NET = bn.resnet(8, batch_norm=True, image=(3, 8, 8))
RECIPE = Recipe(NET, epochs=3, augment=True)


@pytest.fixture(autouse=True)
def no_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def pair(dtype="float64", net=NET):
    """The same network on the CPU and on the GPU, and a batch."""
    images, labels = batches.examples(RECIPE, "cpu")[0].batch(torch.arange(32))
    models = build(net, seed=1, dtype=dtype), build(net, seed=1, dtype=dtype).cuda()
    return *models, images.double() if dtype == "float64" else images, labels


def test_auto_takes_the_gpu():
    assert devices.resolve("auto") == "cuda"
    assert torch.cuda.get_device_name() == devices.described("cuda")["name"]


def test_training_begins_as_on_the_cpu():
    recipe = dataclasses.replace(RECIPE, learning_rate=0.01, epochs=1)
    here, there = (loop.train(recipe, device=place).losses for place in ("cpu", "cuda"))
    np.testing.assert_allclose(there[:5], here[:5], rtol=1e-3)


def test_interrupted_and_resumed_to_the_same_bits(tmp_path):
    calls = []

    def interrupt(*_):
        calls.append(None)
        if len(calls) in (7, 20):
            raise KeyboardInterrupt

    whole = loop.train(RECIPE, tmp_path / "whole", device="cuda")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            loop.train(RECIPE, tmp_path / "cut", True, "cuda", {"interrupt": interrupt}, probe_every=1, save_every=0)
    history = loop.train(RECIPE, tmp_path / "cut", resume=True, device="cuda")
    assert history.losses == whole.losses
    one, other = (checkpoints.read(tmp_path / name / checkpoints.NAME)["model"] for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_network_learns(precision):
    recipe = dataclasses.replace(RECIPE, epochs=8, batch_size=64, augment=False, precision=precision)
    history = loop.train(recipe, device="cuda")
    assert history.outcome == "trained" and history.epochs[-1]["test_accuracy"] > 0.9


def test_divergence_is_found(tmp_path):
    recipe = dataclasses.replace(RECIPE, net=bn.resnet(20, image=(3, 8, 8)), learning_rate=1e6)
    history = loop.train(recipe, device="cuda")
    assert history.outcome == "diverged" and history.divergence.step < 10


@pytest.mark.parametrize("name", STREAMING)
def test_streaming_probes(name):
    here, there, images, labels = pair(net=bn.resnet(8, image=(3, 8, 8)))  # means behind BatchNorm are rounded zeros
    state = {key: value.clone() for key, value in there.state_dict().items()}
    one = PROBES[name](here, images, labels).to_dict()
    other = PROBES[name](there, images.cuda(), labels.cuda()).to_dict()
    close(one, other)
    assert all(torch.equal(value, state[key]) for key, value in there.state_dict().items())


@pytest.mark.parametrize(
    "name, given", [("loss_along_step", {}), ("moments_along_step", {"step": 0.1}), ("curvature", {})]
)
def test_probes_on_demand(name, given):
    here, there, images, labels = pair()
    one = getattr(sim, name)(here, images, labels, **given).to_dict()
    other = getattr(sim, name)(there, images.cuda(), labels.cuda(), **given).to_dict()
    close(one, other, rtol=1e-3)


def test_theory_gap():
    here, there, images, _ = pair()
    close(sim.theory_gap(here, images).to_dict(), sim.theory_gap(there, images.cuda()).to_dict())


def test_modules_are_predicted_and_measured():
    here, there, images, _ = pair()
    one, other = bn.predict_module(here, images), bn.predict_module(there, images.cuda())
    np.testing.assert_allclose(one.log_second_moment, other.log_second_moment, atol=1e-9)
    one, other = (
        sim.measure_module(model, batch, redraw="none").log_second_moment
        for model, batch in ((here, images), (there, images.cuda()))
    )
    np.testing.assert_allclose(one, other, atol=1e-9)
    assert sim.crosscheck(there, images.cuda(), trials=20).agrees


def test_jacobians():
    here, there, images, _ = pair(net=bn.resnet(8, image=(3, 8, 8)))
    np.testing.assert_allclose(sim.jacobian(here, images[0]), sim.jacobian(there, images[0].cuda()), atol=1e-9)


def test_a_sweep_says_where_it_ran(tmp_path):
    study = sweep_study(
        {"norm": ["all"], "learning_rate": [0.1], "seed": [0]}, "auto", depth=8, image=(3, 8, 8), epochs=1
    )
    found = sweep(study, tmp_path, workers=1)
    assert found.results.study.description["device"] == "cuda" and len(found.runs) == 1
    assert torch.cuda.get_device_name() in json.dumps(found.to_dict())


def close(one, other, rtol=1e-6):
    """Nested plain data are equal but for rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            close(one[key], other[key], rtol)
    elif isinstance(one, list):
        assert len(one) == len(other)
        for mine, yours in zip(one, other, strict=True):
            close(mine, yours, rtol)
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=rtol, abs=1e-9)
    else:
        assert one == other
