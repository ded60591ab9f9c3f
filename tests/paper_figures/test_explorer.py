"""The explorer: its tables against theory asked directly, and in a browser what its page draws and how it behaves."""

import json
import math
from urllib.parse import urlencode

import numpy as np
import pytest

from bntheory import edge_of_chaos, jacobian_law, phase
from paper_figures.explorer import phases, spectra
from paper_figures.explorer.choices import GAINS, INITIALIZATIONS
from paper_figures.explorer.fragment import fragment
from paper_figures.explorer.growth import Kind, growth_tables, moments, offsets
from paper_figures.report import FIGURES

HE, DEFAULT = math.sqrt(2), math.sqrt(1 / 3)
OTHERS = (("relu", True), ("tanh", False))
CLOSE = 1e-3  # of an axis, which shows a factor of e⁴ at least


def axis(*curves):
    known = np.concatenate([curve[np.isfinite(curve)] for curve in curves])
    return max(np.ptp(known), 4.0)


def relative(sizes):
    """Gradients relative to the last row's."""
    return np.array([sizes[0], sizes[1] - sizes[1][-1]])


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("gain", "width", "depth"), [(math.sqrt(2), 128, 9), (math.sqrt(2), 71, 4), (math.sqrt(1 / 3), 700, 7)]
)
def test_growth(explored, activation, batch_norm, residual, gain, width, depth):
    kind = Kind(activation, batch_norm, residual)
    found, point = explored["growth"][kind.key], {"gain": gain, "width": width}
    direct = kind.predicted("normal", gain, depth, width)
    (moment, whole), (true_moment, true_gradient) = found["normal"]["moments"].at(**point), moments(direct)
    assert moment[: depth + 1] == pytest.approx(true_moment, abs=CLOSE * axis(true_moment))
    band, true_band = found["normal"]["offsets"].at(**point)[:, : depth + 1], offsets(direct)
    both = np.isfinite(band)
    assert np.isfinite(true_band[both]).all() and both[:, :2].all()
    assert band[both] == pytest.approx(true_band[both], abs=CLOSE * axis(*(true_moment + true_band)))
    gradient = whole[:depth] - whole[depth]
    if batch_norm:
        gradient += [found["ends"].at(gain=gain, depth=depth, place=layer / depth) for layer in range(depth)]
    assert gradient == pytest.approx(true_gradient[:-1], abs=CLOSE * axis(true_gradient))


@pytest.mark.parametrize("width", [19, 333])
def test_torch_default_depends_on_the_width(explored, width):
    kind = Kind("tanh", False, False)
    tables, direct = explored["growth"][kind.key]["torch_default"], kind.predicted("torch_default", 1.0, 9, width)
    assert relative(tables["moments"].at(width=width)) == pytest.approx(moments(direct), abs=CLOSE * 4)
    assert tables["offsets"].at(width=width) == pytest.approx(offsets(direct), abs=CLOSE * 4)


@pytest.mark.parametrize(("activation", "gain"), [("relu", 1.2), ("tanh", 1.0)])
def test_growth_of_the_deepest_networks(activation, gain):
    kind, depth = Kind(activation, False, False), 100
    tables = growth_tables(kind, (gain, 2.0), depth)["normal"]
    for width in (18, 2500):
        direct = kind.predicted("normal", gain, depth, width)
        moment = moments(direct)
        scale = axis(*(moment[0] + offsets(direct)))
        assert relative(tables["moments"].at(gain=gain)) == pytest.approx(moment, abs=CLOSE * scale)
        assert tables["offsets"].at(gain=gain, width=width) == pytest.approx(offsets(direct), abs=CLOSE * scale)


def test_orthogonal_and_normal_weights_have_the_same_moments():
    kind = Kind("tanh", False, False)
    made = [moments(kind.predicted(init, 1.2, 5, 64)) for init in ("orthogonal", "normal")]
    assert made[0] == pytest.approx(made[1], abs=1e-9)
    assert np.isnan(offsets(kind.predicted("orthogonal", 1.2, 5, 64))[:, -1]).all()


