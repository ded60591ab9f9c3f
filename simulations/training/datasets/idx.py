"""Sets in idx format, four files of bytes: Fashion-MNIST, and others of the same layout.

A file begins with two zero bytes, the type of its numbers (8: bytes), the number of dimensions and, big-endian in four
bytes each, the dimensions; then follow the numbers (LeCun, "The MNIST database of handwritten digits").
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from bntheory import arguments
from simulations.training.datasets.image_set import ImageSet

FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_COUNTS = {"train": 60_000, "test": 10_000}  # of MNIST and of all sets that were made to replace it
# SHA-256 of the content of Fashion-MNIST's files, decompressed: how they were packed does not matter
_FASHION = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def fashion_mnist(
    folder: str | Path | None = None,
    part: str = "train",
    size: int | None = None,
    channels: int | None = None,
    pad: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return Fashion-MNIST, 28×28 grey images of clothes, standardised over the part.

    x ↦ (x − mean) / standard deviation, one mean and one standard deviation for all images and positions, after padding
    and resizing. All training images take 188 MB, 737 MB at 3×32×32; ``load("fashion-mnist")`` keeps bytes (47 MB) and
    standardises what is used.

    Parameters
    ----------
    folder : str or Path, optional
        Where the two files of the part lie, plain (taken first) or with ending .gz; None: where Debian's package
        dataset-fashion-mnist puts them.
    part : str
        "train" or "test".
    size : int, optional
        Side of the images after padding, enlarged by `resize` or shrunk by `area_average`.
    channels : int, optional
        Copies of the grey image, at least 1; None: 1.
    pad : int
        Black pixels to add on every side: 2 make 32×32.

    Returns
    -------
    images : float32 array, (60000 or 10000, channels, size, size)
        Of mean 0 and variance 1.
    labels : int64 array, (60000 or 10000,)
        0 … 9.

    Raises
    ------
    ValueError
        If a file is missing, damaged or swapped, or the content is not Fashion-MNIST's: `load` takes other sets.

    References
    ----------
    Xiao, Rasul, Vollgraf 2017, "Fashion-MNIST", arXiv 1708.07747.

    Examples
    --------
    >>> images, labels = fashion_mnist(part="test", pad=2, channels=3)  # doctest: +SKIP
    >>> images.shape, labels[:5].tolist()  # doctest: +SKIP
    ((10000, 3, 32, 32), [9, 2, 1, 1, 6])
    """
    stored = stored_fashion_mnist(part) if folder is None else read_idx(folder, part)
    if stored.name != "fashion-mnist":
        raise ValueError(
            f"{folder} holds another set than Fashion-MNIST (SHA-256 differs): load({str(folder)!r}) takes it"
        )
    return stored.standardised(size=size, channels=channels, pad=pad, dtype="float32"), stored.labels


def stored_fashion_mnist(part: str = "train") -> ImageSet:
    """Return a part of Fashion-MNIST from Debian's package, as it is stored."""
    if not FOLDER.is_dir():
        raise ValueError(
            f"no folder {FOLDER}: apt-get install dataset-fashion-mnist (Debian), or name a folder that has it"
        )
    stored = read_idx(FOLDER, part)
    if stored.name != "fashion-mnist":
        raise ValueError(f"{FOLDER} does not hold Fashion-MNIST (SHA-256 differs): reinstall dataset-fashion-mnist")
    return stored


def read_idx(folder: str | Path, part: str = "train") -> ImageSet:
    """Return a part of a set in idx format; its name is "fashion-mnist" if its content is, otherwise the folder."""
    folder = Path(folder)
    paths = [_found(folder, name) for name in FILES[arguments.choice("part", part, FILES)]]
    contents = [_content(path) for path in paths]
    pixels, labels = _numbers(paths[0], contents[0], 3), _numbers(paths[1], contents[1], 1)
    genuine = _is_fashion_mnist(paths, contents)
    number, height, width = pixels.shape
    other = "test" if part == "train" else "train"
    if number == _COUNTS[other]:
        raise ValueError(f"{paths[0]} holds {number} images, as many as a {other} part has: files swapped?")
    if len(labels) != number:
        raise ValueError(f"{paths[0]} holds {number} images but {paths[1]} {len(labels)} labels")
    if height != width or 0 in pixels.shape:
        raise ValueError(f"{paths[0]} must hold square images, at least one, got {number} of {height}×{width}")
    if labels.max() > 9:
        raise ValueError(f"{paths[1]} must hold labels 0 … 9, got {labels.max()} at place {labels.argmax()}")
    return ImageSet("fashion-mnist" if genuine else str(folder), pixels[:, None], labels.astype(np.int64))


def _is_fashion_mnist(paths: list[Path], contents: list[bytes]) -> bool:
    """Whether both files are the published ones; refused if only one is, or is another one than its name says."""
    owners = {digest: name for name, digest in _FASHION.items()}
    found = [owners.get(hashlib.sha256(content).hexdigest()) for content in contents]
    for path, owner in zip(paths, found, strict=True):
        if owner is not None and owner != path.name.removesuffix(".gz"):
            raise ValueError(f"{path} holds {owner} of Fashion-MNIST: files swapped?")
    if (found[0] is None) != (found[1] is None):
        altered, genuine = paths if found[0] is None else reversed(paths)
        raise ValueError(f"{altered} was altered or is of another set: {genuine.name} is Fashion-MNIST's (SHA-256)")
    return found[0] is not None


def _found(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise ValueError(f"{folder} lacks the file {name} or {name}.gz")


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise ValueError(f"{path} is damaged or not compressed by gzip: {error}") from None


def _numbers(path: Path, content: bytes, dimensions: int) -> np.ndarray:
    """Array of the bytes in a file of so many dimensions."""
    begin = 4 + 4 * dimensions
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(f"{path} is not in idx format: it begins with {content[:4].hex(' ') or 'nothing'}, not 00 00")
    if content[2] != 8:
        raise ValueError(f"{path} must hold bytes (type 08), got type {content[2]:02x}")
    if content[3] != dimensions:
        kinds = {1: "labels", 3: "images"}
        held = kinds.get(content[3], "something else")
        raise ValueError(f"{path} must hold {kinds[dimensions]} (dimensions: {dimensions}), got {held} ({content[3]})")
    if len(content) < begin:
        raise ValueError(f"{path} is truncated: {len(content)} bytes, its header alone has {begin}")
    shape = struct.unpack(f">{dimensions}I", content[4:begin])
    extra = len(content) - begin - math.prod(shape)
    if extra:
        what = f"is truncated: {-extra} bytes are missing" if extra < 0 else f"has {extra} bytes too many"
        raise ValueError(f"{path} {what} after {'×'.join(map(str, shape))} numbers were announced")
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)
