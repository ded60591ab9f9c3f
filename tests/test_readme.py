"""The README's examples are run and print what it says."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
CONSOLE = "".join(re.findall(r"```console\n(.*?)```", TEXT, re.S))
STUDY = re.search(r"`(\w+\.toml)`\n\n```toml\n(.*?)```", TEXT, re.S)
EXAMPLES = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", CONSOLE, re.M)


def test_python_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.S))
    result = doctest.DocTestRunner().run(doctest.DocTestParser().get_doctest(text, {}, "README", str(README), 0))
    assert result.attempted == 25 and result.failed == 0


@pytest.mark.parametrize(("command", "expected"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_console_example(command, expected, tmp_path):
    if any(word in command for word in ("crosscheck", "predict", "train")):
        pytest.importorskip("torch")
    program = tmp_path / "bntheory"
    program.write_text(f"#!{sys.executable}\nfrom bntheory.cli import main\nmain()\n")
    program.chmod(0o755)
    (tmp_path / STUDY[1]).write_text(STUDY[2])
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.stdout, done.stderr) == (expected, "")


def test_every_linked_file_exists():
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (README.parent / target).is_file(), target
