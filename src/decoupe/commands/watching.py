"""Pictures as they arrive in a folder: each is done once, when whoever writes it has finished."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from decoupe.commands.plan import Plan, Problem

INTERVAL = 1.0
"""Seconds between two looks at the folders."""

TRUST = 10
"""For how many of them a folder's time of change is believed: some disks have none, or a coarse one."""

_State = tuple[int, int]


def arrivals(look: Callable[[], Plan]) -> Iterator[Plan]:
    """Plans of what has become ready to be done, for ever.

    A picture is ready when its size and its time of change are what they were a look ago; one that has been
    tried is left alone until it changes. A problem is told once. The plan is made again where a folder has
    changed, as by a picture that came or was done; those that are still to be done are looked at each time.

    Args:
        look: the plan of all that is to be done now.
    """
    seen: dict[Path, _State | None] = {}
    tried: dict[Path, _State | None] = {}
    told: set[Problem] = set()
    folders: dict[Path, _State | None] = {}
    plan = Plan()
    for number in itertools.count():
        found = {folder: _state(folder) for folder in folders}
        if found != folders or number % TRUST == 0:
            plan = look()
            # As they were before the look, lest a change during it be missed; new ones are looked into again.
            folders = {folder: found.get(folder) for folder in plan.listed}
        problems = [problem for problem in plan.problems if problem not in told]
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
