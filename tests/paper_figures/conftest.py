"""Small tables of the explorer, the page with them, and a browser that shows it."""

import importlib
import math
import runpy
import shutil
from pathlib import Path

import pytest

from paper_figures.explorer.fragment import explorer_tables, fragment
from paper_figures.page import page
from paper_figures.report import FIGURES
from paper_figures.values import runs_of
from paper_figures.verdicts import Claim

DOCS = Path(__file__).parents[2] / "docs"

QUIET = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def explored():
    gains = (math.sqrt(1 / 3), math.sqrt(2))
    return explorer_tables(("relu", "tanh"), gains, depth=9, workers=1)


def judged():
    """The claims as they are."""
    rows = runpy.run_path(str(DOCS / "claims_in_readme.py"))["rows"]
    table = rows((DOCS / "claims.md").read_text(encoding="utf-8"))
    return [Claim(*(cell.replace("\\|", "|") for cell in row))._asdict() for row in table.values()]


@pytest.fixture(scope="module")
def address(explored, tmp_path_factory):
    """A page as the report writes it: all figures' words and all claims, with one picture and one check everywhere."""
    check = {"what": "a rather long name of what is checked", "expected": "1.0000 ± 0.0010", "got": 1.0, "passed": True}
    figures = {name: importlib.import_module(f"paper_figures.{name}") for name in FIGURES}
    made = {
        name: {"title": script.TITLE, "text": script.TEXT, "checks": [check], "runs": runs_of(name), "seconds": 1.0}
        for name, script in figures.items()
    }
    results = {"figures": made, "own": made["figure8"] | {"title": "Your network: package.module:factory"}}
    results |= {"claims": judged(), "versions": {"numpy": "2"}, "seed": 0, "scale": "quick", "device": "cpu"}
    results |= {"written": "today", "seconds": 1.0, "explorer_seconds": 1.0}
    picture = (DOCS / "figure5.png").read_bytes()
    text = page(results, dict.fromkeys((*FIGURES, "your_network"), picture), fragment(explored))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium without a window."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no browser: Debian's packages chromium and chromium-driver have one")
    options = webdriver.ChromeOptions()
    for word in (*QUIET.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(word)
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()
