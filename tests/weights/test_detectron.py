"""Detectron2's pickles are read as data: arrays come out, and nothing inside is run."""

from __future__ import annotations

import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from decoupe.errors import CheckpointError
from decoupe.weights.checkpoint import read_tensors
from decoupe.weights.detectron import read_pkl

ARRAYS = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "columns first": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big-endian": np.arange(5, dtype=">f4"),
    "half": np.array([1.5, -2], np.float16),
    "counter": np.array(7),
    "scalar": np.float32(2.5),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}


def write(path: Path, content: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def as_numpy_1(pickled: bytes) -> bytes:
    """The same pickle under the module path of the other NumPy."""
    return (
        pickled.replace(b"numpy._core", b"numpy.core")
        if b"numpy._core" in pickled
        else pickled.replace(b"numpy.core", b"numpy._core")
    )


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrapped", [True, False])
def test_arrays_come_out(tmp_path: Path, protocol: int, wrapped: bool) -> None:
    content = {"model": ARRAYS, "__author__": "x", "matching_heuristics": True} if wrapped else ARRAYS
    found = read_pkl(write(tmp_path / "model.pkl", content, protocol))
    assert list(found) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        np.testing.assert_array_equal(found[name], expected, strict=name not in ("big-endian", "scalar"))
        assert found[name].dtype.isnative
        assert found[name].flags.writeable


def test_both_module_paths_of_numpy(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    pickled = pickle.dumps({"model": OrderedDict(ARRAYS)}, protocol=2)
    assert as_numpy_1(pickled) != pickled
    path.write_bytes(as_numpy_1(pickled))
    np.testing.assert_array_equal(read_pkl(path)["matrix"], ARRAYS["matrix"])


def test_python_2_s_bytes_are_latin_1(tmp_path: Path) -> None:
    # As Python 2 wrote it: names and raw numbers are byte strings (opcode U: SHORT_BINSTRING).
    numbers = np.array([1.25, -3], "<f4")
    raw = numbers.tobytes()
    pickled = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(raw)]) + raw + b"tbs."
    )
    path = tmp_path / "model.pkl"
    path.write_bytes(pickled)
    assert pickle.loads(pickled, encoding="latin1")["w"].tolist() == numbers.tolist()
    np.testing.assert_array_equal(read_pkl(path)["w"], numbers)


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        (Calls(os.system, "touch was_here"), f"{os.system.__module__}.system"),
        (Calls(eval, "1"), "__builtin__.eval"),
        (Calls(getattr, "a", "b"), "__builtin__.getattr"),
        (Calls(np.load, "was_here"), "numpy.load"),
        (Calls(np.memmap, "was_here"), "numpy.memmap"),
        (np.array([object()]), "an array of 'O8'"),
        (np.array(["text"]), "an array of 'U4'"),
        (np.zeros(2, [("a", "f4")]), "an array of 'V4'"),
        (Calls(__import__("codecs").encode, "a", "rot13"), "text in 'rot13'"),
        ({"model": {"a": {1, 2}}}, "__builtin__.set"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_else_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, refused: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "model.pkl", {"w": content})
    with pytest.raises(CheckpointError, match=re.escape(f"holds {refused}, loading it would run")) as caught:
        read_pkl(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "was_here").exists()


def test_a_zip_of_tensors_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    torch.save({"weight": torch.arange(3.0)}, path)
    (weight,) = read_tensors(path)[0].values()
    assert weight.tolist() == [0, 1, 2]


def test_references_outside_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x02U\x04hereQ.")
    with pytest.raises(CheckpointError, match="a reference to 'here' outside itself"):
        read_pkl(path)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({}, "holds a dict, expected a dict of arrays"),
        ([ARRAYS["matrix"]], "holds a list, expected a dict of arrays"),
        ({"model": {"a": 3}}, r"holds 'a' \(int\), expected arrays by name alone"),
        ({7: ARRAYS["matrix"]}, r"holds 7 \(Array\)"),
        ({"w": [ARRAYS["matrix"]]}, r"holds 'w' \(list\)"),
    ],
)
def test_what_holds_no_arrays_by_name(tmp_path: Path, content: object, line: str) -> None:
    with pytest.raises(CheckpointError, match=line):
        read_pkl(write(tmp_path / "model.pkl", content))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read the weights file .*: No such file"):
        read_pkl(tmp_path / "model.pkl")


WHOLE = pickle.dumps({"model": {"a": ARRAYS["matrix"], "b": ARRAYS["counter"]}}, protocol=2)


@given(length=st.integers(0, len(WHOLE) - 1))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_truncated_files_are_told(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(CheckpointError, match="truncated or damaged: copy or download it again"):
        read_pkl(path)


@given(place=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_give_arrays_or_one_line(tmp_path: Path, place: int, value: int) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(WHOLE[:place] + bytes([value]) + WHOLE[place + 1 :])
    try:
        found = read_pkl(path)
    except CheckpointError as error:
        assert str(error).count("\n") == 0  # noqa: PT017 - either is right
    else:
        assert all(isinstance(array, np.ndarray) for array in found.values())
