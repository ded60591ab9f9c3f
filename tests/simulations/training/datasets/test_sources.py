"""Sets by name and folder, and batches in the shapes that networks take."""

import struct

import numpy as np
import pytest

from simulations import streams
from simulations.training.datasets import ImageSet, area_average, batch_of, digits, images_for, load, resize, sources


@pytest.fixture
def folder(tmp_path):
    """Twenty random 6×6 images in idx format."""
    pixels = np.random.default_rng(3).integers(0, 256, (20, 6, 6), dtype=np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 20, 6, 6) + pixels.tobytes())
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 20) + bytes(range(10)) * 2)
    return tmp_path


def test_digits_by_name():
    pytest.importorskip("sklearn")
    stored = load("digits")
    images, labels = digits()
    assert repr(stored) == "digits: 1797 images of 1×8×8" and stored.pixels.dtype == np.uint8
    assert np.array_equal(stored.standardised(), images) and np.array_equal(stored.labels, labels)
    with pytest.raises(ValueError, match="the digits have no part 'test'"):
        load("digits", "test")


def test_noise_by_name():
    """32,000 pixels and 2000 labels; five standard errors, false alarms below 1e-5."""
    noise = load("noise", shape=(2000, 1, 4, 4), seed=4)
    assert noise.pixels.shape == (2000, 1, 4, 4) and noise.labels.shape == (2000,) and noise.labels.dtype == np.int64
    assert abs(noise.pixels.mean()) < 5 / 32_000**0.5 and abs(noise.pixels.var() - 1) < 5 * (2 / 32_000) ** 0.5
    assert set(noise.labels) == set(range(10)) and abs(noise.labels.mean() - 4.5) < 5 * (8.25 / 2000) ** 0.5
    assert not np.array_equal(noise.labels, streams.input_stream(4).integers(10, size=2000))  # not the pixels' numbers
    again, other = load("noise", shape=(2000, 1, 4, 4), seed=4), load("noise", shape=(2000, 1, 4, 4), seed=5)
    assert np.array_equal(again.pixels, noise.pixels) and np.array_equal(again.labels, noise.labels)
    assert not np.array_equal(other.pixels, noise.pixels) and not np.array_equal(other.labels, noise.labels)


REFUSED = {
    "data must be one of digits, fashion-mnist, noise or an existing folder, got 'cifar'": ("cifar",),
    "or an existing folder, got ''": ("",),
    "or an existing folder, got 5": (5,),
    "part must be one of train, test; got 'valid'": ("digits", "valid"),
    r"shape is for noise, 'digits' has its own: leave it out, got \(1, 1, 8, 8\)": ("digits", "train", (1, 1, 8, 8)),
    r"noise needs shape=\(number, channels, side, side\), got None": ("noise",),
    r"noise needs shape=.*got \(4, 4\)": ("noise", "train", (4, 4)),
    "shape must be at least 1, got 0": ("noise", "train", (4, 0, 2, 2)),
    r"pixels must have shape .*got \(4, 1, 2, 3\)": ("noise", "train", (4, 1, 2, 3)),
    "noise has no part 'test'": ("noise", "test", (4, 1, 2, 2)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_unknown_sets_are_refused(message):
    with pytest.raises(ValueError, match=message):
        load(*REFUSED[message])


def test_folders_without_one_set_are_refused(folder):
    (folder / "empty").mkdir()
    with pytest.raises(
        ValueError, match=r"empty holds no known set of images: looked for train-images-idx3-ubyte\(.gz\)"
    ):
        load(folder / "empty")
    with pytest.raises(ValueError, match=r"data must be a folder with all files of a set, got the file '.*idx3-ubyte'"):
        load(folder / "train-images-idx3-ubyte")
    (folder / "data_batch_1.bin").touch()
    with pytest.raises(
        ValueError, match=r"holds files of several sets, keep one of train-labels-idx1-ubyte, data_batch_1\.bin there"
    ):
        load(folder)


def test_a_folder_may_be_called_like_a_set(folder, monkeypatch):
    folder.rename(folder.parent / "digits")
    monkeypatch.chdir(folder.parent)
    assert load("./digits").pixels.shape == (20, 1, 6, 6)


# -- batches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size", "channels", "treatment"),
    [
        ((64,), 8, 1, ""),
        ((1, 8, 8), 8, 1, ""),
        ((100,), 10, 1, "enlarged from 8×8 to 10×10"),
        ((3, 32, 32), 32, 3, "enlarged from 8×8 to 32×32, in 3 equal channels"),
        ((3072,), 32, 3, "enlarged from 8×8 to 32×32, in 3 equal channels"),
        ((2, 8, 8), 8, 2, "in 2 equal channels"),
    ],
)
def test_batches_of_digits(shape, size, channels, treatment):
    pytest.importorskip("sklearn")
    expected = batch_of(digits(size, channels)[0], 5, seed=7).reshape(5, *shape)
    found = images_for(shape, "digits", 5, 7)
    assert found[:3] == (pytest.approx(expected, abs=0), "digits", treatment)
    assert np.array_equal(found.labels, batch_of(digits()[1], 5, seed=7))


@pytest.mark.parametrize("shape", [(16,), (1, 4, 4)])
def test_batches_of_smaller_images_are_averages(folder, shape):
    pixels = area_average(load(folder).pixels, 4)
    expected = batch_of((pixels - pixels.mean()) / pixels.std(), 20, seed=1).reshape(20, *shape)
    found = images_for(shape, str(folder), 20, 1)
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-12)
    assert found[1:3] == (str(folder), "averaged from 6×6 to 4×4")


