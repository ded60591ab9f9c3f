"""Small tables of the explorer, the page with them, and a browser that shows it."""

import io
import math
import shutil

import pytest

from paper_figures.explorer.fragment import explorer_tables, fragment
from paper_figures.page import page

QUIET = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def explored():
    gains = (math.sqrt(1 / 3), math.sqrt(2))
    return explorer_tables(("relu", "tanh"), gains, depth=9, workers=1)


def picture():
    from matplotlib.figure import Figure

    stream = io.BytesIO()
    Figure(figsize=(1, 1)).savefig(stream, format="png")
    return stream.getvalue()


@pytest.fixture(scope="module")
def address(explored, tmp_path_factory):
    """A page as the report writes it, of one figure."""
    check = {"what": "a rather long name of what is checked", "expected": "1.0000 ± 0.0010", "got": 1.0, "passed": True}
    figure = {
        "title": "Figure 8: products",
        "text": "What it shows. How it was made.",
        "checks": [check],
        "runs": [
            {"date": "2026-11-26", "command": "bntheory sweep --learning-rates 0.001,0.003,0.01,0.03,0.1,0.3,1,3"}
        ],
        "seconds": 1.0,
    }
    keys = ("figure", "what", "paper", "theory", "ours", "verdict", "explanation")
    claim = dict.fromkeys(keys, "10^(1.0, 2.0, 3.0) (by eye)") | {"verdict": "reproduced"}
    results = {"figures": {"figure8": figure}, "own": figure | {"title": "Your network: package.module:factory"}}
    results |= {"claims": [claim] * 3, "versions": {"numpy": "2"}, "seed": 0, "scale": "quick", "device": "cpu"}
    results |= {"written": "today", "seconds": 1.0, "explorer_seconds": 1.0}
    text = page(results, dict.fromkeys(("figure8", "your_network"), picture()), fragment(explored))
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
