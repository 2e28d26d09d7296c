"""What is wrong with training data, and where: found before a GPU is paid for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from decoupe.cores import pool_size
from decoupe.datasets.coco import CocoInstances, CocoPanoptic
from decoupe.datasets.scenes import Part, SegmentSet
from decoupe.datasets.segment_sets import find_segment_set, has_part, is_segment_set, judged_part
from decoupe.datasets.sets import Pair, fingerprint, names_of, near_duplicates, pairing
from decoupe.datasets.shards import opened
from decoupe.errors import DeviceError, InputError
from decoupe.inference.pictures import wide_grey

SHOWN = 5
"""Files that a finding names, at most."""


class Look(NamedTuple):
    """What one picture's file tells.

    Attributes:
        name: of the photograph's file.
        size: ``(width, height)``; None where it cannot be read.
        mode: of the mask, as Pillow calls it.
        findings: what is wrong with it, or strange.
        print: its fingerprint; None where it cannot be read.
    """

    name: str
    size: tuple[int, int] | None
    mode: str
    findings: tuple[str, ...]
    print: NDArray[np.uint8] | None


@dataclass
class SetReport:
    """What was found in one set.

    Attributes:
        name: of its folder.
        looks: one for each picture.
        findings: names of files by what is wrong with them.
        notes: names of files by what is strange, and may be right.
    """

    name: str
    looks: list[Look]
    findings: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    notes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def lines(self) -> list[str]:
        """The set in some lines for people."""
        sizes = [look.size for look in self.looks if look.size]
        line = f"{self.name}: {len(self.looks)} pictures"
        if sizes:
            sides = sorted(max(size) for size in sizes)
            line += f", long sides {sides[0]} to {sides[-1]} (median {sides[len(sides) // 2]}) pixels"
        modes = sorted({look.mode for look in self.looks if look.mode})
        if modes:
            line += f", truth in mode {', '.join(modes)}"
        return [
            line,
            *(_line("wrong", what, names) for what, names in self.findings.items()),
            *(_line("note", what, names) for what, names in self.notes.items()),
        ]


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        sets: training sets, then validation sets.
        leaks: photographs of training that are near duplicates of validation's.
        copies: photographs that are near duplicates inside training.
    """

    sets: list[SetReport]
    leaks: list[str]
    copies: list[str]

    @property
    def ok(self) -> bool:
        """Whether a run would not stumble over the data, nor be judged on what it has learned by heart."""
        return not self.leaks and not any(one.findings for one in self.sets)

    def about(self) -> dict[str, Any]:
        """All of it for programs."""
        sets = [
            {"name": one.name, "pictures": len(one.looks), "wrong": one.findings, "notes": one.notes}
            for one in self.sets
        ]
        return {"ready": self.ok, "sets": sets, "copies": self.copies, "leaks": self.leaks}

    def lines(self) -> list[str]:
        """All of it for people."""
        lines = [line for one in self.sets for line in one.lines()]
        if self.copies:
            lines.append(_line("note", "near duplicates inside training", self.copies))
        if self.leaks:
            lines.append(_line("wrong", "near duplicates across training and validation", self.leaks))
        return [*lines, "ready to train" if self.ok else "not ready: mend or remove what is wrong"]


def check(folders: Sequence[Path], held_out: Sequence[Path] = (), *, workers: int = 2) -> Report:
    """Read every file of some sets, and say what is wrong.

    Args:
        folders: sets to train on: mattes in any layout of `decoupe.datasets.sets`, or segments in any of
            `decoupe.datasets.segment_sets`.
        held_out: sets to validate on; without any, a segment set's own validation part. Near duplicates
            across the two are leaks.
        workers: processes that read.

    Raises:
        InputError: a folder that holds no set at all.
        DeviceError: the system ended a process that reads.
    """
    parts = _parts(folders, held_out)
    looks: list[list[Look]] = []
    sets: list[SetReport] = []
    with ProcessPoolExecutor(pool_size(workers), mp_context=get_context("spawn")) as pool:
        for name, folder, part in parts:
            report, tasks, look = _opened_set(name, folder, part)
            try:
                report.looks.extend(pool.map(look, tasks, chunksize=16))
            except BrokenProcessPool:
                raise DeviceError(
                    f"a process that reads {name} was ended, most likely for want of memory: "
                    "--workers 1 reads one picture at a time"
                ) from None
            for one in report.looks:
                for finding in one.findings:
                    kept = report.notes if finding in NOTES else report.findings
                    kept[finding].append(one.name)
            sets.append(report)
            looks.append(report.looks)
    train = [look for one in looks[: len(folders)] for look in one if look.print is not None]
    out = [look for one in looks[len(folders) :] for look in one if look.print is not None]
    both = [*train, *out]
    prints = np.array([look.print for look in both], np.uint8)
    leaks: dict[int, str] = {}
    copies: dict[int, str] = {}
    for one, other in near_duplicates(prints).tolist():
        if one < len(train):  # each picture is told once, beside the first that it is like
            found = copies if other < len(train) else leaks
            found.setdefault(other, f"{both[one].name} = {both[other].name}")
    return Report(sets, [*leaks.values()], [*copies.values()])


