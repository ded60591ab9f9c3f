"""Networks named on the command line."""

import sys

import pytest
from torch import nn

from bntheory.torch_models.factories import factory

SOURCE = """
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

def network():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())

def sized(width):
    return nn.Linear(width, width)

def broken():
    return [][1]

def fails_inside():
    return int(None)

ready = nn.Tanh()
number = 3

def text():
    return "no module"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "pkg_of_networks").mkdir()
    (tmp_path / "pkg_of_networks" / "__init__.py").write_text("")
    (tmp_path / "pkg_of_networks" / "models.py").write_text(SOURCE)
    (tmp_path / "broken_models.py").write_text("import nothing_of_that_name\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield
    for name in [name for name in sys.modules if name.startswith(("pkg_of_networks", "broken_models"))]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("word", "kind"), [("network", nn.Sequential), ("Small", nn.Module), ("ready", nn.Tanh), ("nn.ReLU", nn.ReLU)]
)
def test_factories_are_found_from_the_current_folder(folder, word, kind):
    assert isinstance(factory(f"pkg_of_networks.models:{word}")(), kind)


BAD = {
    "models": "named package.module:factory, for example models:resnet20; got 'models'",
    ":network": "got ':network'",
    "pkg_of_networks.models:": "got 'pkg_of_networks.models:'",
    "no_such_module_here:net": "cannot import 'no_such_module_here' from .*: ModuleNotFoundError",
    "broken_models:net": "cannot import 'broken_models' .*nothing_of_that_name",
    "pkg_of_networks.models:netwrok": "has no 'netwrok'; the nearest: network",
    "pkg_of_networks.models:number": "must make a torch.nn.Module, got int",
    "pkg_of_networks.models:text": "must make a torch.nn.Module, got str",
    "pkg_of_networks.models:sized": "is called without arguments: sized.. missing 1 required",
}


@pytest.mark.parametrize("place", BAD)
def test_what_is_wrong_is_said(folder, place):
    with pytest.raises(ValueError, match=BAD[place]):
        factory(place)()


def test_errors_of_the_factory_are_its_own(folder):
    with pytest.raises(IndexError):
        factory("pkg_of_networks.models:broken")()
    with pytest.raises(TypeError, match=r"int\(\)"):
        factory("pkg_of_networks.models:fails_inside")()
