import base64
import html
import importlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from bntheory import cli
from paper_figures import figure8, own_network, page, report, training_claims

pytest.importorskip("torch")
pytest.importorskip("sklearn")

ALL = report.FIGURES
SOME = ("growth", "figure2", "figure8", "figure5")  # those that take little time
TINY = {
    "growth": {"depth": 4, "width": 16, "networks": 60, "modules": 4},
    "figure2": {"depth": 8, "images": 8, "draws": 1, "layer": 4},
    "figure8": {"width": 60, "draws": 3},
    "figure5": {"depth": 8, "size": 16, "images": 16, "draws": 3},
    "explorer": {"activations": ("linear",), "gains": (1.0, 2**0.5), "depth": 2},
}
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(report.SIZES, "quick", TINY)
    monkeypatch.setattr(report, "FIGURES", SOME)
    monkeypatch.setattr(report, "cores", lambda: 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(report.SIZES, "quick", TINY)
        patch.setattr(report, "FIGURES", SOME)
        out = tmp_path_factory.mktemp("reports") / "nested" / "report"
        report.make_report(out, seed=1, device="cpu", workers=1)
    return out


class Page(HTMLParser):
    """Sources, links and open tags of a page."""

    def __init__(self):
        super().__init__()
        self.sources, self.links, self.open, self.titles = [], [], [], 0

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.sources += [attributes["src"]] if "src" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        self.titles += tag == "h2"
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_folder_holds_page_pictures_and_numbers_only(folder):
    files = {"report.html", "results.json", *(f"{name}.png" for name in SOME)}
    assert {entry.name for entry in folder.iterdir()} == files
    assert [entry.name for entry in folder.parent.iterdir()] == ["report"]  # no temporary folder stays


def test_page_needs_nothing_but_itself(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == [] and page.titles == 2 + len(SOME)
    assert page.links == [f"#{name}" for name in ("claims", "explorer", *SOME)]
    assert len(page.sources) == len(SOME)
    for source in page.sources:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True).startswith(PNG)
    assert not re.search(r"https?://|url\(|@import|<script src", re.sub(r"data:image/png;base64,[^\"]*", "", text))
    assert 'name="viewport"' in text and "not CIFAR-10" in text


def test_claims_come_first_and_name_what_was_not_tested(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.index('id="claims"') < text.index('id="explorer"') < text.index('id="growth"')
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))["claims"]
    assert sum(claim["verdict"] == "not testable at this scale" for claim in found) == len(training_claims.OPEN)
    assert all(claim["what"] in html.unescape(text) for claim in found) and len(found) > len(training_claims.OPEN)


def test_the_page_says_when_and_by_which_command_what_is_kept_was_made(folder):
    text = html.unescape((folder / "report.html").read_text(encoding="utf-8"))
    place = text.index('id="figure2"')  # of those here the only one with kept results
    run = "2026-11-26: <code>python tests/benchmarks/initialization_probes.py --draws 11</code>"
    assert text.count("<code>") == 1 and place < text.index(run) < text.index("</section>", place)


