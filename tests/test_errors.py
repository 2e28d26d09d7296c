"""The tree of errors."""

from __future__ import annotations

import copy
import pickle

import pytest

import decoupe
from decoupe import errors
from decoupe.errors import DecoupeError, InstallationError, MissingExtraError

ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DecoupeError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_reach_other_processes(kind: type[DecoupeError]) -> None:
    """A pool whose worker raises one that cannot be read again waits for ever."""
    several = {
        MissingExtraError: ("matting", "matting"),
        InstallationError: ("torch", OSError("libc is\ntoo old")),
    }
    error = kind(*several.get(kind, ("a line",)))
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == str(error)


def test_what_is_missing_or_broken_is_named() -> None:
    assert str(MissingExtraError("matting", "matting")) == (
        "matting needs the extra 'matting': pip install 'decoupe[matting]'"
    )
    assert "PyTorch: pip install 'decoupe[torch]'" in str(MissingExtraError("it", "torch"))
    assert str(InstallationError("torch", OSError("libc is\ntoo old"))) == (
        "torch is installed and does not work (libc is): reinstall it, pip install --force-reinstall torch"
    )
    assert "(ImportError)" in str(InstallationError("torch", ImportError()))


def test_all_errors_are_public() -> None:
    assert {kind.__name__ for kind in ERRORS} <= set(decoupe.__all__)
