"""Where warnings are told."""

from __future__ import annotations

from pathlib import Path

import pytest

import decoupe
from decoupe.notices import caller


@pytest.mark.parametrize("folder", ["decoupe_tools", "decoupe-old"])
def test_a_package_beside_decoupe_is_a_caller(folder: str) -> None:
    """Its path begins as decoupe's own does."""
    package = Path(decoupe.__file__).parent
    file = str(package.with_name(folder) / "x.py")
    names = {"caller": caller}
    exec(compile("\nplace = caller()\n", file, "exec"), names)
    assert names["place"] == (file, 2)