UNREADABLE = "cannot be read"
OTHER_SIZE = "truth of another size than the photograph"
EMPTY = "mask is empty: nothing is subject"
FULL = "mask is full: everything is subject"
DARK = "mask's largest value is below 128: expected 255 for the subject"
IN_ALPHA = "mask has its matte in the alpha channel: save that as grey"
NO_MASK = "photograph without a mask"
NO_PHOTOGRAPH = "mask without a photograph"
NO_SEGMENTS = "no segments"
STRAY = "annotation of a picture that is not listed"
NOTES = frozenset({EMPTY, FULL, NO_PHOTOGRAPH, NO_SEGMENTS, STRAY})
"""What may be meant."""


def _parts(folders: Sequence[Path], held_out: Sequence[Path]) -> list[tuple[str, Path, Part]]:
    """What is trained on, then what is validated on: names, folders, and which parts of segment sets."""
    of_segments = [folder for folder in folders if is_segment_set(folder)]
    own = [folder for folder in held_out or of_segments if folder in of_segments and has_part(folder, "val")]
    others = [folder for folder in held_out if folder not in own]
    names = dict(zip((*folders, *others), names_of([*folders, *others]), strict=True))
    validation = held_out or own
    return [
        *((names[folder], folder, "train") for folder in folders),
        *(
            (f"{names[one]} (validation)" if one in own else names[one], one, judged_part(one))
            for one in validation
        ),
    ]


def _opened_set(
    name: str, folder: Path, part: Part
) -> tuple[SetReport, Sequence[Pair] | Sequence[int], Callable[[Pair], Look] | Callable[[int], Look]]:
    """An empty report of a set, what there is to look at, and what looks.

    Raises:
        InputError: there is no such part, or it is damaged.
    """
    report = SetReport(name, [])
    if is_segment_set(folder):
        scenes = find_segment_set(folder, part)
        if isinstance(scenes, (CocoInstances, CocoPanoptic)) and scenes.strays:
            report.notes[STRAY] = scenes.strays
        return report, range(len(scenes)), partial(look_at_scene, scenes)
    pairs, bare, spare = pairing(folder)
    if not pairs and not bare:
        raise InputError(f"{folder} holds no photographs")
    report.findings.update({NO_MASK: [one.name for one in bare]} if bare else {})
    report.notes.update({NO_PHOTOGRAPH: [one.name for one in spare]} if spare else {})
    return report, pairs, look_at_pair


def look_at_pair(pair: Pair) -> Look:
    """What is wrong with a photograph and its mask."""
    name = pair.image.name
    try:
        with opened(pair.image) as file:
            size = ImageOps.exif_transpose(file).size
        print_of = fingerprint(pair.image)
    except InputError:
        return Look(name, None, "", (UNREADABLE,), None)
    try:
        with opened(pair.mask) as file:
            mode, mask = file.mode, ImageOps.exif_transpose(file)
        wide = wide_grey(mask, str(pair.mask))
        levels = np.asarray(mask.convert("L")) if wide is None else wide  # as training reads it
    except InputError:
        return Look(pair.mask.name, size, "", (UNREADABLE,), print_of)
    findings = [OTHER_SIZE] if mask.size != size else []
    if mode in ("LA", "RGBA"):
        alpha = np.asarray(mask.getchannel("A"))
        if alpha.min() < 255 and not np.array_equal(alpha, levels):
            return Look(name, size, mode, (*findings, IN_ALPHA), print_of)
    least, most = int(levels.min()), int(levels.max())
    white = 255 if wide is None else 65535
    if most == 0:
        findings.append(EMPTY)
    elif most <= white // 2:
        findings.append(DARK)
    elif least > white // 2:
        findings.append(FULL)
    return Look(name, size, mode, tuple(findings), print_of)


def look_at_scene(scenes: SegmentSet, index: int) -> Look:
    """What is wrong with a photograph and its segments."""
    source = scenes.image_source(index)
    try:
        scene = scenes.read(index)
        print_of = fingerprint(source)
    except InputError as error:
        # The cause, where there is one, is the same of many pictures: a finding that names them all.
        cause = error.__cause__
        return Look(source.name, None, "", (str(cause if isinstance(cause, InputError) else error),), None)
    findings = (NO_SEGMENTS,) if scene.crowd.all() else ()  # of crowds nothing is learnt
    height, width = scene.segments.shape
    return Look(source.name, (width, height), "", findings, print_of)


def _line(kind: str, what: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN]) + (f", and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return f"  {kind}: {what} ({len(names)}): {shown}"
