import functools
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drawn import draw_discs


def pytest_configure(config: pytest.Config) -> None:
    os.environ["DECOUPE_CONFIG"] = os.devnull  # not the names that a developer has given
    # Behind a shell's `&` Ctrl-C is ignored, and so it would be by the commands that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Many tests start processes: what one has compiled, the next need not.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests that import ONNX Runtime themselves reach nobody
    # Each worker of `pytest -n` has one core: more threads than that only wait for each other. Numba, which
    # pymatting brings, sets PyTorch's threads with its own.
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")
    else:
        # For the workers to come: glibc gives large blocks back at once, and to touch new ones each time
        # takes a quarter of the suite's time.
        os.environ.update(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_=str(2**31))


# Files that take longest, longest first: a worker that gets one of them last leaves the others idle. The rest
# follow in their order.
LONGEST = (
    "test_export.py",
    "test_page.py",
    "test_birefnet_golden.py",
    "test_loop.py",
    "test_video.py",
    "test_pages.py",
    "test_distributed.py",
    "test_training.py",
    "test_inspyrenet_golden.py",
    "test_fuse.py",
    "test_inspyrenet.py",
    "test_pretrained.py",
    "test_faults.py",
    "test_opening.py",
    "test_birefnet.py",
    "test_routes.py",
    "test_batch.py",
    "test_maskformer_golden.py",
    "test_maskformer.py",
    "test_readme.py",
    "test_maskformer_names.py",
    "test_convert.py",
    "test_cli_commands.py",
    "test_shell.py",
    "test_cli.py",
    "test_trained_pair.py",
    "test_json.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


def pytest_collection_finish() -> None:
    # What the imports made stays to the end: the collector need not walk through it, nor come as often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_drawn_on_meta() -> Iterator[None]:
    """Many tests build large models there for their shapes; PyTorch takes long to draw no numbers."""
    import torch  # not where `pytest -n` only hands tests out

    def quick(plain: Any) -> Any:
        def draw(self: Any, *arguments: Any, **named: Any) -> Any:
            return self if self.is_meta else plain(self, *arguments, **named)

        return draw

    with pytest.MonkeyPatch.context() as patch:
        for name in ("normal_", "uniform_", "erfinv_"):
            patch.setattr(torch.Tensor, name, quick(getattr(torch.Tensor, name)))
        yield


@pytest.fixture(scope="session", autouse=True)
def _commands_are_built_once() -> Iterator[None]:
    """typer's runner builds all of them anew for each that it runs, which takes as long as many a test."""
    import typer.testing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    """A set of 24 pairs."""
    return draw_discs(tmp_path / "discs")
