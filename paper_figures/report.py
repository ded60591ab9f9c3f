"""The report: one folder with one page, its pictures and the numbers behind them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import math
import platform
import shutil
import time
import uuid
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from bntheory import arguments
from paper_figures.checks import Check
from paper_figures.values import runs_of
from simulations.ensemble import cores
from simulations.processes import dropped
from simulations.training.devices import one_torch_thread, resolve

FORMAT = "bntheory report 1"
RESULTS, PAGE, OWN = "results.json", "report.html", "your_network"
FIGURES = (
    "growth",
    *(f"figure{number}" for number in range(1, 9)),
    "table1",
    "appendix_draws",
    "appendix_learning_rates",
    "appendix_last_layer",
    "appendix_sgd_noise",
    "appendix_initializations",
    "appendix_trained_networks",
    "appendix_condition_number",
    "appendix_gradient_explosion",
    "appendix_input_conditioning",
)
DRAWN = ("figure2", "figure6", "figure7", "table1")
SIZES: dict[str, dict[str, dict[str, Any]]] = {  # a scale changes arguments of the figures' `compute`
    "quick": {},
    "standard": {name: {"draws": 11} for name in DRAWN},
    "full": {**{name: {"draws": 48} for name in DRAWN}, "figure5": {"draws": 48}},
}


def make_report(
    out: str | Path,
    scale: str = "quick",
    seed: int = 0,
    device: str = "auto",
    model: str | None = None,
    sizes: tuple[int, ...] | None = None,
    data: str = "digits",
    workers: int | None = None,
) -> list[Check]:
    """Make every figure and write a folder with report.html, the pictures and results.json.

    Parameters
    ----------
    out : path
        Folder to write. It appears whole or not at all; an earlier report there is replaced.
    scale : {"quick", "standard", "full"}
        Quick: about four minutes on two cores; the others draw more networks.
    seed : int
        Of all random numbers.
    device : {"auto", "cpu", "cuda"}
        Where torch computes; auto: a GPU if there is one.
    model : str, optional
        A network of your own, "package.module:factory": predicted beside measured growth, after the figures.
    sizes : tuple of int, optional
        Shape of one of its inputs.
    data : str
        Its inputs: "digits", "fashion-mnist", "noise" or a folder.
    workers : int, optional
        Figures made at a time, each by a process with one thread of torch's and of BLAS: numbers do not depend on how
        many. None: one a core on the CPU, one on a GPU. From 2 on, a script that calls this needs the usual
        ``if __name__ == "__main__":``.

    Returns
    -------
    list of Check
        All checks, in the page's order.

    Raises
    ------
    ValueError
        If `out` is a file or a folder that holds anything but a report, an argument is not allowed, or the model cannot
        be made or run.
    ModuleNotFoundError
        If PyTorch or scikit-learn is missing.
    ChildProcessError
        If a process that makes a figure is ended from outside.
    """
    out = replaceable(Path(out))
    arguments_of = SIZES[arguments.choice("scale", scale, SIZES)]
    seed = arguments.integer("seed", seed, at_least=0)
    require_training()
    device = resolve(device)
    if workers is None:
        workers = cores() if device == "cpu" else 1
    workers = arguments.integer("workers", workers)
    out.parent.mkdir(parents=True, exist_ok=True)
    _recover(out)
    workplace = out.parent / f".{out.name}-{uuid.uuid4().hex}"
    workplace.mkdir()
    try:
        own = None if model is None else _own_network(workplace, model, sizes, data, seed)  # first: it may be refused
        settings = {"scale": scale, "seed": seed, "device": device}
        results = _write(workplace, arguments_of, settings, own, workers)
        _replace(workplace, out)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    made = [*results["figures"].values(), *([own] if own else [])]
    return [Check(**check) for figure in made for check in figure["checks"]]


def _own_network(folder: Path, model: str, sizes: tuple[int, ...] | None, data: str, seed: int) -> dict[str, Any]:
    """As `make_figure`, of the user's network."""
    from matplotlib import style

    from paper_figures import own_network

    start = time.perf_counter()
    found = own_network.compute(model, sizes, data, seed=seed)
    with style.context("paper_figures.style"):
        own_network.draw(found).savefig(folder / f"{OWN}.png")
    return {
        "title": own_network.title(found),
        "text": own_network.text(found),
        "checks": [check._asdict() for check in own_network.check(found)],
        "runs": [],
        "seconds": round(time.perf_counter() - start, 1),
        "numbers": found["result"].to_dict(),
    }


def replaceable(out: Path) -> Path:
    """Return the folder's full path if a report may be written there; ValueError if that would destroy anything.

    Only a missing or empty folder, or one with a report's files and nothing else, will do.
    """
    out = out.resolve()
    if not out.exists():
        return out
    if not out.is_dir():
        raise ValueError(f"out must be a folder, got the file {out}")
    if Path.cwd().is_relative_to(out):
        raise ValueError(f"out must not be the current folder or one above it, got {out}")
    found = {entry.name for entry in out.iterdir()}
    foreign = sorted(found - _report_files(out / RESULTS))
    if foreign:
        raise ValueError(f"out holds something other than a report ({foreign[0]}): choose another folder than {out}")
    return out