@pytest.mark.parametrize(
    ("shape", "channels", "side", "treatment"),
    [
        ((3, 4, 4), 3, 4, ""),
        ((48,), 3, 4, ""),
        ((1, 4, 4), 1, 4, "mean of 3 channels"),
        ((16,), 1, 4, "mean of 3 channels"),
        ((49,), 1, 7, "enlarged from 4×4 to 7×7, mean of 3 channels"),
    ],
)
def test_batches_of_colour_images(monkeypatch, shape, channels, side, treatment):
    pixels = np.random.default_rng(3).integers(0, 256, (9, 3, 4, 4), dtype=np.uint8)
    monkeypatch.setattr(sources, "load", lambda data, part: ImageSet("colours", pixels, np.arange(9)))
    values = resize(pixels if channels == 3 else pixels.sum(axis=1, keepdims=True) / 3, side)
    expected = batch_of((values - values.mean()) / values.std(), 4, seed=2).reshape(4, *shape)
    found = images_for(shape, "a folder", 4, 2)
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-12)
    assert found[1:3] == ("colours", treatment)
    assert np.array_equal(found.labels, batch_of(np.arange(9), 4, seed=2))


def test_batches_are_nested_and_differ_from_seed_to_seed(folder):
    ten, four = images_for((36,), folder, 10, seed=3).values, images_for((36,), folder, 4, seed=3).values
    assert np.array_equal(ten[:4], four) and len(np.unique(ten, axis=0)) == 10
    assert not np.array_equal(ten, images_for((36,), folder, 10, seed=4).values)


@pytest.mark.parametrize("shape", [(7,), (2, 5), (3, 4, 4)])
def test_noise_takes_any_shape(shape):
    expected = streams.input_stream(9).standard_normal((6, *shape))
    found = images_for(shape, "noise", 6, 9)
    assert np.array_equal(found.values, expected) and found[1:3] == ("noise", "")
    assert np.array_equal(found.labels, load("noise", shape=(6, 1, 1, 1), seed=9).labels)


@pytest.mark.parametrize("shape", [(65,), (3, 4, 5), (2, 2), (), (72,)])
def test_shapes_that_are_no_images_are_refused(folder, shape):
    with pytest.raises(ValueError, match=r"images are square: inputs must have shape .*, got \("):
        images_for(shape, folder)


@pytest.mark.parametrize("shape", [(9,), (1, 3, 3), (12,)])
def test_images_are_not_averaged_away(folder, shape):
    with pytest.raises(ValueError, match=r"20 images of 1×6×6 cannot be averaged to .×., at least to 4×4"):
        images_for(shape, folder)


def test_bad_batches_are_named(folder):
    for data in (folder, "noise"):
        with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
            images_for((36,), data, 0)
    with pytest.raises(ValueError, match="batch must be at most 20, got 21"):
        images_for((36,), folder, 21)