@pytest.mark.parametrize(
    ("activation", "residual", "gain", "depth"),
    [("relu", False, 1.0, 7), ("relu", False, math.sqrt(2), 3), *((*kind, math.sqrt(2), 7) for kind in OTHERS)],
)
def test_spectrum(explored, activation, residual, gain, depth):
    kind = Kind(activation, False, residual)
    tables = explored["spectrum"][kind.key]
    edge, reach, *density = tables["curves"].at(gain=gain, depth=depth)
    law = jacobian_law(kind.net("normal", gain, depth, 64)).nonzero.singular
    assert law.ppf(1.0) == pytest.approx(math.exp(edge), rel=CLOSE)
    points = np.exp(edge - reach * spectra.PLACES[1:])
    true = points * law.pdf(points)  # of ln s; the root at the edge is steep: 1e-3 of the axis along either
    assert np.abs(np.array(density)[1:] - true).max() < 5 * CLOSE * true.max()
    assert law.cdf(points[-1]) == pytest.approx(spectra.LOWEST, abs=CLOSE)
    assert tables["zeros"] == (0.5 if activation == "relu" and not residual else 0)


def test_what_has_no_law_says_so(explored):
    assert "BatchNorm" in explored["spectrum"]["relu+bn"]["why"]
    assert "bntheory spectrum --activation tanh --residual" in explored["spectrum"]["tanh+residual"]["why"]


def test_phases(explored):
    diagram = explored["phase"]["tanh"]
    w, b = phases.WEIGHTS[20], phases.BIASES[6]
    assert diagram["cells"][6, 20] == pytest.approx(phase("tanh", w**2, b**2).depth_c)
    assert diagram["edge"] ** 2 == pytest.approx(edge_of_chaos("tanh", phases.LEVELS**2))
    for width in (20, 555):
        found = phase("tanh", 1 / 3, 1 / 3 / width)
        place = diagram["torch_default"].at(width=width)
        want = (math.sqrt(1 / 3), math.sqrt(1 / 3 / width), found.chi, 1 / found.depth_c)
        assert place == pytest.approx(want, rel=CLOSE)


def test_fragment_is_whole_and_names_what_may_be_chosen(explored):
    text = fragment(explored)
    kept = [name for name, (_, gain) in INITIALIZATIONS.items() if gain is None or gain in explored["gains"]]
    assert kept == ["he_normal", "torch_default", "orthogonal", "normal"]
    assert [name for name in INITIALIZATIONS if f'value="{name}"' in text] == kept
    assert {gain for _, gain in INITIALIZATIONS.values() if gain is not None} <= set(GAINS)
    data = text.split('id="explorer-tables">')[1].split("</script>")[0]
    assert {"growth", "spectrum", "phase", "initializations"} <= set(json.loads(data))
    assert "http" not in text


# --- in the browser ------------------------------------------------------------------------------------------------


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
    chosen = shown(activation="sine", init="normal", gain=1.5, depth=500, width="wide", bn=1)["choice"]
    said = browser.find_element("id", "explorer-said").text
    assert "activation must be one of relu, tanh, got sine" in said
    assert "got 1.5: 1.414 is shown" in said
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
    ends = "return Array.from(document.querySelectorAll('td, code'), (one) => one.getBoundingClientRect().right)"
    assert max(browser.execute_script(ends)) <= width  # and nothing is to be found by scrolling tables
    images = browser.find_elements("tag name", "img")
    complete = "return Array.from(document.images, (image) => image.complete && image.naturalWidth > 0)"
    assert len(images) == len(FIGURES) + 1 and all(browser.execute_script(complete))
    assert browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []
    labelled = (
        "return Array.from(document.querySelectorAll('input, select'), (one) => one.labels.length > 0 || one.ariaLabel)"
    )
    assert all(browser.execute_script(labelled))
    drawn = (
        "return Array.from(document.querySelectorAll('svg'), (one) => one.role === 'img' && one.ariaLabel.length > 40)"
    )
    assert browser.execute_script(drawn) == [True] * 4
