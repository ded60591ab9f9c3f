"""A study's folder: one file for every finished chunk, one manifest; whole at any moment, checked when it is read.

::

    study.json      the study, and the versions and processor that its bits may depend on
    chunks/         000012-0000000300-1f0c….npz: point of the grid, first trial, checksum
    failures.json   chunks that could not be computed, if any
    lock            held by the process that writes

Files appear by renaming, when they are complete. The checksum in a chunk's name is taken over the manifest without its
number of trials, which may grow, the chunk's place and its bytes, so that a file that is torn, altered, renamed or from
another study does not count as finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import platform
import re
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from simulations import folders
from simulations.folders import LOCK, UNFINISHED
from simulations.study import Chunk, Study, differences

FORMAT = 2
MANIFEST, FAILURES, CHUNKS = "study.json", "failures.json", "chunks"
NAME = re.compile(r"(\d{6,})-(\d{10})-([0-9a-f]{32})\.npz")
Arrays = dict[str, np.ndarray]


class Store:
    """The folder of a study that is there: reads at any time, writes while `writing`.

    Parameters
    ----------
    folder : str or Path

    Raises
    ------
    ValueError
        If there is none, or it is not the folder of a study, or its manifest is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = _manifest(self.folder)
        self.environment: dict[str, Any] = manifest["environment"]
        try:
            self.study = Study.from_dict(manifest["study"])
        except ValueError as error:
            raise ValueError(f"{self.folder / MANIFEST} is damaged ({error}): {_DAMAGED}") from None
        given = self.study.to_dict()
        del given["trials"]
        axes = list(given.pop("grid").items())  # whose order counts
        self._key = json.dumps([axes, given, self.environment], sort_keys=True).encode()

    def finished(self) -> set[Chunk]:
        """Return the chunks whose files are what was written; the others have to be computed."""
        return self.scan()[0]

    def scan(self) -> tuple[set[Chunk], list[str]]:
        """Return the finished chunks, and the names of files that are torn, altered or of another study."""
        finished, strange = set(), []
        for path in _listed(self.folder):
            chunk = self._chunk(path)
            if chunk is not None and self._bytes(chunk, path) is not None:
                finished.add(chunk)
            elif path.suffix != UNFINISHED:
                strange.append(path.name)
        return finished, sorted(strange)

    def write(self, chunk: Chunk, arrays: Arrays) -> None:
        """Keep a finished chunk; OSError, and nothing changed, if that cannot be done."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # names are free
        data = buffer.getvalue()
        name = f"{chunk.point:06}-{chunk.first:010}-{self._checksum(chunk, data)}.npz"
        folders.write(self.folder / CHUNKS / name, data)

    def read(self) -> Iterator[tuple[Chunk, Arrays]]:
        """Go through the finished chunks in order, each with its arrays (trials, rows)."""
        files = [(chunk, path) for path in _listed(self.folder) if (chunk := self._chunk(path)) is not None]
        for chunk, path in sorted(files):
            data = self._bytes(chunk, path)
            if data is not None:
                yield chunk, _arrays(chunk, path, data)

    def failures(self) -> list[dict[str, Any]]:
        """Return what is known of the chunks that failed and have not been computed since."""
        try:
            found = json.loads((self.folder / FAILURES).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return []
        needed = {*Chunk._fields, "parameters", "seed", "error"}
        return [entry for entry in found if isinstance(entry, dict) and needed <= set(entry)]

    def write_failures(self, failures: list[dict[str, Any]]) -> None:
        """Keep the list of failures instead of the one that is there."""
        folders.write(self.folder / FAILURES, folders.json_bytes(failures))

    def _chunk(self, path: Path) -> Chunk | None:
        """The chunk of this study that the file's name says it holds."""
        parts = NAME.fullmatch(path.name)
        if parts is None:
            return None
        point, first, study = int(parts[1]), int(parts[2]), self.study
        if point >= study.points or first >= study.trials or first % study.chunk:
            return None
        return Chunk(point, first, min(study.chunk, study.trials - first))

    def _bytes(self, chunk: Chunk, path: Path) -> bytes | None:
        """The file's bytes if they are those that were written."""
        try:
            data = path.read_bytes()
        except OSError:  # a bad sector, or gone since it was listed
            return None
        return data if path.stem.endswith(f"-{self._checksum(chunk, data)}") else None

    def _checksum(self, chunk: Chunk, data: bytes) -> str:
        place = f"\n{chunk.point} {chunk.first} {chunk.trials}\n".encode()
        return hashlib.sha256(self._key + place + data).hexdigest()[:32]


