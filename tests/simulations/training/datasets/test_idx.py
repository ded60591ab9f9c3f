"""Files in idx format, written here byte by byte; the genuine Fashion-MNIST where Debian's package is installed."""

import gzip
import hashlib
import struct

import numpy as np
import pytest

from simulations.training.datasets import fashion_mnist, idx, load

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def encoded(array):
    header = b"\0\0\x08" + bytes([array.ndim]) + b"".join(struct.pack(">I", side) for side in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def stored():
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (12, 4, 4)), rng.integers(0, 10, 12)


@pytest.fixture
def folder(tmp_path, stored):
    for name, array in zip((IMAGES, LABELS), stored, strict=True):
        (tmp_path / name).write_bytes(encoded(array))
    return tmp_path


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("packed", [False, True])
def test_files_are_read(tmp_path, stored, part, packed):
    for name, array in zip(idx.FILES[part], stored, strict=True):
        content = encoded(array)
        (tmp_path / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    images = load(tmp_path, part)
    assert images.name == str(tmp_path) and images.pixels.dtype == np.uint8 and images.labels.dtype == np.int64
    assert np.array_equal(images.pixels[:, 0], stored[0]) and np.array_equal(images.labels, stored[1])
    with pytest.raises(ValueError, match="lacks the file " + idx.FILES["test" if part == "train" else "train"][0]):
        load(tmp_path, "test" if part == "train" else "train")


DAMAGE = {  # what becomes of the content of one file, and what is said
    "images truncated": (IMAGES, lambda c: c[:-1], "images-idx3-ubyte is truncated: 1 bytes are missing after 12×4×4"),
    "images too long": (IMAGES, lambda c: c + b"\0\0", "has 2 bytes too many after 12×4×4 numbers were announced"),
    "labels truncated": (LABELS, lambda c: c[:-3], "labels-idx1-ubyte is truncated: 3 bytes are missing"),
    "header only in part": (IMAGES, lambda c: c[:9], "is truncated: 9 bytes, its header alone has 16"),
    "empty": (LABELS, lambda c: b"", "is not in idx format: it begins with nothing, not 00 00"),
    "another format": (IMAGES, lambda c: b"\x89PNG" + c, "is not in idx format: it begins with 89 50 4e 47, not 00 00"),
    "other numbers": (IMAGES, lambda c: b"\0\0\x0d" + c[3:], r"must hold bytes \(type 08\), got type 0d"),
    "dimensions": (
        LABELS,
        lambda c: b"\0\0\x08\x02" + c[4:],
        r"must hold labels \(dimensions: 1\), got something else \(2\)",
    ),
    "labels for images": (
        IMAGES,
        lambda c: encoded(np.zeros(12)),
        r"must hold images \(dimensions: 3\), got labels \(1\)",
    ),
    "images for labels": (
        LABELS,
        lambda c: encoded(np.zeros((12, 4, 4))),
        r"must hold labels \(dimensions: 1\), got images \(3\)",
    ),
    "another number": (LABELS, lambda c: encoded(np.zeros(11)), "holds 12 images but .*idx1-ubyte 11 labels"),
    "label 10": (LABELS, lambda c: c[:-2] + b"\x0a\0", "labels 0 … 9, got 10 at place 10"),
    "not square": (
        IMAGES,
        lambda c: encoded(np.zeros((12, 4, 5))),
        "must hold square images, at least one, got 12 of 4×5",
    ),
    "no pixels": (IMAGES, lambda c: encoded(np.zeros((12, 0, 0))), "at least one, got 12 of 0×0"),
    "huge": (IMAGES, lambda c: b"\0\0\x08\x03" + b"\xff" * 12, "is truncated: 79228162458924105385300197375 bytes are"),
    "the test part": (
        IMAGES,
        lambda c: encoded(np.zeros((10_000, 1, 1))),
        "holds 10000 images, as many as a test part has: files swapped",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named(folder, case):
    name, change, message = DAMAGE[case]
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(ValueError, match=message) as refused:
        load(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "change", [lambda c: c[:-9], lambda c: b"plain", lambda c: c[:30] + b"\xff" * 9 + c[39:], lambda c: b""]
)
def test_damaged_archives_are_named(folder, change):
    (folder / f"{IMAGES}.gz").write_bytes(change(gzip.compress((folder / IMAGES).read_bytes())))
    (folder / IMAGES).unlink()
    with pytest.raises(ValueError, match=f"{IMAGES}.gz (is damaged or not compressed|is not in idx format)"):
        load(folder)


@pytest.fixture
def published(folder, monkeypatch):
    """As if the small files were those of Fashion-MNIST, both parts."""
    for name, test_name in zip(idx.FILES["train"], idx.FILES["test"], strict=True):
        content = (folder / name).read_bytes()
        other = content[:-1] + bytes([9 - content[-1] % 10])
        (folder / test_name).write_bytes(other)
        monkeypatch.setitem(idx._FASHION, name, hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(idx._FASHION, test_name, hashlib.sha256(other).hexdigest())
    return folder


def test_only_the_published_content_is_called_fashion_mnist(published):
    """One altered file is found by the other; if both differ it is another set, and goes by its folder."""
    assert load(published).name == load(published, "test").name == "fashion-mnist"
    images, labels = fashion_mnist(published, pad=2, channels=3)
    assert images.shape == (12, 3, 8, 8) and images.dtype == np.float32 and labels.shape == (12,)
    assert images.mean() == pytest.approx(0, abs=1e-6) and images.var() == pytest.approx(1, abs=1e-6)
    changed = bytearray((published / IMAGES).read_bytes())
    changed[-1] ^= 1
    (published / IMAGES).write_bytes(changed)
    with pytest.raises(ValueError, match=f"{IMAGES} was altered or is of another set: {LABELS} is Fashion-MNIST's"):
        load(published)
    changed = bytearray((published / LABELS).read_bytes())
    changed[-2] = 9 - changed[-2]
    (published / LABELS).write_bytes(changed)
    assert load(published).name == str(published)
    with pytest.raises(ValueError, match="holds another set than Fashion-MNIST"):
        fashion_mnist(published)


def test_swapped_parts_of_fashion_mnist_are_found_by_their_content(published):
    for name, test_name in zip(idx.FILES["train"], idx.FILES["test"], strict=True):
        content = (published / name).read_bytes()
        (published / name).write_bytes((published / test_name).read_bytes())
        (published / test_name).write_bytes(content)
    for part, holds in (("train", "t10k-images"), ("test", "train-images")):
        with pytest.raises(ValueError, match=f"holds {holds}-idx3-ubyte of Fashion-MNIST: files swapped?"):
            load(published, part)


def test_without_debian_s_package_the_error_says_how_to_get_it(monkeypatch, tmp_path, published):
    monkeypatch.setattr(idx, "FOLDER", tmp_path / "nowhere")
    for attempt in (fashion_mnist, lambda: load("fashion-mnist")):
        with pytest.raises(ValueError, match="apt-get install dataset-fashion-mnist"):
            attempt()


def test_altered_files_of_the_package_are_refused(monkeypatch, folder):
    monkeypatch.setattr(idx, "FOLDER", folder)
    for attempt in (fashion_mnist, lambda: load("fashion-mnist")):
        with pytest.raises(ValueError, match=r"does not hold Fashion-MNIST .*: reinstall dataset-fashion-mnist"):
            attempt()


def test_arguments_are_named(folder):
    with pytest.raises(ValueError, match=r"part must be one of train, test; got 'tset' .did you mean test"):
        fashion_mnist(folder, part="tset")


# -- the genuine files -------------------------------------------------------------------------------------------------

genuine = pytest.mark.skipif(not idx.FOLDER.is_dir(), reason="to run: apt-get install dataset-fashion-mnist (Debian)")


@genuine
@pytest.mark.parametrize(
    ("part", "number", "first"), [("train", 60_000, [9, 0, 0, 3, 0]), ("test", 10_000, [9, 2, 1, 1, 6])]
)
def test_the_genuine_files(part, number, first):
    """Balanced labels; the mean 0.2860 and deviation 0.3530 that everybody standardises the training part with."""
    images = load("fashion-mnist", part)
    assert images.name == "fashion-mnist" and images.pixels.shape == (number, 1, 28, 28)
    assert np.bincount(images.labels).tolist() == [number // 10] * 10 and images.labels[:5].tolist() == first
    if part == "train":
        assert images.pixels.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
        assert images.pixels.std() / 255 == pytest.approx(0.3530, abs=5e-5)


@genuine
def test_genuine_files_in_another_folder(tmp_path):
    """Decompressed they are the same set; under the names of the other part they are refused; one pixel counts."""
    for name, train_name in zip(idx.FILES["test"], idx.FILES["train"], strict=True):
        content = gzip.decompress((idx.FOLDER / f"{name}.gz").read_bytes())
        (tmp_path / name).write_bytes(content)
        (tmp_path / train_name).write_bytes(content)
    images, _ = fashion_mnist(tmp_path, "test", pad=2)
    assert images.shape == (10_000, 1, 32, 32) and images.var(dtype=float) == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="holds t10k-images-idx3-ubyte of Fashion-MNIST: files swapped"):
        load(tmp_path)
    changed = bytearray(content := (tmp_path / idx.FILES["test"][0]).read_bytes())
    changed[len(content) // 2] ^= 1
    (tmp_path / idx.FILES["test"][0]).write_bytes(changed)
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte was altered"):
        load(tmp_path, "test")
