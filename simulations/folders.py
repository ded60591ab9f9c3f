"""Folders that survive: files are written whole or not at all, and one process writes at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCK = "lock"
UNFINISHED = ".unfinished"  # ends the names of files that are being written
_HELD: set[Path] = set()  # a lock of the system is the process's, which would not keep two threads apart


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, also if the power fails."""
    unfinished = path.with_name(f"{path.name}{UNFINISHED}")
    try:
        with open(unfinished, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name
    finally:
        os.close(folder)


def json_bytes(data: Any) -> bytes:
    """Return data as JSON text in UTF-8, readable by people too."""
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder; the system releases what a dead process held.

    Raises
    ------
    ValueError
        If a process, which is named, is in it.
    """
    place = folder.resolve()
    if place in _HELD:
        raise ValueError(f"{folder} is in use by this process: wait for it, or give another folder")
    # a lock of lockf's kind, which worker processes do not inherit, so that they cannot hold it beyond our death
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise ValueError(f"{folder} is in use by {owner}: wait for it, or give another folder") from None
        _HELD.add(place)
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield
        finally:
            _HELD.discard(place)
