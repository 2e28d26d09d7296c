"""How long models take here: measured by ``decoupe bench``, remembered in the cache, never guessed."""

from __future__ import annotations

import dataclasses
import json
import platform
from dataclasses import dataclass
from pathlib import Path

from decoupe.weights.download import cache_dir


@dataclass(frozen=True)
class Timing:
    """What one model took.

    Attributes:
        name: as it was asked for.
        seconds: for one picture, the median of several, reading and writing left out.
        device: where it computed.
        dtype: the precision that it computed in.
        machine: the computer's name; a cache may be shared by several.
    """

    name: str
    seconds: float
    device: str
    dtype: str
    machine: str


def timings_file() -> Path:
    """Where they are remembered."""
    return cache_dir() / "decoupe-timings.json"


def timings() -> dict[str, Timing]:
    """Name -> what was measured last on this machine; a file that cannot be read counts as none."""
    return {one.name: one for one in _all() if one.machine == platform.node()}


def with_timing(timing: Timing) -> bytes:
    """The content of `timings_file` with what was measured, in the place of what was measured before."""
    kept = [one for one in _all() if (one.name, one.machine) != (timing.name, timing.machine)]
    return json.dumps([dataclasses.asdict(one) for one in [*kept, timing]], indent=1).encode()


def _all() -> list[Timing]:
    try:
        return [Timing(**one) for one in json.loads(timings_file().read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []
