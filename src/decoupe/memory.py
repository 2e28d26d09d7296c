"""The plan before a run: what fits in memory, and how to see a picture that does not fit whole."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from decoupe.errors import InputError

SHARE = 0.8
"""Share of the free memory that a run may take where no budget is set."""

GENEROUS = 4096
"""More bytes per pixel than any model of decoupe takes: where so much is free, none has to be measured."""

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2, "gi": 1024**3}


@dataclass(frozen=True)
class Footprint:
    """What computing takes beside the model's weights.

    Attributes:
        fixed: bytes whatever the picture.
        per_pixel: bytes for each pixel of the model's input.
    """

    fixed: int
    per_pixel: float

    def of(self, pixels: int) -> int:
        """Bytes for an input, or a batch, of so many pixels."""
        return self.fixed + round(self.per_pixel * pixels)

    def pixels(self, memory: int) -> int:
        """The most pixels that so many bytes are enough for; negative where nothing fits."""
        return int((memory - self.fixed) / max(self.per_pixel, 1e-9))


class Measured(Protocol):
    """What can tell how much memory it takes: every open model."""

    device: str

    def footprint(self) -> Footprint:
        """What it takes; measured when it is first asked for."""
        ...


@dataclass(frozen=True)
class Plan:
    """How pictures of one size are computed.

    Attributes:
        batch: how many at once; 0 where not even one fits.
        room: bytes that the run may take.
        held: bytes that the process held before, where they count; None without a budget.
        needed: bytes that one picture takes, or None where nothing had to be found out.
        pixels: the most that fit at once.
    """

    batch: int
    room: int
    held: int | None
    needed: int | None = None
    pixels: int = sys.maxsize


def plan(model: Measured, pixels: int, pictures: int, budget: int | None = None, results: int = 0) -> Plan:
    """What fits of ``pictures`` of ``pixels`` each.

    Args:
        model: what will compute them.
        pixels: width × height at which the model sees each.
        pictures: how many there are.
        budget: most bytes that the process may hold; None leaves it to what is free.
        results: bytes that what comes of them takes in memory, beside the computing.
    """
    before: int | None = None
    if budget is None:
        room = round(SHARE * free(model.device))
    else:
        before = held(model.device)
        room = budget - before
    if not model.device.startswith("cuda"):
        room -= results
    if GENEROUS * pixels * pictures <= room:
        return Plan(pictures, room, before)
    footprint = model.footprint()
    most = footprint.pixels(room)
    return Plan(max(0, min(pictures, most // pixels)), room, before, footprint.of(pixels), most)


def parse_memory(value: int | str) -> int:
    """A budget in bytes: a number of them, or such as ``"4GB"``, ``"800 MB"``, ``"2GiB"``.

    Raises:
        InputError: something else, or not above zero.
    """
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?) ?(|k|m|g|ki|mi|gi)b?", str(value).strip().lower())
    size = round(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size <= 0:
        raise InputError(f"memory is {value!r}, expected bytes or a size: such as 4GB or 800MB")
    return size


def shown(size: int) -> str:
    """Bytes for a reader, as ``3.1 GB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{max(size, 0) / 1e6:.0f} MB"


def free(device: str) -> int:
    """Bytes that a device has left, its container's limit observed."""
    if device.startswith("cuda"):
        import torch

        # What PyTorch keeps for its next tensors is free as well, though the driver counts it as taken.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    import psutil

    return min(psutil.virtual_memory().available, container_free())


def held(device: str) -> int:
    """Bytes that this process holds: on a CUDA device as tensors, else in memory."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.memory_allocated(device)
    import psutil

    size: int = psutil.Process().memory_info().rss
    return size


def left(budget: int, device: str) -> int:
    """Bytes of a budget that this process does not hold yet; negative where it holds more."""
    return budget - held(device)


def container_free(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that are left of the limit of a container (control groups, version 2 or 1); none is no limit."""
    for limit, used, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            most, current = (root / limit).read_text().strip(), int((root / used).read_text())
            cached = re.search(r"^(?:total_)?inactive_file (\d+)$", (root / stat).read_text(), re.MULTILINE)
        except (OSError, ValueError):
            continue
        if most.isdecimal():
            # Pages of files that were read count as used, and are given back when they are needed.
            return int(most) - current + (int(cached[1]) if cached else 0)
    return sys.maxsize
