"""What the figures were measured on: printed at the head of every benchmark."""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path


def machine() -> str:
    """Processor, cores that this process may use, memory, load and system, in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [
        f"{_processor()}, {cores} cores",
        *_memory(),
        platform.system(),
        f"load {os.getloadavg()[0]:.1f}",
    ]
    return ", ".join(parts)


def parser_of(words: str | None) -> argparse.ArgumentParser:
    """A parser of options whose help is a script's own words, laid out as they are."""
    return argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)


def memory_of(process: int | str = "self", field: str = "VmHWM") -> int:
    """Bytes that a process has held at most; with ``VmRSS`` those that it holds. As Linux tells it.

    ``ru_maxrss`` would be that of the process that started it, where that is larger.
    """
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def versions(*packages: str) -> str:
    """Python's and the packages' versions, in one line."""
    return ", ".join(
        [f"Python {platform.python_version()}", *(f"{p} {metadata.version(p)}" for p in packages)]
    )


def median_times(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each run; the runs take turns, so that a busy moment hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def print_table(titles: list[str], rows: list[list[str]]) -> None:
    """A Markdown table: the first column to the left, figures to the right."""
    for cells in (titles, ["---", *["---:"] * (len(titles) - 1)], *rows):
        print("| " + " | ".join(cells) + " |")


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory() -> list[str]:
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return []
    return [f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"]
