"""How many processor cores decoupe may use."""

from __future__ import annotations

import os


def threads_told() -> int:
    """What ``OMP_NUM_THREADS`` says, as PyTorch reads it; 0 where it says nothing."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() else 0


def cores() -> int:
    """The cores that a job may use: as many as it was told, else those of this process."""
    if told := threads_told():
        return told
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
