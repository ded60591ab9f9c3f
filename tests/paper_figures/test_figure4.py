import numpy as np
import pytest

from paper_figures import figure4

pytest.importorskip("torch")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def data():
    return figure4.compute(seed=1, depth=8, images=8, layers=(2, 4, 6), points=3, theory_images=4)


def failures(data):
    return [check.what for check in figure4.check(data) if not check.passed]


def growing(data, *factors):
    """Largest variances that grow by these factors, in a loss that diverges."""
    layers = {
        layer: {**data[layer], "variance": np.array([[1.0], [f]])} for layer, f in zip((2, 4, 6), factors, strict=True)
    }
    return {**data, **layers, "log_relative_loss": np.array([0.0, 20.0])}


def test_channels_of_three_layers_are_measured(data):
    assert [data[layer]["variance"].shape for layer in (2, 4, 6)] == [(3, 16), (3, 32), (3, 64)]
    assert data["log_relative_loss"][0] == pytest.approx(0, abs=1e-6)


def test_theory_starts_where_the_network_does(data):
    """Predicted for weights of their sizes and the first images: the network's own variance to its fluctuation."""
    for layer in (2, 4, 6):
        assert np.log(data[layer]["variance"][0].mean()) == pytest.approx(data[layer]["predicted"][0], abs=1.5)


def test_deeper_layers_must_grow_more(data):
    assert failures(growing(data, 10.0, 1e6, 1e15)) == []
    assert failures(growing(data, 10.0, 1e6, 1e5)) != []
    assert failures(growing(data, 1e7, 1e6, 1e15)) != []


def test_a_step_that_does_not_diverge_fails(data):
    assert len(failures({**growing(data, 1.0, 2.0, 3.0), "log_relative_loss": np.array([0.0, 2.0])})) == 1


def test_draws_two_maps_a_layer_and_a_line(data):
    assert len([axes for axes in figure4.draw(data).axes if axes.get_label() != "<colorbar>"]) == 7
