"""Channel moments against stored activations, the law of the reflected walk, and extreme sizes."""

import math

import numpy as np
import pytest

from bntheory.architectures import resnet
from paper_figures.figure5 import law

torch = pytest.importorskip("torch")
probe = pytest.importorskip("simulations.training.probes.channel_moments")
modules = pytest.importorskip("simulations.training.modules")
nn, channel_moments, build = torch.nn, probe.channel_moments, modules.build


def images(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("dtype, exact", [("float32", 1e-5), ("float64", 1e-11)])
def test_every_row_of_a_network_against_stored_activations(dtype, exact):
    """Walks the modules by hand, without hooks."""
    model = build(resnet(8, batch_norm=True, image=(3, 8, 8)), dtype=dtype)
    batch = torch.from_numpy(images(6, 3, 8, 8)).to(next(model.parameters()))
    found = channel_moments(model, batch, also=["1"])
    kept = {}

    def walk(name, module, h):
        if isinstance(module, modules.Residual):
            h = sum(walk(f"{name}.{part}", getattr(module, part), h) for part in ("branch", "shortcut"))
        elif isinstance(module, nn.Sequential):
            for key, part in module.named_children():
                h = walk(f"{name}.{key}".lstrip("."), part, h)
            return h
        else:
            h = module(h)
        if isinstance(module, (nn.Conv2d, nn.Linear, modules.Residual)) or name == "1":
            kept[name] = h.double().numpy()
        return h

    with torch.no_grad():
        walk("", model, batch)
    assert found.rows == tuple(kept)
    assert [number for number in found.numbers if number] == list(range(1, 9))
    for row, h in enumerate(kept.values()):
        axes = (0, *range(2, h.ndim))
        np.testing.assert_allclose(np.exp(found.log_std[row]), h.std(axis=axes), rtol=exact)
        np.testing.assert_allclose(
            np.exp(found.log_mean[row]), np.abs(h.mean(axis=axes)), rtol=0, atol=exact * h.std(axis=axes).max()
        )
    mean, spread = found.averages("log_std")
    assert (mean[2], spread[2]) == (found.log_std[2].mean(), found.log_std[2].std())


def test_batch_norm_makes_a_reflected_random_walk():
    """Means over 16 networks against the law of figure 5, from layer 6 on.

    Allowed as there: 0.1 a layer for channels that are neither infinitely many nor quite Gaussian, and 4 standard
    errors, which chance alone exceeds in one of 800 comparisons (t of 15 degrees); there are 28.
    """
    net = resnet(20, batch_norm=True, image=(3, 16, 16))
    found = [channel_moments(build(net, draw=draw), images(64, 3, 16, 16, seed=draw)) for draw in range(16)]
    inner = [row for row, number in enumerate(found[0].numbers) if number is not None and 6 <= number < 20]
    expected = law(20, 16)
    for name in ("log_std", "log_mean"):
        draws = np.array([draw.averages(name)[0][inner] for draw in found])
        error = draws.std(axis=0, ddof=1) / 4
        assert np.all(np.abs(draws.mean(axis=0) - expected[name][4:]) < 0.1 + 4 * error)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, h):
        return h + self.norm(self.mix(h))


def test_tokens_have_their_channels_last():
    model = nn.Sequential(Tokens(), Tokens(), nn.Linear(4, 2))
    batch = torch.from_numpy(images(5, 7, 4)).float()
    found = channel_moments(model, batch)
    assert found.rows == ("0.mix", "0", "1.mix", "1", "2") and [len(logs) for logs in found.log_std] == [4, 4, 4, 4, 2]
    np.testing.assert_allclose(np.exp(found.log_std[1]), model[0](batch).detach().numpy().std(axis=(0, 1)), rtol=1e-5)


def test_a_module_that_runs_twice_has_two_rows():
    layer = nn.Linear(3, 3)
    found = channel_moments(nn.Sequential(layer, nn.Tanh(), layer), images(4, 3))
    assert found.rows == ("0", "0 (2)") and found.numbers == (1, 1)


def test_constant_channels_are_dead_and_left_out():
    """A weight of 0: a constant 0.1, which has no exact double, over 1000 positions."""
    layer = nn.Conv1d(1, 3, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.0, 1.0, 2.0])[:, None, None])
        layer.bias.copy_(torch.tensor([0.1, 0.0, 0.0]))
    batch = torch.from_numpy(images(10, 1, 1000)).float()
    found = channel_moments(layer, batch)
    assert found.alive.tolist() == [2] and found.log_std[0][0] == -math.inf
    assert found.log_mean[0][0] == pytest.approx(math.log(0.1), rel=1e-6)
    expected = math.log(float(batch.double().std(correction=0))) + math.log(2) / 2
    assert found.averages("log_std")[0][0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e30, 1e300])
def test_sizes_of_the_whole_range(size):
    layer, batch = nn.Linear(3, 2, bias=False).double(), images(6, 3)
    usual = channel_moments(layer, batch)
    with torch.no_grad():
        layer.weight.mul_(size)
    found = channel_moments(layer, batch)
    np.testing.assert_allclose(found.log_std[0] - usual.log_std[0], math.log(size), atol=1e-10)
    np.testing.assert_allclose(found.log_mean[0] - usual.log_mean[0], math.log(size), atol=1e-10)


def test_what_is_refused():
    batch = images(4, 1, 8, 8)
    with pytest.raises(ValueError, match="Conv2d has no module 'head'"):
        channel_moments(nn.Conv2d(1, 2, 3), batch, also=["head"])
    pool = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, return_indices=True))
    with pytest.raises(TypeError, match="output of 1 must be a real tensor"):
        channel_moments(pool, batch, also=["1"])