def test_results_are_strict_json_with_checks_and_settings(folder):
    def refuse(word):
        raise AssertionError(f"{word} in JSON")

    results = json.loads((folder / "results.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert (results["seed"], results["scale"], results["device"]) == (1, "quick", "cpu")
    assert {"python", "torch", "numpy"} <= set(results["versions"])
    for figure in results["figures"].values():
        assert figure["numbers"] and figure["seconds"] >= 0
        assert {"what", "expected", "got", "passed"} == set(figure["checks"][0])


def test_the_same_seed_gives_the_same_numbers(folder, tmp_path):
    first = json.loads((folder / "results.json").read_text(encoding="utf-8"))["figures"]["figure8"]["numbers"]
    second = report.make_figure("figure8", tmp_path, seed=1, **TINY["figure8"])["numbers"]
    assert json.loads(json.dumps(report.plain(second))) == first


def test_a_picture_says_its_scale(tmp_path, monkeypatch):
    drawn, draw = [], figure8.draw
    monkeypatch.setattr(figure8, "draw", lambda data: drawn.append(draw(data)) or drawn[-1])
    report.make_figure("figure8", tmp_path, **TINY["figure8"])
    monkeypatch.setitem(report.SIZES, "full", {"figure8": {"draws": 48}})
    report.make_figure("figure8", tmp_path, scale="full", **TINY["figure8"])
    assert [figure.get_supxlabel().splitlines()[-1] for figure in drawn] == ["the same at every scale", "scale: full"]


def test_numbers_are_those_of_a_process_of_its_own(folder, tmp_path, monkeypatch):
    """Of a figure that computes with NumPy's threads and with torch's."""
    monkeypatch.setattr(report, "FIGURES", ("figure5",))
    made = report._make_figures(tmp_path, TINY, {"seed": 1, "device": "cpu", "scale": "quick"}, workers=2)
    alone = json.loads((folder / "results.json").read_text(encoding="utf-8"))["figures"]
    assert json.loads(json.dumps(report.plain(made["figure5"]["numbers"]))) == alone["figure5"]["numbers"]


def light(monkeypatch):
    """Only the fastest figure."""
    monkeypatch.setattr(report, "FIGURES", ("figure8",))


def test_an_earlier_report_is_replaced_whole(tmp_path, monkeypatch):
    light(monkeypatch)
    out = tmp_path / "report"
    report.make_report(out, seed=1)
    report.make_report(out, seed=2)
    assert json.loads((out / "results.json").read_text(encoding="utf-8"))["seed"] == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


def test_an_empty_folder_will_do(tmp_path, monkeypatch):
    light(monkeypatch)
    report.make_report(tmp_path)
    assert (tmp_path / "report.html").exists()


def test_nothing_foreign_is_destroyed(tmp_path, monkeypatch):
    light(monkeypatch)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="must be a folder"):
        report.make_report(tmp_path / "file")
    with pytest.raises(ValueError, match="something other than a report \\(file\\)"):
        report.make_report(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "results.json").write_text('{"accuracy": 0.9}')
    with pytest.raises(ValueError, match=r"results\.json"):
        report.make_report(other)
    mixed = tmp_path / "mixed"
    report.make_report(mixed)
    (mixed / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        report.make_report(mixed)
    assert (mixed / "notes.txt").read_text() == "mine"
    monkeypatch.chdir(other)
    (other / "results.json").unlink()
    with pytest.raises(ValueError, match="current folder"):
        report.make_report(".")


def test_a_failure_leaves_the_old_report(tmp_path, monkeypatch):
    light(monkeypatch)
    out = tmp_path / "report"
    report.make_report(out, seed=1)

    def broken(**sizes):
        raise RuntimeError("broken")

    monkeypatch.setattr(figure8, "compute", broken)
    with pytest.raises(RuntimeError, match="broken"):
        report.make_report(out, seed=2)
    assert json.loads((out / "results.json").read_text(encoding="utf-8"))["seed"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


def run(monkeypatch, capsys, *arguments):
    """Exit status, standard output and error of `bntheory report`."""
    monkeypatch.setattr(sys, "argv", ["bntheory", "report", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return exit_.value.code, *capsys.readouterr()


def test_command_reports_and_exits(tmp_path, monkeypatch, capsys):
    light(monkeypatch)
    out = str(tmp_path / "report")
    status, output, _ = run(monkeypatch, capsys, "--out", out, "--seed", "1", "--device", "cpu")
    assert status == 0 and "10 of 10 checks passed" in output
    monkeypatch.setattr(figure8, "TRACY_WIDOM_MEAN", -9.0)
    status, output, _ = run(monkeypatch, capsys, "--out", out, "--device", "cpu")
    assert status == 1 and "failed: M = 1: largest value" in output
    assert "3 of 10 checks failed" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", ["torch", "sklearn"])
def test_without_the_extra_one_line_names_it(tmp_path, monkeypatch, capsys, module):
    monkeypatch.setitem(sys.modules, module, None)
    status, _, error = run(monkeypatch, capsys, "--out", str(tmp_path / "report"))
    assert status == 2 and 'pip install "bntheory[train]"' in error
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_every_figure_says_in_two_sentences_what_it_shows_and_how_it_was_made():
    for name in ALL:
        text = importlib.import_module(f"paper_figures.{name}").TEXT
        first, *others = (html.unescape(part) for part in re.findall(r"<p>(.*?)</p>", page._told(text)))
        assert len(re.findall(r"[.] (?=[A-Z])", first)) == 1 and first.endswith(".") and len(first) < 700, name
        assert " ".join([first, *others]) == text


MODULE = """
from torch import nn

def small():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
"""


def test_a_network_of_ones_own(tmp_path, monkeypatch, capsys):
    light(monkeypatch)
    (tmp_path / "own_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    status, output, error = run(
        monkeypatch, capsys, "--out", "report", "--model", "own_models:small", "--input", "64", "--data", "noise"
    )
    assert status == 0 and "11 of 11 checks passed" in output, error
    found = json.loads((tmp_path / "report" / "results.json").read_text(encoding="utf-8"))
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "report" / "your_network.png").exists() and "your_network.png" in found["files"]
    own = found["own"]["numbers"]
    assert own["agrees"] and own["trials"] == own_network.TRIALS
    assert own["estimate"][1] == pytest.approx(own["upper"][1], abs=0.2)
    assert text.index('id="figure8"') < text.index('id="your_network"') and "own_models:small" in text
    report.make_report("report", seed=1)  # in place of one with more pictures
    assert not (tmp_path / "report" / "your_network.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--input", "64"), "--input belongs to a network: give --model too"),
        (("--data", "noise"), "--data belongs to a network: give --model too"),
        (("--model", "math:pi"), "math:pi"),
        (("--model", "torch.nn:Identity"), "needs the shape of one input"),
    ],
)
def test_what_is_no_network_is_refused_at_once(tmp_path, monkeypatch, capsys, words, said):
    light(monkeypatch)
    status, _, error = run(monkeypatch, capsys, "--out", str(tmp_path / "report"), *words)
    assert status == 2 and said in error and not list(tmp_path.iterdir())


def test_cuda_without_a_gpu_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status, _, error = run(monkeypatch, capsys, "--out", str(tmp_path / "report"), "--device", "cuda")
    assert status == 2 and "'cuda' is not available" in error and error.count("\n") == 1


def test_single_figures_are_listed_and_refused(tmp_path):
    command = [sys.executable, "-m", "paper_figures"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    numbered = [f"figure{number}" for number in range(1, 9)]
    names = ("draws", "learning_rates", "last_layer", "sgd_noise", "initializations", "trained_networks")
    own = ("condition_number", "gradient_explosion", "input_conditioning")
    appendices = [f"appendix_{name}" for name in (*names, *own)]
    assert listed.stdout.split() == ["growth", *numbered, "table1", *appendices]
    refused = subprocess.run([*command, "figure9", "--out", tmp_path], capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "figure must be one of growth, figure1, figure2" in refused.stderr


def loaded(modules, *heavy):
    """Which of the heavy packages an import loads in a fresh interpreter."""
    code = f"import sys, {modules}; print(*({set(heavy)} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_commands_loads_nothing_heavy():
    assert loaded("paper_figures.commands", "numpy", "scipy", "matplotlib", "torch", "sklearn") == []


def test_importing_the_figures_loads_neither_torch_nor_matplotlib():
    scripts = ", ".join(f"paper_figures.{name}" for name in ("report", *report.FIGURES))
    assert loaded(scripts, "matplotlib", "torch", "sklearn") == []


def test_an_earlier_report_that_a_kill_left_aside_is_put_back(tmp_path):
    out = tmp_path / "report"
    aside = report._aside(out)
    aside.mkdir()
    (aside / "report.html").write_text("earlier")
    report._recover(out)
    assert (out / "report.html").read_text() == "earlier" and not aside.exists()
    report._recover(out)  # nothing to do
    assert out.is_dir()
    aside.mkdir()  # killed after the new report took its place: the earlier one is dropped
    (aside / "report.html").write_text("older")
    (aside / "results.json").write_text(json.dumps({"format": report.FORMAT, "files": ["report.html", "results.json"]}))
    report._recover(out)
    assert (out / "report.html").read_text() == "earlier" and not aside.exists()
    aside.mkdir()
    (aside / "mine.txt").write_text("not a report")
    with pytest.raises(ValueError, match=r"mine\.txt"):
        report._recover(out)
    assert (aside / "mine.txt").exists()
