import numpy as np
import pytest

from paper_figures import networks

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")


@pytest.fixture
def digits_only(monkeypatch):
    """A machine without Fashion-MNIST."""
    from simulations.training import datasets

    original = datasets.load

    def load(name, *rest, **more):
        if name == "fashion-mnist":
            raise ValueError("not here")
        return original(name, *rest, **more)

    monkeypatch.setattr(datasets, "load", load)
    networks.image_set.cache_clear()
    yield
    networks.image_set.cache_clear()


def test_digits_take_the_place_of_a_missing_set_and_are_named(digits_only):
    assert networks.batch(4, seed=0).images.shape == (4, 3, 32, 32)
    assert "scikit-learn's digits, 8×8, enlarged to 32×32" in networks.setting(8, 4, 1)


def test_batches_are_standardised_different_and_repeatable():
    first, again, other = (networks.batch(64, seed=3, index=index) for index in (0, 0, 1))
    assert np.array_equal(first.images, again.images) and not np.array_equal(first.images, other.images)
    assert first.images.dtype == np.float32 and abs(first.images.mean()) < 0.3 and abs(first.images.std() - 1) < 0.3
    assert len(networks.batch(4, 0).labels) == 4


def test_every_kind_sees_the_same_draws_in_order():
    found = networks.measured(
        lambda kind, model, images, labels: (kind, images.sum()), [(0, 2), (1, 5)], 8, 4, 0, "cpu"
    )
    sums = [networks.batch(4, 0, number).images.sum() for number in (2, 5)]
    assert found == {kind: [(kind, sums[0]), (kind, sums[1])] for kind in ("nobn", "bn")}


def test_layers_of_a_prediction_and_of_a_module_are_counted_alike():
    from bntheory.networks import leaves
    from simulations.training.modules import build

    net = networks.resnet(20, "bn")
    rows = np.array([row.name for row in leaves(net)])[networks.main_path(leaves(net))]
    model = build(net)
    assert len(rows) == 20 and [networks.layer_of(model, number) for number in (1, 11, 20)] == list(rows[[0, 10, 19]])
