"""A library of which a part is left out until it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from decoupe.inference.deferred import deferred


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``shelf``, with a function that is cheap to have and one that is not, in modules of their names."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / "__init__.py").write_text("from shelf.cheap import cheap\nfrom shelf.costly import costly\n")
    for name in ("cheap", "costly"):
        (folder / f"{name}.py").write_text(f"def {name}(number, *, times=2):\n    return number * times\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "shelf"]:
        del sys.modules[name]


def imported() -> Any:
    with deferred(["shelf.costly", "shelf.gone"]):
        return importlib.import_module("shelf")


def test_it_is_loaded_when_it_is_called(library: Path) -> None:
    shelf = imported()
    assert shelf.cheap(3) == 6
    assert not {"shelf.costly", "shelf.gone"} & sys.modules.keys()
    first = shelf.costly
    assert first(3, times=4) == 12
    assert sys.modules["shelf.costly"].__file__ == str(library / "costly.py")
    # As if nothing had been left out: a function, not the module that has its name.
    assert shelf.costly is sys.modules["shelf.costly"].costly
    assert first(3) == shelf.costly(3) == 6


def test_a_library_that_is_there_already_stays_as_it_is(library: Path) -> None:
    shelf = importlib.import_module("shelf")
    (library / "dear.py").write_text("def dear():\n    return 7\n")
    with deferred(["shelf.costly", "shelf.dear"]):
        assert importlib.import_module("shelf.dear").dear() == 7
    assert shelf.costly is sys.modules["shelf.costly"].costly


def test_a_library_that_cannot_be_imported_leaves_nothing_behind(library: Path) -> None:
    (library / "__init__.py").write_text("from shelf.costly import costly\nraise ImportError('no')\n")
    with pytest.raises(ImportError, match="no"):
        imported()
    assert not [name for name in sys.modules if name.startswith("shelf")]