def _report_files(results: Path) -> set[str]:
    """Names that an earlier report says it wrote; none if there is no such report."""
    try:
        content = json.loads(results.read_text(encoding="utf-8"))
        return set(content["files"]) if content["format"] == FORMAT else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def require_training() -> None:
    """Raise ModuleNotFoundError, naming the extra, if PyTorch or scikit-learn is missing."""
    missing = [name for name in ("torch", "sklearn") if importlib.util.find_spec(name) is None]
    if missing:
        words = " and ".join({"torch": "PyTorch", "sklearn": "scikit-learn"}[name] for name in missing)
        raise ModuleNotFoundError(f'the report needs {words}: pip install "bntheory[train]"')


def make_figure(
    name: str, folder: Path, seed: int = 0, device: str = "cpu", scale: str = "quick", **sizes: int
) -> dict[str, Any]:
    """Compute, check and draw one figure; save its picture in the folder and return what results.json says of it.

    Parameters
    ----------
    name : str
        One of `FIGURES`.
    folder : Path
    seed : int
    device : {"cpu", "cuda"}
    scale : {"quick", "standard", "full"}
        Of which the picture says that it is.
    **sizes
        Further arguments of the figure's `compute`, as `SIZES` has them for the scale.
    """
    from matplotlib import style

    start = time.perf_counter()
    script = importlib.import_module(f"paper_figures.{arguments.choice('figure', name, FIGURES)}")
    data = script.compute(seed=seed, device=device, **sizes)
    checks = script.check(data)
    with style.context("paper_figures.style"):
        figure = script.draw(data)
        words = f"scale: {scale}" if name in SIZES["full"] else "the same at every scale"
        figure.supxlabel(f"{figure.get_supxlabel()}\n{words}", fontsize=10)
        figure.savefig(folder / f"{name}.png")
    return {
        "title": script.TITLE,
        "text": script.TEXT,
        "checks": [check._asdict() for check in checks],
        "runs": runs_of(name),
        "seconds": round(time.perf_counter() - start, 1),
        "numbers": data,
    }


def _in_one_thread(name: str, *words: Any, **sizes: Any) -> dict[str, Any]:
    """As `make_figure`, beside other processes."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), one_torch_thread():
        return make_figure(name, *words, **sizes)


def _make_figures(
    folder: Path, sizes: dict[str, dict[str, Any]], settings: dict[str, Any], workers: int
) -> dict[str, dict[str, Any]]:
    """All figures, several at a time; the first that fails ends it."""
    from tqdm import tqdm

    bar = functools.partial(tqdm, FIGURES, desc="figures", disable=None, leave=False)
    words = folder, settings["seed"], settings["device"], settings["scale"]
    if workers == 1:
        return {name: _in_one_thread(name, *words, **sizes.get(name, {})) for name in bar()}
    with dropped(workers) as pool:
        made = {name: pool.submit(_in_one_thread, name, *words, **sizes.get(name, {})) for name in FIGURES}
        return {name: made[name].result() for name in bar()}


def _write(
    folder: Path,
    sizes: dict[str, dict[str, Any]],
    settings: dict[str, Any],
    own: dict[str, Any] | None,
    workers: int,
) -> dict[str, Any]:
    from paper_figures.claims import claims
    from paper_figures.explorer.fragment import explorer_tables, fragment
    from paper_figures.page import page

    start = time.perf_counter()
    figures = _make_figures(folder, sizes, settings, workers)
    tabulated = time.perf_counter()
    explorer = fragment(explorer_tables(workers=workers, **sizes.get("explorer", {})))
    names = [*FIGURES, *([OWN] if own else [])]
    results = {
        "format": FORMAT,
        "files": [PAGE, RESULTS, *(f"{name}.png" for name in names)],
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        **settings,
        "seconds": round(time.perf_counter() - start, 1),
        "explorer_seconds": round(time.perf_counter() - tabulated, 1),
        "versions": versions(),
        "claims": [claim._asdict() for claim in claims({name: made["numbers"] for name, made in figures.items()})],
        "figures": figures,
        "own": own,
    }
    text = json.dumps(plain(results), allow_nan=False, ensure_ascii=False)
    (folder / RESULTS).write_text(text + "\n", encoding="utf-8")
    pictures = {name: (folder / f"{name}.png").read_bytes() for name in names}
    (folder / PAGE).write_text(page(results, pictures, explorer), encoding="utf-8")
    return results


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose numbers the report shows."""
    packages = ("bntheory", "numpy", "scipy", "matplotlib", "torch", "scikit-learn")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def plain(value: Any) -> Any:
    """Turn arrays and NumPy's numbers into plain data for JSON, to 7 digits; NaN and infinities become None.

    >>> plain({1: (float("nan"), 0.123456789)})
    {'1': [None, 0.1234568]}
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value


def _aside(out: Path) -> Path:
    """Where the earlier report waits while the new one takes its place."""
    return out.with_name(f".{out.name}-earlier")


def _recover(out: Path) -> None:
    """Put back the earlier report if a killed run left it aside, or drop it if the new one is in its place."""
    aside = _aside(out)
    if not aside.exists():
        return
    if not out.exists():
        aside.rename(out)
    else:
        shutil.rmtree(replaceable(aside))


def _replace(folder: Path, out: Path) -> None:
    """Put the finished folder in the place of `out`; what is there stays if that fails."""
    replaceable(out)  # again: minutes have passed
    old = _aside(out)
    if not out.exists():
        folder.rename(out)
        return
    out.rename(old)
    try:
        folder.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old)
