"""CIFAR-10 from the network, where there is one: checked by its checksums before and after it is unpacked."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import zlib
from pathlib import Path

from simulations import folders
from simulations.training.datasets import cifar

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"  # as keras/datasets/cifar10.py has it
_INSIDE = "cifar-10-batches-py"  # the folder in the archive
_BATCHES = {f"{_INSIDE}/{name}": name for names in cifar.FILES.values() for name in names}
_OTHERS = {_INSIDE, f"{_INSIDE}/batches.meta", f"{_INSIDE}/readme.html"}
_LARGEST = 2**25  # bytes of a file; the batches have 31 million


def download_cifar10(folder: str | Path) -> Path:
    """Download the Python version of CIFAR-10, 163 MB, into a folder that `load` and `cifar10` read; 186 MB there.

    Nothing is downloaded if the six files are there already. The archive is unpacked only if its SHA-256 is the
    published one and it holds what it should; each file is written whole or not at all.

    Parameters
    ----------
    folder : str or Path
        Made if it is not there.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If there is no network, the archive is another one, or holds names, links or sizes that it should not.
    ImportError
        Without pooch, which is among what ``pip install "bntheory[train]"`` installs.

    References
    ----------
    Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html.

    Examples
    --------
    >>> images, labels = cifar10(download_cifar10("cifar-10"))  # doctest: +SKIP
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: CIFAR-10 needs a folder")
    if all(_known(name, folder / name) for name in _BATCHES.values()):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as place:
        for name, content in _unpacked(_retrieved(place, folder)).items():
            folders.write(folder / name, content)
    return folder


def _known(name: str, path: Path) -> bool:
    return path.is_file() and _is_batch(name, path.read_bytes())


def _is_batch(name: str, content: bytes) -> bool:
    return hashlib.md5(content, usedforsecurity=False).hexdigest() == cifar.MD5[name]


def _retrieved(place: str, folder: Path) -> str:
    """The path of the archive, of the right checksum."""
    try:
        import pooch
    except ModuleNotFoundError:
        raise ModuleNotFoundError('downloading needs pooch: pip install "bntheory[train]"') from None
    try:
        return str(pooch.retrieve(URL, f"sha256:{SHA256}", fname="archive.tar.gz", path=place))
    except (OSError, ValueError) as error:  # no network, and another checksum
        reason = " ".join(str(error).split())
        by_hand = f"without a network unpack that file elsewhere, and copy its data_batch_1 … test_batch to {folder}"
        raise ValueError(f"cannot download {URL} ({reason:.200}): {by_hand}") from None


def _unpacked(archive: str) -> dict[str, bytes]:
    """The six batches; nothing is written, and nothing else in the archive is read."""
    found = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.name not in _BATCHES and member.name not in _OTHERS:
                    raise ValueError(f"the archive holds {member.name!r}, which CIFAR-10's does not")
                if member.size > _LARGEST or not (member.isfile() or member.name == _INSIDE):
                    raise ValueError(f"the archive holds {member.name!r} of {member.size} bytes, or as a link")
                if member.name in _BATCHES:
                    name, file = _BATCHES[member.name], tar.extractfile(member)
                    found[name] = b"" if file is None else file.read()
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise ValueError(f"the archive is damaged: {error}") from None
    wrong = [name for name in _BATCHES.values() if not _is_batch(name, found.get(name, b""))]
    if wrong:
        raise ValueError(f"the archive does not hold CIFAR-10's {', '.join(wrong)} (MD5)")
    return found
