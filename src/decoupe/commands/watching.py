"""Pictures as they arrive in a folder: each is done once, when whoever writes it has finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from decoupe.commands.plan import Plan

INTERVAL = 1.0
"""Seconds between two looks at the folders."""

_State = tuple[int, int]


def arrivals(look: Callable[[], Plan]) -> Iterator[Plan]:
    """Plans of what has become ready to be done, for ever.

    A picture is ready when its size and its time of change are what they were a look ago; one that has been
    tried is left alone until it changes. A problem is told once.

    Args:
        look: the plan of all that is to be done now.
    """
    seen: dict[Path, _State | None] = {}
    tried: dict[Path, _State | None] = {}
    told: set[str] = set()
    while True:
        plan = look()
        problems = [line for line in plan.problems if line not in told]
        ready = Plan(several=True, folders=True, overwrite=plan.overwrite, problems=problems)
        told |= set(plan.problems)
        states = {job.source: _state(job.source) for job in plan.jobs if job.source is not None}
        for job in plan.jobs:
            source = job.source
            if source is not None and states[source] == seen.get(source) != tried.get(source):
                ready.jobs.append(job)
                tried[source] = states[source]
        seen = states
        if ready.jobs or ready.problems:
            yield ready
        time.sleep(INTERVAL)


def _state(path: Path) -> _State | None:
    """Size and time of change; None where it has gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
