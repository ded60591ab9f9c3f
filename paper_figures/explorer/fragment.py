"""The explorer as a part of a page: controls, places for the pictures, tables and script."""

from __future__ import annotations

import json
from html import escape
from importlib import resources
from itertools import product
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from paper_figures.explorer import choices
from paper_figures.explorer.growth import Kind, growth_tables
from paper_figures.explorer.phases import BIASES, LEVELS, WEIGHTS, phase_tables
from paper_figures.explorer.spectra import PLACES, spectrum_tables
from paper_figures.explorer.tables import Table
from simulations.processes import dropped

PANELS = (
    ("growth", "Activations", ("mean of ln⟨h²⟩", "90% of networks", "ln of the mean"), ("", "band", "dashed")),
    ("gradient", "Gradients", ("ln of the mean, relative to the last layer’s",), ("dashed",)),
    ("phase", "Phase diagram", ("edge of chaos",), ("edge",)),
    ("spectrum", "Spectrum of the Jacobian", ("law of the singular values",), ("",)),
)


def explorer_tables(
    activations: tuple[str, ...] = choices.ACTIVATIONS,
    gains: tuple[float, ...] = choices.GAINS,
    depth: int = choices.DEPTH,
    workers: int = 2,
) -> dict[str, Any]:
    """Ask theory for all that the explorer may show.

    Parameters
    ----------
    activations : tuple of str
        Of ``choices.ACTIVATIONS``.
    gains : tuple of float
        Stops of σ_w, increasing; those of the named initializations are to be among them.
    depth : int
        Of the deepest network.
    workers : int
        Processes; 1: none but this one.

    Returns
    -------
    dict
        "growth" and "spectrum" by `Kind.key`, "phase" by activation, of Tables and words, beside the arguments.
    """
    kinds = [Kind(*kind) for kind in product(activations, (True, False), (True, False))]
    asked = [(kind, gains, depth) for kind in kinds]
    if workers == 1:
        found = list(map(_of_kind, asked))
    else:
        with dropped(workers) as pool:
            found = list(pool.map(_of_kind, asked))
    return {
        "activations": activations,
        "gains": gains,
        "depth": depth,
        "growth": {kind.key: grown for kind, (grown, _) in zip(kinds, found, strict=True)},
        "spectrum": {kind.key: law for kind, (_, law) in zip(kinds, found, strict=True)},
        "phase": {name: phase_tables(name, gains) for name in activations},
    }


def _of_kind(asked: tuple[Kind, tuple[float, ...], int]) -> tuple[dict[str, Any], dict[str, Any]]:
    with threadpool_limits(1):
        return growth_tables(*asked), spectrum_tables(*asked)


def fragment(tables: dict[str, Any]) -> str:
    """Return the explorer as HTML, with its style, tables and script inside.

    Parameters
    ----------
    tables : dict
        From `explorer_tables`.
    """
    read = resources.files("paper_figures.explorer").joinpath
    named = {
        name: {"label": label, "gain": gain}
        for name, (label, gain) in choices.INITIALIZATIONS.items()
        if gain is None or gain in tables["gains"]
    }
    data = _plain({**tables, "initializations": named})
    for law in data["spectrum"].values():
        law["places"] = PLACES.tolist()
    for diagram in data["phase"].values():
        diagram |= {"weights": WEIGHTS.tolist(), "biases": BIASES.tolist(), "levels": LEVELS.tolist()}
    text = json.dumps(data, allow_nan=False, ensure_ascii=False).replace("</", "<\\/")
    return f"""<section id="explorer" class="explorer">
<h2>Explorer</h2>
<p>Choose a network of equal widths: all four pictures are redrawn from tables that theory filled when this page was
made, read between their nodes to a thousandth of the axis. The input has mean square 1; BatchNorm stands before every
activation, in batches of {choices.BATCH}; a residual block is h + W φ(h).</p>
<style>{read("explorer.css").read_text(encoding="utf-8")}</style>
{_form(tables, named)}
<p id="explorer-said" role="status"></p>
<div class="panels">{"".join(_panel(*panel) for panel in PANELS)}</div>
<script type="application/json" id="explorer-tables">{text}</script>
<script>{read("explorer.js").read_text(encoding="utf-8")}</script>
</section>
"""


def _plain(value: Any) -> Any:
    """Tables, arrays and tuples for JSON."""
    if isinstance(value, Table):
        return value.plain()
    if isinstance(value, np.ndarray):
        return Table({}, value).plain()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _form(tables: dict[str, Any], named: dict[str, Any]) -> str:
    inits = "".join(f'<option value="{name}">{escape(law["label"])}</option>' for name, law in named.items())
    activations = "".join(f"<option>{escape(name)}</option>" for name in tables["activations"])
    gains, depth = tables["gains"], tables["depth"]
    marks = "".join(f'<option value="{place}" label="{gain:.2f}"></option>' for place, gain in enumerate(gains))
    return f"""<form id="explorer-form" aria-label="Network">
<label>initialization <select name="init">{inits}</select></label>
<div><label for="explorer-stop">gain</label> <output id="explorer-gain" for="explorer-stop"></output>
<input id="explorer-stop" name="gain" type="range" min="0" max="{len(gains) - 1}" value="0" list="explorer-gains">
<datalist id="explorer-gains">{marks}</datalist></div>
<label>activation <select name="activation">{activations}</select></label>
{_number("depth", 1, depth, min(50, depth), 1, depth)}
{_number("width", 16, 4096, 128, 0, 160)}
<div><label class="switch"><input name="bn" type="checkbox"> BatchNorm</label>
<label class="switch"><input name="residual" type="checkbox"> residual blocks</label></div>
</form>"""


def _number(name: str, low: int, high: int, value: int, first: int, last: int) -> str:
    """A number and a slider for it, whose steps go from `first` to `last`."""
    return f"""<div class="pair"><label for="explorer-{name}">{name}, {low} to {high}</label>
<input id="explorer-{name}" name="{name}" type="number" min="{low}" max="{high}" value="{value}">
<input name="{name}-slider" type="range" min="{first}" max="{last}" aria-label="{name}"></div>"""


def _panel(name: str, title: str, keys: tuple[str, ...], styles: tuple[str, ...]) -> str:
    legend = " ".join(f'<span class="key {style}">{key}</span>' for key, style in zip(keys, styles, strict=True))
    return f"""<figure>
<h3>{title}</h3>
<div id="explorer-{name}"></div>
<figcaption>{legend} <span id="explorer-{name}-words" aria-live="polite"></span></figcaption>
</figure>
"""