@contextlib.contextmanager
def writing(study: Study, folder: str | Path, resume: bool = False) -> Iterator[Store]:
    """Hold the folder of a study for one process: a new one, or, with `resume`, also one that holds this very study.

    More trials than are there go on after them, where these fill whole chunks.

    Raises
    ------
    ValueError
        If the folder is in use, holds another study (what differs is named) or this one without `resume`, was begun
        with other versions or on another processor, is not a study's, or its manifest is damaged.
    OSError
        If it cannot be written.
    """
    folder = Path(folder)
    _check_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with folders.locked(folder):
        if (folder / MANIFEST).exists():
            there = Store(folder)
            _check_same(study, there, resume)
            if there.study.trials < study.trials:
                _write_manifest(folder, study, there.environment)
        else:
            _write_manifest(folder, study, environment())
        (folder / CHUNKS).mkdir(exist_ok=True)
        for left in (*folder.glob(f"*{UNFINISHED}"), *(folder / CHUNKS).glob(f"*{UNFINISHED}")):
            left.unlink()
        yield Store(folder)


def environment() -> dict[str, Any]:
    """Return what the last bits of a result may depend on: versions, processor and BLAS kernels."""
    blas = {
        pool["internal_api"]: f"{pool['version']} {pool.get('architecture', '')}".strip()
        for pool in threadpool_info()
        if pool["user_api"] == "blas" and f"{os.sep}numpy" in pool["filepath"]
    }
    packages = {name: version(name) for name in ("bntheory", "numpy", "scipy", "numba")}
    instructions = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])  # which NumPy's own loops choose by
    return {**packages, "machine": platform.machine(), "instructions": instructions, "blas": blas}


def _write_manifest(folder: Path, study: Study, begun_in: dict[str, Any]) -> None:
    manifest = {"format": FORMAT, "study": study.to_dict(), "environment": begun_in}
    folders.write(folder / MANIFEST, folders.json_bytes(manifest))


_DAMAGED = "put back the file as it was, or start in another folder"


def _manifest(folder: Path) -> dict[str, Any]:
    _check_place(folder)
    path = folder / MANIFEST
    if not path.exists():
        raise ValueError(f"{folder} is not the folder of a study: it has no {MANIFEST}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        whole = found["format"] == FORMAT and {"study", "environment"} <= set(found)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}): {_DAMAGED}") from None
    if not whole:
        raise ValueError(f"{path} is of format {found['format']!r:.20}, this version reads {FORMAT}: {_DAMAGED}")
    return found


def _check_place(folder: Path) -> None:
    """Refuse a file, and a folder with something else in it."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: a study needs a folder")
    if not folder.is_dir() or (folder / MANIFEST).exists():
        return
    strange = sorted(path.name for path in folder.iterdir() if path.name != LOCK and not path.name.endswith(UNFINISHED))
    if strange:
        raise ValueError(f"{folder} is not the folder of a study: it has no {MANIFEST} but {', '.join(strange[:3])}")


def _check_same(study: Study, there: Store, resume: bool) -> None:
    changed = differences(there.study.to_dict(), study.to_dict())
    if changed and not _goes_on(study, there.study):
        remedy = "Start in another folder"
        if len(changed) == 1 and study.trials > there.study.trials:
            remedy = f"Trials can only be added to whole chunks of {study.chunk}; start in another folder"
        raise ValueError(f"{there.folder} holds another study: {'; '.join(changed)}. {remedy}")
    changed = differences(there.environment, environment())
    if changed:
        where = f"{there.folder} was begun elsewhere, where bits may differ"
        raise ValueError(f"{where}: {'; '.join(changed)}. Go on there, or start in another folder")
    if not resume:
        raise ValueError(f"{there.folder} holds this study already: continue it with --resume (resume=True)")


def _goes_on(study: Study, there: Study) -> bool:
    """Whether it is the same but for trials after those that are there, whose chunks stay what they are."""
    same = not differences(dataclasses.replace(there, trials=study.trials).to_dict(), study.to_dict())
    return same and study.trials > there.trials and there.trials % there.chunk == 0


def _listed(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder / CHUNKS)]
    except FileNotFoundError:  # begun a moment ago
        return []


def _arrays(chunk: Chunk, path: Path, data: bytes) -> Arrays:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}): delete it and continue with --resume") from None
    for name, array in arrays.items():
        if array.dtype != np.float64 or array.ndim != 2 or len(array) != chunk.trials:
            what = f"{array.dtype} of shape {array.shape}, not float64 of shape ({chunk.trials}, rows)"
            raise ValueError(f"{path} has {name}: {what}: delete it and continue with --resume")
    return arrays
