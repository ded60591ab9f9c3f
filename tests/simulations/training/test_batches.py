"""Images on the device: parts, standardisation, order and augmentation."""

import numpy as np
import pytest

import bntheory as bn

torch = pytest.importorskip("torch")

from simulations.training import batches  # noqa: E402
from simulations.training.datasets import digits  # noqa: E402
from simulations.training.recipe import Recipe  # noqa: E402


def recipe(**given):
    return Recipe(bn.resnet(8, image=(3, 8, 8)), **given)


def test_digits_are_divided_without_loss():
    learn, test = batches.examples(recipe(), "cpu")
    images, labels = digits()
    assert (len(learn), len(test)) == (1437, 360)
    whole = np.empty_like(images)
    held = np.arange(len(images)) % 5 == 0
    whole[held], whole[~held] = test.images, learn.images
    np.testing.assert_allclose(whole, images, atol=1e-6)
    np.testing.assert_array_equal(test.labels, labels[held])
    assert np.bincount(test.labels).min() > 20  # of each of ten


def test_a_batch_has_the_shape_of_the_network():
    learn, _ = batches.examples(recipe(), "cpu")
    images, labels = learn.batch(torch.arange(5))
    assert images.shape == (5, 3, 8, 8) and labels.shape == (5,)
    assert torch.equal(images[:, 0], images[:, 2])
    flat = Recipe(bn.mlp(1, 8, input_width=64, output_width=10))
    assert batches.examples(flat, "cpu")[0].batch(torch.arange(5))[0].shape == (5, 64)


def test_the_order_depends_on_seed_and_epoch_alone():
    one, again = (batches.order(recipe(seed=1), 3, 100)[0] for _ in range(2))
    assert torch.equal(one, again) and sorted(one.tolist()) == list(range(100))
    assert not torch.equal(one, batches.order(recipe(seed=1), 4, 100)[0])
    assert not torch.equal(one, batches.order(recipe(seed=2), 3, 100)[0])


def test_augmentation_is_a_crop_of_the_framed_image():
    learn, _ = batches.examples(recipe(augment=True), "cpu")
    chosen, shifts = batches.order(recipe(augment=True), 0, len(learn))
    images, _ = learn.batch(chosen[:64], shifts[:64])
    plain, _ = learn.batch(chosen[:64])
    for image, before, (down, right, flip) in zip(images, plain, shifts[:64].tolist(), strict=True):
        framed = np.pad(before.numpy(), ((0, 0), (4, 4), (4, 4)))
        crop = framed[:, down : down + 8, right : right + 8]
        np.testing.assert_array_equal(image, crop[..., ::-1] if flip else crop)


def test_shifts_are_uniform():
    _, shifts = batches.order(recipe(augment=True), 0, 30_000)
    for column, sides in zip(shifts.T.numpy(), (9, 9, 2), strict=True):
        counts = np.bincount(column, minlength=sides)
        expected = 30_000 / sides
        assert len(counts) == sides
        assert ((counts - expected) ** 2 / expected).sum() < 40  # χ² of at most 8: exceeded once in 300,000


def test_the_test_part_is_standardised_by_what_was_learned_from(monkeypatch):
    from simulations.training.datasets.image_set import ImageSet

    rng = np.random.default_rng(0)
    parts = {
        "train": ImageSet("some", rng.normal(3, 2, (200, 1, 8, 8)), np.arange(200) % 10),
        "test": ImageSet("some", rng.normal(5, 2, (50, 1, 8, 8)), np.arange(50) % 10),
    }
    monkeypatch.setattr(batches, "load", lambda data, part="train", shape=None: parts[part])
    learn, test = batches.examples(recipe(data="folder"), "cpu")
    assert abs(learn.images.mean()) < 1e-5 and abs(learn.images.std() - 1) < 1e-3
    assert abs(test.images.mean() - 1) < 0.1


def test_images_a_little_too_small_are_framed_in_black(monkeypatch):
    from simulations.training.datasets.image_set import ImageSet

    few = ImageSet("few", np.full((20, 1, 28, 28), 7.0) + np.arange(20)[:, None, None, None], np.zeros(20, int))
    monkeypatch.setattr(batches, "load", lambda data, part="train", shape=None: few)
    given = Recipe(bn.resnet(8, image=(3, 32, 32)), data="folder", batch_size=4)
    images = batches.examples(given, "cpu")[0].images
    assert images.shape == (20, 1, 32, 32)
    black = images[0, 0, 0, 0]
    assert (images[:, :, :2] == black).all() and (images[:, :, 2:30, 2:30] > black).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 1438}, "batch_size must be at most the number of images, 1437, got 1438"),
        ({"net": bn.resnet(8, image=(3, 8, 8), classes=9)}, "labels of digits must be below the network's 9 outputs"),
        ({"data": "nowhere"}, "data must be one of digits, fashion-mnist, noise or an existing folder, got 'nowhere'"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        batches.examples(Recipe(**{"net": bn.resnet(8, image=(3, 8, 8)), **given}), "cpu")
