"""The report's page: HTML that needs nothing but itself."""

from __future__ import annotations

import base64
import re
from html import escape
from typing import Any

from paper_figures.claims import summary
from paper_figures.verdicts import Claim

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem 1.25rem 3rem; font: 1rem/1.55 system-ui, sans-serif;
  color: #1a1a1a; background: #fff; overflow-wrap: anywhere; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 1rem 0 .75rem; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 .5rem; }
h1, h2, h3 { text-wrap: balance; }
section { margin-top: 2.5rem; padding-top: 1.25rem; border-top: 1px solid #d0d7de; }
section > p, header p, details { max-width: 46rem; }
summary { cursor: pointer; color: #0058a3; } summary:focus-visible { outline: 3px solid #e69f00; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 1rem 0 0; padding: 0; list-style: none;
  font-size: .875rem; }
a { color: #0058a3; }
a:focus-visible, .scroll:focus-visible { outline: 3px solid #e69f00; outline-offset: 2px; }
img { display: block; width: 100%; max-width: 42rem; height: auto; margin: 1rem auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; line-height: 1.4; }
th, td { text-align: left; vertical-align: top; overflow-wrap: break-word;
  padding: .4rem .9rem .4rem 0; border-bottom: 1px solid #ddd; }
thead th { border-bottom: 2px solid #8c959f; }
td.number, .checks td.ok, .checks td.failed { font-variant-numeric: tabular-nums; white-space: nowrap; }
.ok { color: #006b4e; } .failed { color: #a83a00; font-weight: bold; }
.verdict { display: inline-block; padding: .25rem .75rem; border-radius: 1rem; background: #f6f8fa; font-weight: 600; }
.claims td:first-child { color: #444; white-space: nowrap; }
.claims p { margin: .2rem 0 0; color: #444; }
.claims td:last-child { min-width: 6.5rem; }
.open { color: #444; }
.runs { margin-top: .75rem; font-size: .875rem; color: #444; } .runs p { margin: 0; }
.runs ul { margin: .25rem 0 0; padding-left: 1.25rem; }
@media (max-width: 44rem) { h1 { font-size: 1.45rem; } thead { display: none; }
  tr { display: block; padding: .6rem 0; border-bottom: 1px solid #ddd; }
  td { display: block; border: 0; padding: .1rem 0; }
  td[data-label]::before { content: attr(data-label) ": "; color: #444; }
  .checks tr { padding: .4rem 0; } .checks td:not(:first-child) { display: inline-block; margin-right: .9rem; } }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid #d0d7de; font-size: .875rem; color: #444; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  img { max-width: 30rem; break-inside: avoid; } tr, figure { break-inside: avoid; } h2 { break-after: avoid; }
  .scroll { overflow: visible; } }
"""


def page(results: dict[str, Any], pictures: dict[str, bytes], explorer: str) -> str:
    """Return the page as text.

    Parameters
    ----------
    results : dict
        As in results.json: settings, versions, and title, text, checks, runs, seconds of every figure, and of "own",
        the user's network, or None.
    pictures : dict
        PNG of every figure; "your_network" of the user's.
    explorer : str
        From `explorer.fragment.fragment`.

    Returns
    -------
    str
        HTML with the pictures inside and nothing loaded from elsewhere.
    """
    own = {"your_network": results["own"]} if results["own"] else {}
    made = {**results["figures"], **own}
    checks = [check for figure in made.values() for check in figure["checks"]]
    failed = sum(not check["passed"] for check in checks)
    verdict = f"All {len(checks)} checks passed" if not failed else f"{failed} of {len(checks)} checks failed"
    counted = summary(Claim(**claim) for claim in results["claims"])
    figures = "".join(_figure(name, figure, pictures[name]) for name, figure in made.items())
    anchors = {"claims": "Claims", "explorer": "Explorer", **{name: _short(figure) for name, figure in made.items()}}
    links = "".join(f'<li><a href="#{escape(name)}">{escape(words)}</a></li>' for name, words in anchors.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>bntheory: theory and random networks compared</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>Theory and random networks compared</h1>
<p>Laws of random deep networks at initialization beside simulated and real (torch) networks, and beside the points read
by eye off the figures of Bjorck, Gomes, Selman, Weinberger, “Understanding Batch Normalization” (2018,
arXiv:1806.02375). The paper's images are CIFAR-10's; ours are Fashion-MNIST where it is installed, otherwise and in
some figures the 1797 handwritten digits of 8×8 pixels that scikit-learn ships, not CIFAR-10: every figure says
which.</p>
<p><strong>{counted}</strong></p>
<p class="verdict {"failed" if failed else "ok"}">{verdict}, of the numbers behind the figures.</p>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
{_claims(results["claims"])}
{explorer}
{figures}
{_footer(results)}
</body>
</html>
"""


def _claims(claims: list[dict[str, Any]]) -> str:
    rows = "".join(_claim(claim) for claim in claims)
    heads = "".join(f"<th>{head}</th>" for head in ("where", "claim", "paper", "theory", "ours", "verdict"))
    return f"""<section id="claims">
<h2>The paper's claims</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Claims"><table class="claims">
<thead><tr>{heads}</tr></thead>
<tbody>{rows}</tbody>
</table></div>
</section>
"""


def _short(figure: dict[str, Any]) -> str:
    """What a link to a figure says."""
    return str(figure["title"]).split(":")[0].split(" (")[0]


def _claim(claim: dict[str, Any]) -> str:
    words = {"reproduced": "ok", "not reproduced": "failed"}
    values = "".join(f"<td data-label='{key}'>{escape(claim[key])}</td>" for key in ("paper", "theory", "ours"))
    return (
        f"<tr><td>{escape(claim['figure'])}</td><td>{escape(claim['what'])}<p>{escape(claim['explanation'])}</p></td>"
        f"{values}<td class='{words.get(claim['verdict'], 'open')}'>{escape(claim['verdict'])}</td></tr>\n"
    )


def _figure(name: str, figure: dict[str, Any], picture: bytes) -> str:
    rows = "".join(_row(check) for check in figure["checks"])
    data = base64.b64encode(picture).decode()
    return f"""<section id="{escape(name)}">
<h2>{escape(figure["title"])}</h2>
{_told(figure["text"])}
<img alt="{escape(figure["title"])}" src="data:image/png;base64,{data}">
<div class="scroll" tabindex="0" role="region" aria-label="Checks"><table class="checks">
<thead><tr><th>check</th><th>expected</th><th>got</th><th aria-label="verdict"></th></tr></thead>
<tbody>{rows}</tbody>
</table></div>
{_runs(figure["runs"])}</section>
"""


def _told(text: str) -> str:
    """Two sentences, and the others folded."""
    sentences = re.split(r"(?<=[.!?]) (?=[A-Z])", text)
    first, others = (escape(" ".join(part)) for part in (sentences[:2], sentences[2:]))
    return f"<p>{first}</p>" + (f"\n<details><summary>more</summary><p>{others}</p></details>" if others else "")


def _runs(runs: list[dict[str, str]]) -> str:
    """When and how results were made that are not made anew."""
    if not runs:
        return ""
    items = "".join(f"<li>{escape(run['date'])}: <code>{escape(run['command'])}</code></li>" for run in runs)
    what = "What is not made anew here, but kept as data, was made by:"
    return f"<div class='runs'><p>{what}</p><ul>{items}</ul></div>\n"


def _row(check: dict[str, Any]) -> str:
    word = "ok" if check["passed"] else "failed"
    return (
        f"<tr><td>{escape(check['what'])}</td><td class='number' data-label='expected'>{escape(check['expected'])}</td>"
        f"<td class='number' data-label='got'>{check['got']:.4g}</td><td class='{word}'>{word}</td></tr>\n"
    )


def _footer(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{escape(name)} {escape(version)}" for name, version in results["versions"].items())
    parts = {**results["figures"], "explorer": {"seconds": results["explorer_seconds"]}}
    parts |= {"your network": results["own"]} if results["own"] else {}
    times = ", ".join(f"{escape(name)} {part['seconds']:.0f} s" for name, part in parts.items())
    return f"""<footer>
<p>Seed {results["seed"]}, scale {escape(results["scale"])}, torch on {escape(results["device"])}; written
{escape(results["written"])}. Time: {results["seconds"]:.0f} s ({times}).</p>
<p>{versions}.</p>
<p>The numbers behind every figure are in results.json beside this page.</p>
</footer>"""
