"""Sets in the format of CIFAR-10, six files of 10,000 images: binary or pickled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bntheory import arguments
from simulations.training.datasets.image_set import ImageSet
from simulations.training.datasets.pickles import plain_pickle

_IMAGES = 10_000  # in each file
_PIXELS = 3 * 32 * 32
FILES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
# MD5 of the files of the Python version, as torchvision/datasets/cifar.py has them; none is known of the binary one
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


def cifar10(folder: str | Path, part: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Return images in the format of CIFAR-10, 32×32 in three channels, standardised over the part.

    x ↦ (x − mean) / standard deviation, one mean and one standard deviation for all images, channels and positions. All
    training images take 614 MB; ``load(folder)`` keeps bytes (154 MB) and standardises what is used.

    Form and number are checked, and the content as far as its checksums are known: ``load(folder).name`` is "cifar-10"
    only if the files are those of the Python version. The binary version, whose checksums are not, goes by its folder.

    Parameters
    ----------
    folder : str or Path
        Where data_batch_1 … data_batch_5 and test_batch lie (Python version), or the same names with the ending .bin
        (binary version: records of one label and 3072 pixels).
    part : str
        "train" or "test".

    Returns
    -------
    images : float32 array, (50000 or 10000, 3, 32, 32)
        Of mean 0 and variance 1.
    labels : int64 array, (50000 or 10000,)
        0 … 9.

    Raises
    ------
    ValueError
        If a file is missing, damaged, swapped (Python version: by what it says of itself), a copy of another, or names
        in its pickle anything but arrays of bytes.

    References
    ----------
    Krizhevsky 2009, "Learning multiple layers of features from tiny images"; the formats are described beside the data.

    Examples
    --------
    >>> images, labels = cifar10("cifar-10-batches-bin", part="test")  # doctest: +SKIP
    >>> images.shape  # doctest: +SKIP
    (10000, 3, 32, 32)
    """
    folder = Path(folder)
    binary = any((folder / f"{name}.bin").is_file() for names in FILES.values() for name in names)
    stored = (read_binary if binary else read_pickled)(folder, part)
    return stored.standardised(dtype="float32"), stored.labels


def read_binary(folder: str | Path, part: str = "train") -> ImageSet:
    """Return a part of a set in the binary format, named by its folder."""
    return _read(Path(folder), part, ".bin", _records)


def read_pickled(folder: str | Path, part: str = "train") -> ImageSet:
    """Return a part of a set in the pickled format; its name is "cifar-10" if its files are, otherwise the folder."""
    return _read(Path(folder), part, "", _pickled)


def _read(
    folder: Path, part: str, ending: str, parse: Callable[[Path, bytes], tuple[np.ndarray, np.ndarray]]
) -> ImageSet:
    names = FILES[arguments.choice("part", part, FILES)]
    batches, known = [], []
    seen: dict[str, str] = {}
    for name in names:
        path = folder / f"{name}{ending}"
        if not path.is_file():
            raise ValueError(f"{folder} lacks the file {path.name}")
        content = path.read_bytes()
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if digest in seen:
            raise ValueError(f"{path} is a copy of {seen[digest]}")
        seen[digest] = path.name
        known.append(MD5[name] == digest)
        batches.append(parse(path, content))
    if any(known) and not all(known):
        raise ValueError(f"{folder / names[known.index(False)]} was altered: the other files are CIFAR-10's (MD5)")
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    return ImageSet("cifar-10" if all(known) else str(folder), pixels.reshape(-1, 3, 32, 32), labels)


def _records(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    expected = _IMAGES * (1 + _PIXELS)
    if len(content) != expected:
        raise ValueError(f"{path} must have {expected} bytes, {_IMAGES} records of {1 + _PIXELS}, got {len(content)}")
    records = np.frombuffer(content, np.uint8).reshape(_IMAGES, 1 + _PIXELS)
    return records[:, 1:], _checked(path, records[:, 0].tolist())


def _pickled(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = plain_pickle(content)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    batch = batch if isinstance(batch, dict) else {}
    pixels, labels, itself = (batch.get(key) for key in (b"data", b"labels", b"batch_label"))
    if not isinstance(pixels, np.ndarray) or pixels.shape != (_IMAGES, _PIXELS):
        got = getattr(pixels, "shape", type(pixels).__name__)
        raise ValueError(f"{path} must hold 'data', an array of bytes of shape {(_IMAGES, _PIXELS)}, got {got}")
    if not isinstance(labels, list) or len(labels) != _IMAGES or {type(label) for label in labels} != {int}:
        got = f"{len(labels)} items" if isinstance(labels, list) else type(labels).__name__
        raise ValueError(f"{path} must hold 'labels', a list of {_IMAGES} integers, got {got}")
    part = b"testing" if path.name == "test_batch" else b"training"
    if isinstance(itself, bytes) and not itself.startswith(part):
        raise ValueError(f"{path} calls itself {itself.decode('latin-1')!r:.60}: files swapped?")
    return pixels, _checked(path, labels)


def _checked(path: Path, labels: list[int]) -> np.ndarray:
    for place, label in enumerate(labels):
        if not 0 <= label <= 9:
            raise ValueError(f"{path} must hold labels 0 … 9, got {label} at place {place}")
    return np.array(labels, np.int64)
