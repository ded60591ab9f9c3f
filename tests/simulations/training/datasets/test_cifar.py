"""Files in the formats of CIFAR-10, written here byte by byte, with a few images in place of 10,000."""

import hashlib
import pickle
import struct

import numpy as np
import pytest

from simulations.training.datasets import cifar, cifar10, load

IMAGES = 5


def python2_pickle(pixels, labels, says):
    """The opcodes that cPickle of Python 2 writes with protocol 2: strings of bytes, numpy.core, an array's state."""

    def text(value):
        return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value

    kind = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNN"
        + b"J\xff\xff\xff\xff" * 2
        + b"K\x00tb"
    )
    shape = b"".join(b"M" + struct.pack("<H", side) for side in pixels.shape) + b"\x86"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array += b"(K\x01" + shape + kind + b"\x89" + text(pixels.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    names = b"](" + b"".join(text(b"image_%d.png" % i) for i in range(len(labels))) + b"e"
    items = {b"batch_label": text(says), b"labels": numbers, b"data": array, b"filenames": names}
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in items.items()) + b"u."


def says(name):
    return b"testing batch 1 of 1" if name == "test_batch" else b"training batch %c of 5" % name[-1].encode()


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(cifar, "_IMAGES", IMAGES)


@pytest.fixture
def stored():
    """Pixels and labels of each file, red, green and blue told apart by their range."""
    rng = np.random.default_rng(2)
    colours = np.repeat([0, 80, 160], 1024)
    names = [name for part in cifar.FILES.values() for name in part]
    return {n: (rng.integers(0, 80, (IMAGES, 3072)) + colours, rng.integers(0, 10, IMAGES)) for n in names}


@pytest.fixture
def pickled(tmp_path, stored):
    (folder := tmp_path / "py").mkdir()
    for name, (pixels, labels) in stored.items():
        (folder / name).write_bytes(python2_pickle(pixels.astype(np.uint8), labels.tolist(), says(name)))
    return folder


@pytest.fixture
def binary(tmp_path, stored):
    (folder := tmp_path / "bin").mkdir()
    for name, (pixels, labels) in stored.items():
        (folder / f"{name}.bin").write_bytes(np.column_stack([labels, pixels]).astype(np.uint8).tobytes())
    return folder


