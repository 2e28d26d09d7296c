"""How many processor cores decoupe may use."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path


def threads_told() -> int:
    """What ``OMP_NUM_THREADS`` says, as PyTorch reads it; 0 where it says nothing."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() else 0


def cores() -> int:
    """The cores that a job may use: as many as it was told, else those of this process and its container."""
    return threads_told() or min(_own(), container_cores())


def model_threads() -> int:
    """The threads of a model: as many as were told, or as a container has cores; 0 leaves it open."""
    share = container_cores()
    return threads_told() or (share if share < _own() else 0)


def pool_size(processes: int) -> int:
    """As many of so many processes as one pool can have: Windows waits for 63 things at a time at most."""
    return min(processes, 61) if sys.platform == "win32" else processes


def container_cores(root: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores whose time a container is given (control groups, version 2 or 1); none is no limit."""
    limit = min(
        _quota(root / "cpu.max"),
        _quota(root / "cpu" / "cpu.cfs_quota_us", root / "cpu" / "cpu.cfs_period_us"),
    )
    return sys.maxsize if limit == math.inf else max(1, math.ceil(limit))


def _quota(*files: Path) -> float:
    """Microseconds of time in each period of so many, as files tell them one after the other."""
    try:
        quota, period = map(float, " ".join(file.read_text() for file in files).split())
    except (OSError, ValueError):  # not there, or "max"
        return math.inf
    return quota / period if quota > 0 else math.inf  # version 1's word for no limit is -1


def _own() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
