from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from decoupe.cli import app


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """decoupe in an empty folder, with an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DECOUPE_CACHE", str(tmp_path / "cache"))

    def decoupe(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return decoupe
