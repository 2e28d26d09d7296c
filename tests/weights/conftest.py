from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants  # noqa: F401 - it looks at the environment now, which --quiet changes
import pytest

from weights.fake_hub import FakeHub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """An empty hub on 127.0.0.1, and an empty cache in front of it."""
    monkeypatch.setenv("DECOUPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with FakeHub() as fake:
        monkeypatch.setenv("HF_ENDPOINT", fake.url)
        yield fake
