from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from inference.tiny import write_onnx
from server.running import Running, running


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to which bright red is the subject."""
    return write_onnx(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="session")
def server(tiny: Path) -> Iterator[Running]:
    """A server with small limits."""
    limits = ("--max-megabytes", "1", "--max-pixels", "1000000", "--max-frames", "3", "--queue", "4")
    with running("-m", str(tiny), *limits) as one:
        yield one


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with server.client() as one:
        yield one
