"""Detectron2's ``.pkl`` files: a pickle of NumPy arrays by name, read without running anything inside it.

A pickle is a program. This reader gives it three verbs of its own (an array, its type, a number of that
type) under the names that NumPy 1 and 2 pickle theirs by, and nothing else: not even NumPy sees the file's
values before they are checked. PyTorch is not needed.
"""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from decoupe.errors import CheckpointError

KINDS = "biuf"
"""NumPy's letters for the kinds of numbers that tensors hold: bool, integers, floats."""


def read_pkl(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """The arrays of a Detectron2 checkpoint.

    Args:
        path: pickle of ``{"model": {name: array}, …}``, or of the inner dict alone.

    Returns:
        The arrays by name, each a writable copy.

    Raises:
        CheckpointError: no such file, a damaged one, or one that holds more than arrays and containers.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _Unpickler(_Reader(file), encoding="latin1").load()
    except _RefusedError as error:
        raise CheckpointError(
            f"{path} holds {error}, loading it would run its code: expected NumPy arrays in dicts"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read the weights file {path}: {error.strerror or error}") from error
    except Exception as error:  # broken bytes make the unpickler raise whatever they spell
        raise CheckpointError(f"{path} is truncated or damaged: copy or download it again") from error
    return _arrays(path, content)


def _arrays(path: Path, content: object) -> dict[str, NDArray[Any]]:
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a dict of arrays by name")
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, _Array)):
            raise CheckpointError(
                f"{path} holds {name!r} ({type(value).__name__.lstrip('_')}), expected arrays by name alone"
            )
    return {name: value.value for name, value in content.items()}


class _RefusedError(Exception):
    """Something that the reader does not admit; its text is the name."""


class _Array:
    """What the file calls an array; pickled arrays are made empty, and then told their state."""

    value: NDArray[Any] = np.zeros(0)

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Type, bool, bytes | str]) -> None:
        _, shape, kind, columns_first, data = state
        self.value = _array(data, kind, shape, "F" if columns_first else "C").value


class _Type:
    """What the file calls a type of numbers; its byte order comes as state."""

    def __init__(self, name: str, *flags: object) -> None:
        self.numpy = np.dtype(name)
        if self.numpy.kind not in KINDS:
            raise _RefusedError(f"an array of {name!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1] if state[1] in ("<", ">") else "="
        self.numpy = np.dtype(f"{order}{self.numpy.kind}{self.numpy.itemsize}")


def _array(data: bytes | str, kind: _Type, shape: tuple[int, ...], order: str) -> _Array:
    """An array of raw bytes, which Python 2 pickled as text."""
    if order not in ("C", "F"):
        raise _RefusedError(f"an array in order {order!r}")
    if isinstance(data, str):
        data = data.encode("latin1")
    array = _Array()
    flat = np.frombuffer(data, kind.numpy).astype(kind.numpy.newbyteorder("="))
    array.value = flat.reshape(shape, order="F" if order == "F" else "C")
    return array


def _empty(*_: object) -> _Array:
    return _Array()


def _scalar(kind: _Type, data: bytes | str) -> _Array:
    return _array(data, kind, (), "C")


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 spells bytes for the older pickle protocols."""
    if encoding != "latin1":
        raise _RefusedError(f"text in {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How it spells empty ones."""
    return b""


_ADMITTED: dict[str, Any] = {
    **{
        f"numpy.{core}.{name}": verb
        for core in ("core", "_core")
        for name, verb in {
            "multiarray._reconstruct": _empty,
            "multiarray.scalar": _scalar,
            "numeric._frombuffer": _array,
        }.items()
    },
    "numpy.ndarray": "ndarray",  # only ever an argument of _reconstruct: it need not be callable
    "numpy.dtype": _Type,
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
}


class _Reader:
    """A file of which a line that is cut off is no line: half a name would be told as a strange one."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.read = file, file.read

    def readline(self) -> bytes:
        """The next line, with its end."""
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return line


class _Unpickler(pickle._Unpickler):
    """Looks up nothing but what is admitted.

    The unpickler in Python, not the one in C: there a few damaged bytes are enough to ask for gigabytes of
    memory (a place in the memo). A checkpoint has some thousand opcodes; its numbers are read in one piece.
    """

    def find_class(self, module: str, name: str) -> Any:
        """The verb called ``module.name``, or an exception that names it."""
        if (verb := _ADMITTED.get(f"{module}.{name}")) is None:
            raise _RefusedError(f"{module}.{name}")
        return verb

    def persistent_load(self, pid: object) -> Any:
        """Refuse references to things outside the file."""
        raise _RefusedError(f"a reference to {str(pid)[:40]!r} outside itself")
