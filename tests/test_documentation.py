"""README and documentation: examples print what the pages say, links resolve, every public name has its entry."""

import doctest
import importlib
import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import click
import matplotlib
import pytest

from bntheory.cli import cli

pytest.importorskip("torch")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
STUDIES = DOCS / "studies" / "README.md"  # minutes of work: see test_studies.py
PAGES = [README, *(path for path in sorted(DOCS.rglob("*.md")) if path != STUDIES)]
BLOCK = re.compile(r"(?:`(?P<file>\w+\.\w+)`\n\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.M)


def name_of(path):
    return str(path.relative_to(ROOT))


def check_page(text, name, run):
    """Run the blocks of a page in their order, in one folder and one session; return the number of examples.

    A block after a file's name is that file; others are sessions of Python or of the shell.
    """
    session, count = {}, 0
    for block in BLOCK.finditer(text):
        file, language, content = block["file"], block["language"], block["text"]
        if file:
            Path(file).write_text(content, encoding="utf-8")
        elif language == "pycon":
            count += check_python(content, session, name, text.count("\n", 0, block.start("text")))
        elif language == "console":
            commands = COMMAND.findall(content)
            assert "".join(f"$ {command}\n{output}" for command, output in commands) == content, content
            for command, output in commands:
                assert shell(command, run) == output, f"{name}: {command}"
            count += len(commands)
        else:
            assert language in ("text", "sh"), f"{name}: a block of {language!r} without a file's name"
    return count


def check_python(content, session, name, line):
    """Run a session of Python that goes on from the blocks before."""
    test = doctest.DocTestParser().get_doctest(content, session, name, name, line)
    assert test.examples, f"{name}: a block of Python without >>>"
    said = []
    result = doctest.DocTestRunner().run(test, out=said.append, clear_globs=False)
    assert result.failed == 0, "".join(said)
    session.update(test.globs)
    return result.attempted


def shell(command, run):
    """What a command of ours prints, through the pipes behind it."""
    ours, _, pipes = command.partition(" | ")
    program, *words = shlex.split(ours)
    assert program == "bntheory", command
    status, output, errors = run(*words)
    assert (status, errors) == (0, ""), (command, errors)
    if not pipes:
        return output
    return subprocess.run(pipes, shell=True, input=output, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_examples_of_a_page(page, run, monkeypatch):
    text = page.read_text(encoding="utf-8")
    monkeypatch.syspath_prepend(Path.cwd())  # `run` has changed to a folder of the test
    with matplotlib.rc_context():
        found = check_page(text, name_of(page), run)
    assert found == len(re.findall(r"^(?:>>>|\$) ", text, re.M))


@pytest.mark.parametrize(
    "text",
    [
        "```pycon\n>>> 1 + 1\n3\n```\n",
        "```pycon\nx = 1\n```\n",
        "```console\n$ bntheory phase --activation relu | head -1\ncritical gain 1\n```\n",
        "```console\n$ bntheory phase --activation relu --gain -1\n```\n",
        "```yaml\nx: 1\n```\n",
    ],
)
def test_a_page_that_is_wrong_is_found(text, run):
    with pytest.raises(AssertionError):
        check_page(text, "page", run)


def test_blocks_share_a_folder_and_a_session(run):
    text = (
        "`a.txt`\n\n```text\n5\n```\n\n```pycon\n>>> import pathlib\n```\n\n"
        "```pycon\n>>> pathlib.Path('a.txt').read_text()\n'5\\n'\n```\n"
    )
    assert check_page(text, "page", run) == 2


def shell_lines(text):
    """Commands that take too long to run here, whole and without comments."""
    blocks = [block["text"] for block in BLOCK.finditer(text) if block["language"] == "sh"]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def check_command(words):
    """Arguments of ours are parsed; scripts and goals of the Makefile are there; others are other programs'."""
    program, *rest = words
    if program == "bntheory":
        group = click.Context(cli)
        cli.get_command(group, rest[0]).make_context(rest[0], rest[1:], parent=group)
    elif program == "python":
        assert (ROOT / rest[0]).is_file(), rest[0]
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M), rest[0]
    else:
        assert program in ("pip", "apt-get", "dask", "srun"), program


def test_commands_that_are_not_run_are_right(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "widths.toml").touch()
    found = [words for page in PAGES for words in shell_lines(page.read_text(encoding="utf-8"))]
    assert len(found) > 20
    for words in found:
        check_command(words)


@pytest.mark.parametrize(
    "text", ["bntheory sweep --rates 1 \\\n  --out DIR", "bntheory swep", "python no.py", "make nothing  # at all"]
)
def test_a_command_that_is_wrong_is_found(text):
    (words,) = shell_lines(f"```sh\n{text}\n```\n")
    with pytest.raises((AssertionError, AttributeError, click.UsageError)):
        check_command(words)


def test_files_that_the_readme_links_exist():
    targets = re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8"))
    assert targets
    for target in targets:
        assert (ROOT / target).is_file(), target


def test_the_pages_build_without_a_warning(tmp_path):
    """Strictly: pages and headings that are linked, docstrings that can be read; nothing comes from the network."""
    config = importlib.import_module("mkdocs.config").load_config(str(ROOT / ".mkdocs.yml"), site_dir=str(tmp_path))
    importlib.import_module("mkdocs.commands.build").build(config)
    pages = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")]
    assert len(pages) > len(PAGES)
    loaded = re.compile(r'<(?:script|link|img)[^>]*"(?:https?:)?//[^"]*"')
    assert not [found for page in pages for found in loaded.findall(page)]


@pytest.mark.parametrize("package", ["bntheory", "simulations"])
def test_every_public_name_has_one_entry(package):
    """On a page of the API, under its public name, in the order of the package."""
    text = {path: path.read_text(encoding="utf-8") for path in sorted((DOCS / "api").glob("*.md"))}
    public = importlib.import_module(package)._PUBLIC
    entry = re.compile(rf"^::: {package}\.([\w.]+)\.(\w+)\n    options:\n      heading: {package}\.(\w+)\n", re.M)
    found = [(path, *groups) for path in text for groups in entry.findall(text[path])]
    assert {name: module for _, module, name, _ in found} == public
    assert len(found) == len(public) and all(name == heading for _, _, name, heading in found)
    order = list(public)
    for path in text:
        places = [order.index(name) for where, _, name, _ in found if where == path]
        assert places == sorted(places), path


def test_the_readme_shows_the_claims_as_they_are():
    """Its rows are those of the whole table; `python docs/claims_in_readme.py` writes them anew."""
    specification = importlib.util.spec_from_file_location("claims_in_readme", DOCS / "claims_in_readme.py")
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    text, table = README.read_text(encoding="utf-8"), (DOCS / "claims.md").read_text(encoding="utf-8")
    assert script.with_claims(text, table) == text
    with pytest.raises(KeyError):
        script.with_claims(text, table.replace("singular values of 1, 3, 5 matrices", "singular values"))
