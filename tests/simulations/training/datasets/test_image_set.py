"""Standardising whole sets and parts of them, against NumPy on the whole set at once; and the choice of a batch."""

import numpy as np
import pytest

from simulations.training.datasets import ImageSet, area_average, batch_of, image_set, resize


def random_set(channels, number=11, side=6):
    pixels = np.random.default_rng(5).integers(0, 256, (number, channels, side, side), dtype=np.uint8)
    return ImageSet("random", pixels, np.arange(number))


TREATMENTS = [
    (1, {}),
    (1, {"pad": 2, "channels": 3}),
    (1, {"size": 9, "channels": 2}),
    (1, {"pad": 1, "size": 5}),
    (3, {}),
    (3, {"channels": 1, "size": 4}),
    (3, {"channels": 3, "pad": 1, "size": 8}),
]


@pytest.mark.parametrize(("stored", "words"), TREATMENTS)
@pytest.mark.parametrize("chunk", [3, 1000])
def test_standardised_over_the_whole_set_whatever_is_chosen(monkeypatch, stored, words, chunk):
    monkeypatch.setattr(image_set, "_CHUNK", chunk)
    images, pad = random_set(stored), words.get("pad", 0)
    expected = np.zeros((11, stored, 6 + 2 * pad, 6 + 2 * pad))
    expected[..., pad : 6 + pad, pad : 6 + pad] = images.pixels
    size = words.get("size", 6 + 2 * pad)
    expected = (resize if size > 6 + 2 * pad else area_average)(expected, size)
    if words.get("channels", stored) < stored:
        expected = (expected[:, :1] + expected[:, 1:2] + expected[:, 2:]) / 3
    expected = (expected - expected.mean()) / expected.std()
    expected = expected.repeat(words.get("channels", stored) // expected.shape[1], axis=1)
    whole = images.standardised(**words)
    np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-12)
    for chosen in (np.array([7, 2, 7]), slice(4, 9), np.arange(11) % 2 == 0):
        assert np.array_equal(images.standardised(chosen, **words), whole[chosen])
    rounded = images.standardised(dtype="float32", **words)
    assert rounded.dtype == np.float32 and np.array_equal(rounded, whole.astype(np.float32))


def test_what_cannot_be_standardised_is_said():
    equal = ImageSet("flat", np.full((3, 1, 2, 2), 200, np.uint8), np.arange(3))
    for words in ({}, {"size": 3}, {"size": 1}):
        with pytest.raises(ValueError, match="equal everywhere cannot be standardised, got flat: 3 images of 1×2×2"):
            equal.standardised(**words)
    assert equal.standardised(pad=1).std() == pytest.approx(1)


REFUSED = {
    "channels must be 1 or 3 for images of 3 channels, got 2": {"channels": 2},
    "channels must be at least 1, got 0": {"channels": 0},
    "pad must be at least 0, got -1": {"pad": -1},
    "size must be an integer of at least 1, got 2.5": {"size": 2.5},
    "dtype must be one of float64, float32; got 'float16'": {"dtype": "float16"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_arguments_are_named(message):
    with pytest.raises(ValueError, match=message):
        random_set(3).standardised(**REFUSED[message])


@pytest.mark.parametrize("shape", [(4, 2, 2), (4, 1, 2, 3), (0, 1, 2, 2), (3, 1, 2, 2)])
def test_shapes_are_checked(shape):
    with pytest.raises(ValueError, match=r"pixels must have shape \(number, channels, side, side\)"):
        ImageSet("wrong", np.zeros(shape, np.uint8), np.zeros(4 if shape[0] != 0 else 0, np.int64))


def test_batches_are_deterministic_and_nested():
    images = np.arange(50)[:, None]
    ten, twenty = batch_of(images, 10, seed=3), batch_of(images, 20, seed=3)
    assert np.array_equal(twenty[:10], ten) and len(np.unique(twenty)) == 20
    assert not np.array_equal(ten, batch_of(images, 10, seed=4))
    assert sorted(batch_of(images, 50).ravel()) == list(range(50))


def test_sizes_of_batches_are_checked():
    for size in (0, -3, 2.5, "8", float("nan"), True):
        with pytest.raises(ValueError, match=r"size must be .*got"):
            batch_of(np.zeros(4), size)
    with pytest.raises(ValueError, match="size must be at most the number of images, 4, got 5"):
        batch_of(np.zeros(4), 5)
