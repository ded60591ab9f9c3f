"""The house rules: who imports whom, what an import may load, and how commands are found."""

import ast
import importlib
import importlib.metadata
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("bntheory", "simulations", "paper_figures")
SOURCES = sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))
# Where heavy or optional packages may be imported at the top of a file; everywhere else inside functions only.
AT_TOP = {
    "torch": ("simulations/training/", "bntheory/torch_models/"),
    "numba": ("simulations/",),
    "sympy": ("bntheory/symbolic/",),
    "click": ("commands.py", "bntheory/cli.py", "paper_figures/__main__.py"),
    "matplotlib": (),
    "sklearn": (),
    "xarray": (),
    "pandas": (),
    "h5netcdf": (),
    "distributed": (),
}


def _imports(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module or "")
    return names


def _top_level(tree: ast.Module) -> set[str]:
    """Imports that run when the file is imported: not in functions, not for type checkers only."""
    runs = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        runs.append(node)
    return _imports(ast.Module(runs, []))


@pytest.fixture(scope="module")
def trees():
    """Every source file's syntax tree by its place."""
    return {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def test_no_import_runs_upward(trees):
    for place, tree in trees.items():
        forbidden = {"tests", *ORDER[ORDER.index(place.parts[0]) + 1 :]}
        names = {name.split(".")[0] for name in _imports(tree)}
        assert not names & forbidden, f"{place} imports {names & forbidden}"


def test_heavy_packages_are_imported_where_they_are_used(trees):
    for place, tree in trees.items():
        for package in AT_TOP.keys() & {name.split(".")[0] for name in _top_level(tree)}:
            allowed = any(part in place.as_posix() for part in AT_TOP[package])
            assert allowed, f"{place} imports {package} at the top"


def _loaded_after(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after the statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}}, file=sys.stderr)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.split())


def test_import_loads_nothing_heavy():
    loaded = _loaded_after("import bntheory, simulations, paper_figures")
    assert not loaded & {"numpy", "scipy", "sympy", "torch", "numba", "matplotlib", "xarray", "click", "sklearn"}


def test_theory_needs_neither_torch_nor_matplotlib():
    calls = "bn.predict_growth(bn.mlp(2, 3)); bn.FussCatalan(2).pdf(1.0); bn.phase('tanh', 1.5)"
    statement = f"import bntheory as bn; {calls}"
    assert not _loaded_after(statement) & {"torch", "sympy", "numba", "matplotlib", "xarray", "click", "sklearn"}


def test_simulation_runs_without_torch():
    """With torch and scikit-learn blocked, everything but the train extra works, and that says what is missing."""
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "sklearn"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import bntheory as bn, simulations as sim
sim.simulate_growth(bn.mlp(2, 4), trials=2)
sim.log_singular_values(bn.mlp(2, 4, "linear", "lecun_normal"), trials=2)
for attempt in (lambda: sim.build(bn.mlp(2, 4)), lambda: sim.digits()):
    try:
        attempt()
    except ImportError as error:
        assert "bntheory[train]" in str(error), error
    else:
        raise SystemExit("nothing was missing")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_is_light_and_fast():
    program = "import sys; sys.argv = ['bntheory', '--help']; from bntheory.cli import main"
    code = f"{program}\ntry:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    loaded = _loaded_after(code)
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(
        f"\n  {name} " in text
        for name in (
            "growth",
            "spectrum",
            "phase",
            "simulate",
            "crosscheck",
            "train",
            "sweep",
            "probe",
            "figures",
            "report",
        )
    )
    assert not loaded & {"numpy", "scipy", "sympy", "torch", "numba", "matplotlib", "xarray", "sklearn"}
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(times) < 0.25, f"CPU seconds: {times}"


def test_commands_are_found_through_entry_points(tmp_path):
    """A foreign package that registers a command in the group gets it into the program."""
    (tmp_path / "foreign_commands.py").write_text(
        "import click\n@click.command()\ndef hello():\n    'Say hello.'\n    click.echo('hello from outside')\n"
    )
    metadata = tmp_path / "foreign-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[bntheory.commands]\nhello = foreign_commands:hello\n")
    program = "import sys; sys.argv = ['bntheory', 'hello']; from bntheory.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path
    )
    assert run.stdout == "hello from outside\n", run.stderr
    own = {point.name for point in importlib.metadata.entry_points(group="bntheory.commands")}
    assert own == {
        "growth",
        "spectrum",
        "phase",
        "predict",
        "simulate",
        "crosscheck",
        "train",
        "sweep",
        "probe",
        "figures",
        "report",
    }


@pytest.mark.parametrize("package", ORDER[:2])
def test_public_names_resolve_and_are_documented(package):
    module = importlib.import_module(package)
    if package == "simulations":
        pytest.importorskip("torch")
    for name in module.__all__:
        value = getattr(module, name)
        assert not isinstance(value, type(sys)), f"{package}.{name} is a module"
        assert value.__doc__, name
        assert name in dir(module)
    with pytest.raises(AttributeError, match="nonsense"):
        module.nonsense  # noqa: B018


def test_public_names_survive_the_import_of_their_modules():
    """A submodule of the same name must not take a public function's place."""
    code = "import simulations.growth, simulations.comparison, simulations as sim; assert callable(sim.crosscheck)"
    subprocess.run([sys.executable, "-c", code], check=True)
