import numpy as np
import pytest

from paper_figures import figure5

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def data():
    return figure5.compute(seed=1, depth=20, size=16, images=48, draws=5)


def failures(data):
    return [check.what for check in figure5.check(data) if not check.passed]


def at(law, layers):
    return np.searchsorted(law["layers"], layers)


def test_far_from_borders_the_law_is_that_of_the_walk():
    # ln std and ln mean − 0.635 of W_3, W_9, W_15 and of the walk started anew, to the three digits known
    law = figure5.law(110, size=2**16)
    labels = at(law, [6, 18, 30, 42, 54, 66, 78, 90, 102])
    log_std = [0.026, 0.585, 0.843, *[-0.002, 0.57, 0.833] * 2]
    log_mean = [-0.728, -0.006, 0.304, *[-0.826, -0.029, 0.292] * 2]
    np.testing.assert_allclose(law["log_std"][labels], log_std, atol=1e-3)
    np.testing.assert_allclose(law["log_mean"][labels], log_mean, atol=1e-3)


def test_second_convolutions_read_a_half_normal():
    law = figure5.law(20, size=2**16)
    second = law["log_std"][1::2], law["log_mean"][1::2]
    np.testing.assert_allclose(second[0], np.log(0.5 - 0.5 / np.pi) / 2, atol=1e-3)
    np.testing.assert_allclose(second[1], -np.log(2 * np.pi) / 2 + figure5.LOG_ABS_GAUSSIAN, atol=1e-3)


@pytest.mark.parametrize("stride", [1, 2])
def test_what_padding_leaves_agrees_with_a_convolution(stride):
    channels, side = 1500, 6
    generator = torch.Generator().manual_seed(3)
    x = torch.empty(400, 8, side, side).exponential_(generator=generator)  # mean 1, second moment 2, independent
    weights = torch.randn(channels, 8, 3, 3, generator=generator) / np.sqrt(72)
    output = torch.nn.functional.conv2d(x, weights, stride=stride, padding=1).transpose(0, 1).flatten(1)
    variance, mean = torch.var_mean(output, dim=1, correction=0)
    log_std, log_mean = figure5._conv_output(1.0, 2.0, 1.0, side, stride)
    # relative errors: √(2/72 / channels) and more from the channels' shared inputs; 1.11/√channels of ln|mean|
    assert float(variance.mean().log() / 2) == pytest.approx(log_std, abs=0.02)
    assert float(mean.abs().log().mean()) == pytest.approx(log_mean, abs=4 * 1.11 / np.sqrt(channels))


def test_small_networks_follow_the_law(data):
    assert data["bn"]["log_std"].shape == data["nobn"]["log_mean"].shape == (5, 20)
    assert failures(data) == []


@pytest.mark.parametrize(("name", "shift"), [("log_std", 0.3), ("log_mean", 1.5)])
def test_other_magnitudes_fail(data, name, shift):
    spoiled = {**data, "bn": {**data["bn"], name: data["bn"][name] + shift}}
    assert len(failures(spoiled)) == 2


def test_another_paper_point_fails(data, monkeypatch):
    values = figure5.paper_values()
    values["figure5"]["log_std_bn"][4] += 0.3
    monkeypatch.setattr(figure5, "paper_values", lambda: values)
    assert any("paper" in what for what in failures(data))


def test_measuring_leaves_torch_as_it_was(data):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    figure5.compute(depth=8, size=8, images=8, draws=2)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_three_panels(data):
    assert len(figure5.draw(data).axes) == 3


def test_networks_outside_of_the_band_are_noticed(data):
    wild = {**data["nobn"], "log_rms": data["nobn"]["log_rms"].copy()}
    wild["log_rms"][:, 20 - 9] += 5 * data["predicted"]["spread"][20 - 9]
    assert any("inside the 90% band" in what for what in failures({**data, "nobn": wild}))


def test_networks_whose_rises_are_alike_are_noticed(data):
    """As if what varies from draw to draw were in the first layers alone."""
    sizes = data["nobn"]["log_rms"]
    alike = sizes[:, 5:6] + (sizes - sizes[:, 5:6]).mean(axis=0)
    assert any(
        "variance over networks" in what for what in failures({**data, "nobn": {**data["nobn"], "log_rms": alike}})
    )


def test_networks_without_bn_must_grow(data):
    level = np.zeros_like(data["nobn"]["log_std"])
    for spoiled in (level, level + np.nan):
        assert failures({**data, "nobn": {**data["nobn"], "log_std": spoiled}}) == [
            "without BN, rise of ln std a layer within stages"
        ]
