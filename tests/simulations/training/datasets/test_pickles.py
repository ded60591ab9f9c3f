"""Pickles of plain data come back; whatever else they name is refused and never runs."""

import collections
import datetime
import os
import pickle

import numpy as np
import pytest

from simulations.training.datasets import pickles
from simulations.training.datasets.pickles import plain_pickle


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_plain_data_come_back(protocol):
    plain = {"labels": [0, 9, 2**70, -1], "nested": ({"a": None}, 1.5, True)}
    found = plain_pickle(pickle.dumps(plain, protocol))
    assert found == {key.encode(): value for key, value in plain.items()}


@pytest.mark.parametrize("protocol", [3, 4])  # in older ones bytes are text that a function encodes
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_bytes_come_back(protocol, order):
    array = np.asarray(np.random.default_rng(0).integers(0, 256, (3, 5), dtype=np.uint8), order=order)
    for spelling in (b"numpy.core.multiarray", b"numpy._core.multiarray"):  # before and since NumPy 2
        if protocol == 3:
            content = pickle.dumps({"data": array}, 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            content = content.replace(b"numpy.core.multiarray", spelling)
        else:
            content = pickle.dumps({"data": array}, 4)
        found = plain_pickle(content)[b"data"]
        assert found.dtype == np.uint8 and np.array_equal(found, array)


class Call:
    """Unpickled as it is meant, it calls."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def shout(words):
    raise AssertionError(words)


CALLS = {
    "builtins.eval": Call(eval, "shout('ran')"),
    "builtins.getattr": [Call(getattr, int, "real")],
    "builtins.print": {"data": print},
    "posix.system": Call(os.system, "false"),
    "numpy.load": Call(np.load, "file"),
    "collections.OrderedDict": collections.OrderedDict(a=1),
    "numpy.random._pickle.__generator_ctor": np.random.default_rng(0),
    "datetime.date": datetime.date(2009, 4, 8),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", CALLS)
def test_other_names_are_refused(name, protocol):
    content = pickle.dumps(CALLS[name], protocol)
    refusal = f"is no pickle of plain data: it names (__builtin__|{name.rsplit('.', 1)[0]}|copy_reg)"
    with pytest.raises(ValueError, match=refusal):
        plain_pickle(content)


ARRAYS = {
    r"arrays must hold bytes \('u1'\), got '?b?'?f8": np.zeros(3),
    r"arrays must hold bytes \('u1'\), got '?b?'?O8": np.array([print, 1], dtype=object),
    r"arrays must hold bytes \('u1'\), got '?b?'?V1": np.zeros(3, dtype=[("a", "u1")]),
}


@pytest.mark.parametrize("message", ARRAYS)
def test_arrays_of_anything_else_are_refused(message):
    with pytest.raises(ValueError, match=f"{message}|it names builtins.print"):
        plain_pickle(pickle.dumps({"data": ARRAYS[message]}, 4))


def test_states_that_do_not_fit_are_refused():
    content = pickle.dumps({"data": np.zeros((300, 3), np.uint8)}, 3)
    assert plain_pickle(content)[b"data"].shape == (300, 3)
    rows = b"M\x2c\x01"  # 300
    for other in (b"M\x2d\x01", b"J\xd4\xfe\xff\xff", b"N"):  # 301, −300, None
        assert content.count(rows + b"K\x03\x86") == 1
        with pytest.raises(ValueError, match="is no pickle of plain data"):
            plain_pickle(content.replace(rows + b"K\x03\x86", other + b"K\x03\x86"))


@pytest.mark.parametrize("name", [b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n"])
@pytest.mark.parametrize("state", [b"}U\x01aK\x01s", b"N}U\x01aK\x01s\x86"])
def test_stand_ins_cannot_be_altered(name, state):
    """BUILD on a class would set attributes of the class."""
    before = [dict(vars(stand_in)) for stand_in in (pickles._Type, pickles._Array)]
    with pytest.raises(ValueError, match="is no pickle of plain data"):
        plain_pickle(b"\x80\x02" + name + state + b"b.")
    assert before == [dict(vars(stand_in)) for stand_in in (pickles._Type, pickles._Array)]


def test_damaged_pickles_are_refused():
    """Every beginning of a good pickle, and other formats: one kind of error, in one line."""
    good = pickle.dumps({"labels": [1, 2, 3], "data": np.zeros((2, 2), np.uint8)}, 4)
    for length in range(len(good)):
        with pytest.raises(ValueError, match="is no pickle of plain data"):
            plain_pickle(good[:length])
    for content in (b"", b"\0" * 100, b"PK\x03\x04", b"](" * 10 + b"."):
        with pytest.raises(ValueError, match=r"is no pickle of plain data: \S") as refused:
            plain_pickle(content)
        assert "\n" not in str(refused.value)


def test_random_changes_end_in_an_answer_or_in_a_refusal():
    good = pickle.dumps({"labels": [1, 2, 3], "data": np.arange(6, dtype=np.uint8).reshape(2, 3)}, 3)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(3000):
        content = bytearray(good)
        for place in rng.integers(len(good), size=2):
            content[place] = rng.integers(256)
        try:
            plain_pickle(bytes(content))
        except ValueError as error:
            assert str(error).startswith("is no pickle of plain data: ")
            refused += 1
    assert 1000 < refused < 3000  # both ends occur


def test_memory_is_not_taken_for_objects_that_cannot_be():
    """Four bytes that would have the unpickler set aside 64 GB."""
    with pytest.raises(ValueError, match="it remembers 4,294,967,280 objects in 9 bytes"):
        plain_pickle(b"\x80\x02}r\xf0\xff\xff\xff.")
