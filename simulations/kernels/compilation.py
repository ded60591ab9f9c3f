"""How the kernels are compiled: without the interpreter's lock, once for all processes.

Numba looks for changes of compiled code in the file of the outermost function only. Kernels call one another across
files, so the folder of the cache is named after all of their sources: whatever is changed, nothing old is run.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

# Sums in any order, fused products; nothing that assumes finite numbers: NaN of a network out of range comes through.
FAST = {"reassoc", "contract", "nsz", "arcp"}


def cache_folder() -> str:
    """Folder of the compiled code: NUMBA_CACHE_DIR, the package's own or the user's, and the sources' fingerprint."""
    here = Path(__file__).parent
    sources = b"".join(path.read_bytes() for path in sorted((*here.glob("*.py"), here.parent / "radial.py")))
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bntheory"
    base = numba.config.CACHE_DIR or (here / "__pycache__" if os.access(here, os.W_OK) else users)
    return str(Path(base) / hashlib.sha256(sources).hexdigest()[:16])


FOLDER = cache_folder()


def seen(name: str) -> bool:
    """Whether compiled code of that "file.function" is there from an earlier process: else its first call takes long.

    Examples
    --------
    >>> seen("network.no_such_function")
    False
    """
    return any(Path(FOLDER).rglob(f"{name}-*.nbc"))


def kernel(fastmath: Any = False, inline: str = "never") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function of arrays and numbers; inline="always" only where it is called, not also by itself."""

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, FOLDER
        try:
            return numba.njit(
                function,
                nogil=True,
                cache=True,
                error_model="numpy",
                no_cfunc_wrapper=True,
                fastmath=fastmath,
                inline=inline,
            )
        finally:
            numba.config.CACHE_DIR = before

    return compiled


def fast_kernel() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function whose sums may be taken in any order."""
    return kernel(FAST)