def test_the_pickles_written_here_are_what_python_2_wrote(pickled, stored):
    """NumPy, without any restriction, reads them as everybody reads CIFAR-10."""
    found = pickle.loads((pickled / "data_batch_3").read_bytes(), encoding="bytes")
    assert found[b"data"].dtype == np.uint8 and np.array_equal(found[b"data"], stored["data_batch_3"][0])
    assert found[b"labels"] == stored["data_batch_3"][1].tolist() and found[b"batch_label"] == b"training batch 3 of 5"


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("version", ["pickled", "binary"])
def test_both_versions_are_read(version, part, stored, request):
    folder = request.getfixturevalue(version)
    images, names = load(folder, part), cifar.FILES[part]
    assert images.name == str(folder) and images.labels.dtype == np.int64 and images.pixels.dtype == np.uint8
    assert images.labels.tolist() == [label for name in names for label in stored[name][1]]
    pixels = np.concatenate([stored[name][0] for name in names])
    assert all(
        np.array_equal(images.pixels[:, c, y, x], pixels[:, 1024 * c + 32 * y + x])
        for c, y, x in [(0, 0, 1), (2, 31, 7)]
    )
    assert images.pixels[:, 0].max() < 80 <= images.pixels[:, 1].min() < 160 <= images.pixels[:, 2].min()
    values, labels = cifar10(folder, part)
    expected = (pixels - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(values.reshape(-1, 3072), expected, atol=1e-6)
    assert values.dtype == np.float32 and np.array_equal(labels, images.labels)


def test_pickles_of_python_3_are_read(pickled, stored):
    pixels, labels = stored["test_batch"]
    content = pickle.dumps({"data": pixels.astype(np.uint8), "labels": labels.tolist(), "batch_label": "testing"}, 4)
    (pickled / "test_batch").write_bytes(content)
    assert np.array_equal(load(pickled, "test").pixels.reshape(-1, 3072), pixels)


def test_a_binary_file_of_full_size(tmp_path, monkeypatch):
    """10,000 records of 3073 bytes are 30,730,000 bytes, as the description of the format says."""
    monkeypatch.undo()
    records = np.zeros((10_000, 3073), np.uint8)
    records[-1] = 9
    (tmp_path / "test_batch.bin").write_bytes(records.tobytes())
    images = load(tmp_path, "test")
    assert images.pixels.shape == (10_000, 3, 32, 32) and images.labels[-1] == 9 and images.pixels[-1].min() == 9


DAMAGE = {  # version, file, what becomes of its content, and what is said
    "truncated": ("binary", "test_batch.bin", lambda c: c[:-1], "must have 15365 bytes, 5 records of 3073, got 15364"),
    "too long": ("binary", "test_batch.bin", lambda c: c + b"\0", "got 15366"),
    "label": ("binary", "test_batch.bin", lambda c: c[:3073] + b"\x0a" + c[3074:], "labels 0 … 9, got 10 at place 1"),
    "cut": ("pickled", "test_batch", lambda c: c[:-1000], "test_batch is no pickle of plain data"),
    "plain text": ("pickled", "test_batch", lambda c: b"hello", "test_batch is no pickle of plain data"),
    "a call": ("pickled", "test_batch", lambda c: b"cos\nsystem\n(S'false'\ntR.", "plain data: it names os.system"),
    "a list": ("pickled", "test_batch", lambda c: pickle.dumps([1]), r"must hold 'data', .*\(5, 3072\), got NoneType"),
    "no labels": (
        "pickled",
        "test_batch",
        lambda c: c.replace(b"U\6labels", b"U\6Labels"),
        "'labels', a list of 5 .*NoneType",
    ),
    "fewer": (
        "pickled",
        "test_batch",
        lambda c: python2_pickle(np.zeros((4, 3072), np.uint8), [1] * 4, b"testing"),
        r"shape \(5, 3072\), got \(4, 3072\)",
    ),
    "fewer labels": (
        "pickled",
        "test_batch",
        lambda c: python2_pickle(np.zeros((5, 3072), np.uint8), [1] * 4, b"testing"),
        "'labels', a list of 5 integers, got 4 items",
    ),
    "label 11": (
        "pickled",
        "test_batch",
        lambda c: python2_pickle(np.zeros((5, 3072), np.uint8), [0, 1, 2, 11, 4], b"testing"),
        "labels 0 … 9, got 11 at place 3",
    ),
    "swapped": (
        "pickled",
        "test_batch",
        lambda c: c.replace(b"U\x14testing batch 1 of 1", b"U\x15training batch 1 of 5"),
        "calls itself 'training batch 1 of 5': files swapped?",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named(case, request):
    version, name, change, message = DAMAGE[case]
    path = request.getfixturevalue(version) / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as refused:
        cifar10(path.parent, "test")
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


@pytest.mark.parametrize("version", ["pickled", "binary"])
def test_missing_and_copied_files_are_named(version, request):
    folder, ending = request.getfixturevalue(version), ".bin" if version == "binary" else ""
    (folder / f"data_batch_4{ending}").write_bytes((folder / f"data_batch_2{ending}").read_bytes())
    with pytest.raises(ValueError, match=rf"data_batch_4{ending} is a copy of data_batch_2{ending}"):
        load(folder)
    (folder / f"data_batch_3{ending}").unlink()
    with pytest.raises(ValueError, match=rf"lacks the file data_batch_3{ending}"):
        load(folder)


def test_only_published_content_is_called_cifar_10(pickled, binary, monkeypatch):
    for name in cifar.MD5:
        digest = hashlib.md5((pickled / name).read_bytes()).hexdigest()
        monkeypatch.setitem(cifar.MD5, name, digest)
    assert load(pickled).name == load(pickled, "test").name == "cifar-10"
    assert load(binary).name == load(binary, "test").name == str(binary)
    path = pickled / "data_batch_5"
    path.write_bytes(path.read_bytes().replace(b"image_0.png", b"image_9.png"))
    with pytest.raises(ValueError, match="data_batch_5 was altered: the other files are CIFAR-10's"):
        load(pickled)
