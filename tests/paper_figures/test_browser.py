"""The report's page in headless Chromium: what the explorer draws against theory, and how the page behaves."""

import io
import math
import shutil
from urllib.parse import urlencode

import numpy as np
import pytest

from bntheory import jacobian_law, phase
from paper_figures.explorer import spectra
from paper_figures.explorer.fragment import fragment
from paper_figures.explorer.growth import Kind, moments, offsets
from paper_figures.page import page

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("no browser: Debian's packages chromium and chromium-driver have one", allow_module_level=True)
QUIET = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
HE, DEFAULT = math.sqrt(2), math.sqrt(1 / 3)


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
    options = webdriver.ChromeOptions()
    for word in (*QUIET.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(word)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def shown(browser, address):
    """Open the page afresh with a choice in its address; return what is drawn."""

    def show(**chosen):
        browser.get("about:blank")
        browser.get(f"{address}#{urlencode(chosen)}" if chosen else address)
        return numbers(browser)

    yield show
    assert browser.get_log("browser") == []


def numbers(browser):
    return browser.execute_script("return JSON.parse(JSON.stringify(explorerNumbers()))")


def of(values):
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def same(found, true, axis):
    """To a thousandth of the axis; nothing is drawn that theory does not have."""
    found = of(found)
    known = np.isfinite(found)
    assert len(found) == len(true) and np.isfinite(true[known]).all()
    assert np.abs(found - true)[known].max() <= 1e-3 * (axis[1] - axis[0])


@pytest.mark.parametrize(
    "kind", [Kind(a, b, r) for a in ("relu", "tanh") for b in (False, True) for r in (False, True)]
)
@pytest.mark.parametrize(
    ("init", "gain", "depth", "width"),
    [
        ("he_normal", HE, 9, 128),
        ("he_normal", HE, 7, 300),
        ("torch_default", DEFAULT, 5, 57),
        ("normal", DEFAULT, 1, 31),
    ],
)
def test_what_is_drawn_is_what_theory_says(shown, kind, init, gain, depth, width):
    words = {"init": init, "gain": gain, "activation": kind.activation, "depth": depth, "width": width}
    drawn = shown(**words, bn=int(kind.batch_norm), residual=int(kind.residual))
    law = init if init == "torch_default" else "normal"
    growth, own = kind.predicted(law, gain, depth, width), drawn["growth"]
    moment, gradient = moments(growth)
    same(own["log_second_moment"], moment, own["axis"])
    same(drawn["gradient"]["log_gradient"], gradient, drawn["gradient"]["axis"])
    for name, true in zip(("mean", "lower", "upper"), moment + offsets(growth), strict=True):
        same(own[name], true, own["axis"])
        assert of(own[name])[1] == pytest.approx(true[1], abs=4e-3)  # there is a band
    _same_spectrum(drawn["spectrum"], kind, law, gain, depth)
    if kind.batch_norm or kind.residual:
        assert "plain networks" in drawn["phase"]["why"]
    else:
        place = phase(kind.activation, gain**2, 1 / 3 / width if init == "torch_default" else 0.0)
        assert drawn["phase"]["chi"] == pytest.approx(place.chi, rel=1e-3)
        assert drawn["phase"]["rate"] == pytest.approx(1 / place.depth_c, rel=1e-3, abs=1e-6)


def _same_spectrum(drawn, kind, law, gain, depth):
    if drawn["why"]:
        assert kind.batch_norm or (kind.activation == "tanh" and (kind.residual or law == "torch_default" or depth > 8))
        return
    log = jacobian_law(kind.net(law, gain, depth, 64)).nonzero.log
    edge = float(log.support[1])
    reach = edge - float(log.ppf(spectra.LOWEST))
    same(drawn["x"], (edge - reach * spectra.PLACES) / 2, drawn["axes"]["x"])
    same(drawn["density"], 2 * log.pdf(edge - reach * spectra.PLACES), drawn["axes"]["y"])


def test_every_control_changes_what_it_should_and_the_address_keeps_it(browser, shown):
    shown()
    pictures = {
        name: browser.find_element("id", f"explorer-{name}") for name in ("growth", "gradient", "phase", "spectrum")
    }

    def changed(name, *keys):
        before = {panel: place.get_attribute("innerHTML") for panel, place in pictures.items()}
        browser.find_element("name", name).send_keys(*keys)
        after = {panel: place.get_attribute("innerHTML") for panel, place in pictures.items()}
        return {panel for panel in pictures if before[panel] != after[panel]}

    right = "\ue014"
    browser.execute_script("document.getElementsByName('depth')[0].value = 6")
    assert changed("depth-slider", right) == {"growth", "gradient", "spectrum"}
    assert changed("width-slider", right) == {"growth"}
    assert changed("gain", "\ue012") == {"growth", "gradient", "phase", "spectrum"}
    assert numbers(browser)["choice"]["init"] == "normal"
    assert changed("init", "orth") == {"growth", "spectrum"}
    assert "no law for orthogonal weights" in browser.find_element("id", "explorer-growth-words").text
    assert changed("activation", "tanh") == {"growth", "gradient", "phase"}  # the spectrum stays absent
    assert changed("init", "He") == {"growth", "gradient", "phase", "spectrum"}
    assert changed("bn", " ") == {"growth", "gradient", "phase", "spectrum"}
    assert changed("residual", " ") == {"growth", "gradient"}  # the others stay absent
    chosen = numbers(browser)["choice"]
    assert chosen["bn"] and chosen["residual"] and chosen["activation"] == "tanh"
    address = browser.current_url
    browser.get("about:blank")
    browser.get(address)
    assert numbers(browser)["choice"] == chosen


def test_bad_choices_are_named_and_nothing_stale_is_drawn(browser, shown):
    chosen = shown(activation="sine", depth=500, width="wide", bn=1)["choice"]
    said = browser.find_element("id", "explorer-said").text
    assert "activation must be one of relu, tanh, got sine" in said
    assert "depth must be a whole number from 1 to 9, got 500" in said and chosen["depth"] == 9
    assert chosen["width"] == 128
    for panel in ("phase", "spectrum"):
        place = browser.find_element("id", f"explorer-{panel}")
        assert "not available because" in place.text and not place.find_elements("tag name", "svg")


@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_fits_and_needs_nothing_but_itself(browser, shown, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    shown()
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    images = browser.find_elements("tag name", "img")
    complete = "return Array.from(document.images, (image) => image.complete && image.naturalWidth > 0)"
    assert len(images) == 2 and all(browser.execute_script(complete))
    assert browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []
    labelled = (
        "return Array.from(document.querySelectorAll('input, select'), (one) => one.labels.length > 0 || one.ariaLabel)"
    )
    assert all(browser.execute_script(labelled))
    drawn = (
        "return Array.from(document.querySelectorAll('svg'), (one) => one.role === 'img' && one.ariaLabel.length > 40)"
    )
    assert browser.execute_script(drawn) == [True] * 4
