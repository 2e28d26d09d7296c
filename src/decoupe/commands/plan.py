"""What a command line asks for: which picture goes where, and what stands in the way.

Nothing is written here, and an input is never an output.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from decoupe.errors import DecoupeError, InputError, OutputError
from decoupe.inference.media import (
    READABLE,
    check_folder,
    find_images,
    folded,
    folder_of,
    image_format,
    is_done,
    is_outdated,
    output_paths,
    real_path_of,
    real_paths,
    refuse_overwriting,
)
from decoupe.inference.pictures import check_picture, check_place

WORDS = ("cut", "matte", "overlay", "side-by-side", "layers", "segments")
"""What outputs are called that nobody named, as ``photo.cut.png``."""


@dataclass(frozen=True)
class Job:
    """One picture to cut out: from where, None is standard input; to where, None is standard output."""

    source: Path | None
    target: Path | None

    @property
    def name(self) -> str:
        """What the picture is called where it is told of."""
        return "-" if self.source is None else str(self.source)


@dataclass(frozen=True)
class Problem:
    """A line about an input of which nothing can be made; ``source`` is what it is called, if one picture."""

    line: str
    source: str | None = None

    def record(self) -> dict[str, str]:
        """What is recorded of it."""
        named = {} if self.source is None else {"source": self.source}
        return {**named, "error": self.line}


@dataclass
class Plan:
    """What a command line asks for.

    Attributes:
        jobs: what is to be done, in order.
        skipped: how many pictures of folders are done already.
        outdated: how many of those were changed after they were done.
        own: how many are left out, as earlier runs made them of pictures that stand beside them.
        problems: the inputs of which nothing can be made.
        several: whether the outputs are counted; the one of a single picture is named.
        folders: whether the outputs' folders are made where they do not exist.
        overwrite: whether outputs that exist are replaced.
        owners: the input of every output, by where the output lies.
        outputs: every output, those that stand already too; None is standard output.
        listed: the folders of pictures, those below them, and those of outputs.
    """

    jobs: list[Job] = field(default_factory=list)
    skipped: int = 0
    outdated: int = 0
    own: int = 0
    problems: list[Problem] = field(default_factory=list)
    several: bool = False
    folders: bool = False
    overwrite: bool = False
    owners: dict[str, Path] = field(default_factory=dict)
    outputs: list[Path | None] = field(default_factory=list)
    listed: set[Path] = field(default_factory=set)
    _folded: dict[str, Path] = field(default_factory=dict)
    _real_path: Callable[[Path], str] = field(default_factory=real_path_of)

    def claim(self, source: Path, target: Path) -> bool:
        """Note that ``target`` is made of ``source``; False where that is noted already.

        Raises:
            OutputError: it is made of another input, or would be on a disk that takes names for one which
                differ in case only. The inputs' own disk may tell such names apart: then so do their outputs.
        """
        place = self._real_path(target)
        owner = self.owners.get(place)
        if owner is not None and os.path.realpath(owner) == os.path.realpath(source):
            return False
        other = owner or self._folded.setdefault(folded(place), source)
        if owner is not None or folded(other) != folded(source):
            raise OutputError(
                f"{source} would overwrite {target}, made of {other}: cut it alone, with another -o"
            )
        self.owners[place] = source
        self.outputs.append(target)
        self.listed.add(target.parent)
        return True


@dataclass(frozen=True)
class _Rules:
    """What holds for every input.

    Attributes:
        suffix: the ending of outputs in folders.
        waiting: whether pictures may still come, so that an empty folder is no problem.
        read: the real paths of all that is read, which is never an output.
        made: folders of outputs, whose pictures are no inputs.
    """

    suffix: str
    waiting: bool
    read: Collection[str]
    made: Collection[Path]


def make_plan(
    inputs: list[str],
    out: str | None,
    *,
    word: str,
    overwrite: bool,
    text: bool = False,
    suffix: str = ".png",
    waiting: bool = False,
    beside: Collection[Path] = (),
    log: Path | None = None,
) -> Plan:
    """Which picture goes where.

    Args:
        inputs: files, folders, patterns such as ``photos/**/*.jpg``, or one ``-`` alone.
        out: a file where there is one picture, else a folder; None is beside the inputs.
        word: one of `WORDS`.
        overwrite: whether outputs that exist are made again. Without it those of a folder are skipped,
            older than their pictures or not, and the output of a file that was named is a problem.
        text: whether standard output gets text, which a terminal can show.
        suffix: the ending of outputs that are not named as files.
        waiting: whether pictures may still come, so that an empty folder is no problem.
        beside: what else is read, as a background.
        log: what is added to, and is no output.

    Raises:
        InputError: inputs and output that do not go together.
        OutputError: an output that stands in the way, or is one of the inputs, or the log.
    """
    for name in (*inputs, *([] if out is None else [out])):
        check_place(name)
    inputs = _distinct(inputs)
    several = len(inputs) > 1 or folder_of(Path(inputs[0])) is not None
    if "-" in inputs or out == "-":
        if several:
            raise InputError("- stands for one picture: give no other inputs, and no folder")
        if out is not None and out != "-":
            refuse_overwriting([Path(out)], real_paths(beside))
            refuse_log([Path(out)], log)
        return _plan_stream(inputs[0], out, overwrite, text)
    folder = _output_folder(out, several)
    plan = Plan(several=several, folders=several or folder is not None, overwrite=overwrite)
    named = _without_own([Path(name) for name in inputs], plan)
    places = real_paths([*named, *beside])
    if out is not None and folder is None:
        refuse_overwriting([Path(out)], places)
    target_of = functools.partial(
        _target, out=out, folder=folder, word=word, alone=len(named) == 1, suffix=suffix
    )
    folders = [found[0] for name in named if (found := _folder_of(name)) is not None]
    for one in folders:
        _refuse_own_folder(one, folder or target_of(one))
    # Any input's results may lie in any other's folder, and would be cut by the next run.
    made = {*map(target_of, folders), *([] if folder is None else [folder])}
    rules = _Rules(suffix, waiting, places, made)
    for source in named:
        _plan_input(plan, rules, source, target_of)
    # Each input has been compared with itself; a folder's outputs could still be another folder's pictures.
    sources = real_paths([*beside, *(job.source for job in plan.jobs if job.source is not None)])
    refuse_overwriting((job.target for job in plan.jobs if job.target is not None), sources)
    refuse_log(plan.outputs, log)
    return plan


def _distinct(inputs: list[str]) -> list[str]:
    """Each input once, however it is spelled; a link to a picture stays, as its name gives another output."""
    names: dict[tuple[str, str], str] = {}
    for name in inputs:
        path = Path(name)
        folder, rest = _folder_of(path) or (path.parent, path.name)
        names.setdefault((os.path.realpath(folder), rest), name)
    return list(names.values())


def refuse_log(outputs: Iterable[Path | None], log: Path | None) -> None:
    """Raise OutputError where ``log`` is one of the outputs, under whatever name."""
    if log is None:
        return
    real_path = real_path_of()
    place = real_path(log)
    for target in outputs:
        if target is not None and real_path(target) == place:
            raise OutputError(f"{target} is an output and the log: name another --log")


def _folder_of(source: Path) -> tuple[Path, str] | None:
    """As `folder_of`; None too for what cannot be looked at, which is told where it is planned."""
    try:
        return folder_of(source)
    except OSError:
        return None


def _output_folder(out: str | None, several: bool) -> Path | None:
    """The folder that ``out`` names, or None where it names a file, or nothing."""
    if out is None:
        return None
    path = Path(out)
    if out.endswith(("/", os.sep)) or path.is_dir():
        return path
    if several and path.suffix.lower() in READABLE:
        raise OutputError(f"{out} names one picture, the inputs are several: name a folder, or end it in /")
    return path if several else None


def _target(
    source: Path, *, out: str | None, folder: Path | None, word: str, alone: bool, suffix: str
) -> Path:
    """The output of one input: a folder's is a folder."""
    if folder is None:
        return _beside(source, word, suffix) if out is None else Path(out)
    if source.is_dir():
        return folder if alone else folder / source.resolve().name
    return folder / f"{source.stem}{suffix}"


def _plan_input(plan: Plan, rules: _Rules, source: Path, target_of: Callable[[Path], Path]) -> None:
    picture: str | None = str(source)
    try:
        if (found := folder_of(source)) is not None:
            picture = None
            folder, pattern = found
            _plan_folder(plan, rules, folder, target_of(folder), pattern=pattern)
        else:
            _plan_file(plan, rules, source, target_of(source))
    except DecoupeError as error:
        plan.problems.append(Problem(str(error), picture))
    except OSError as error:
        line = f"{source} cannot be read ({error.strerror}): check its name and permissions"
        plan.problems.append(Problem(line, picture))


def _plan_stream(name: str, out: str | None, overwrite: bool, text: bool) -> Plan:
    source = None if name == "-" else Path(name)
    target = None if out is None or out == "-" else Path(out)
    if target is None:
        if not text and sys.stdout is not None and sys.stdout.isatty():
            raise OutputError(
                "a picture is not written to a terminal: name an output with -o, or redirect it"
            )
    elif target.is_dir() or str(out).endswith(("/", os.sep)):
        raise OutputError(f"{out} is a folder, and what comes from standard input has no name: name a file")
    plan, job = Plan(outputs=[target], overwrite=overwrite), Job(source, target)
    try:
        if target is not None:
            _refuse_standing(target, overwrite)
        plan.jobs.append(job)
    except OutputError as error:
        plan.problems.append(Problem(str(error), job.name))
    return plan


def _plan_folder(plan: Plan, rules: _Rules, folder: Path, out: Path, *, pattern: str) -> None:
    _refuse_own_folder(folder, out)

    def note(line: str) -> None:
        plan.problems.append(Problem(line))

    found = find_images(folder, pattern, exclude=rules.made, problem=note, listed=plan.listed.add)
    pictures = _without_own(found, plan)
    if not pictures and not rules.waiting:
        if pattern != "**":
            raise InputError(f"{folder / pattern} matches no pictures: check the pattern")
        raise InputError(f"{folder} holds no pictures: name another folder, or the files")
    _check_folder(out)
    for source, target in output_paths(pictures, folder, out, rules.suffix).items():
        try:
            if not plan.claim(source, target):
                continue
        except OutputError as error:
            plan.problems.append(Problem(str(error), str(source)))
            continue
        if plan.overwrite or not is_done(target):
            plan.jobs.append(Job(source, target))
        else:
            plan.skipped += 1
            plan.outdated += is_outdated(source, target)


def _refuse_own_folder(folder: Path, out: Path) -> None:
    """A second run would cut what the first has made."""
    if os.path.realpath(out) == os.path.realpath(folder):
        raise OutputError(f"{out} is the folder of the pictures: name another with -o, or leave -o out")


def _without_own(pictures: list[Path], plan: Plan) -> list[Path]:
    """Without what earlier runs put beside others of them.

    That is ``photo.cut.png`` beside ``photo.jpg``, and the folder ``photos-cut`` beside ``photos``.
    """
    stems, whole = {picture.parent / picture.stem for picture in pictures}, set(pictures)

    def own(picture: Path) -> bool:
        base, _, word = picture.stem.rpartition(".")
        if word in WORDS and picture.parent / base in stems:
            return True
        marks = (f"-{word}" for word in WORDS if picture.name.endswith(f"-{word}") and picture.is_dir())
        return any(picture.with_name(picture.name.removesuffix(mark)) in whole for mark in marks)

    kept = [picture for picture in pictures if not own(picture)]
    plan.own += len(pictures) - len(kept)
    return kept


def _plan_file(plan: Plan, rules: _Rules, source: Path, target: Path) -> None:
    if not source.exists():
        remedy = ", or put -o before an output" if plan.jobs else ""  # other tools take IN OUT
        raise InputError(f"{source} does not exist: check the path{remedy}")
    refuse_overwriting([target], rules.read)
    _check_folder(target.parent)
    if not plan.folders:
        check_folder(target)
    if not plan.several:
        check_picture(source)  # before a model is fetched for nothing
    if plan.claim(source, target):
        _refuse_standing(target, plan.overwrite)
        plan.jobs.append(Job(source, target))


def check_output(target: Path, overwrite: bool) -> None:
    """Refuse an output that cannot be written, before work that takes long.

    Raises:
        OutputError: it exists and is not to be replaced, or its folder does not exist.
    """
    check_folder(target)
    _refuse_standing(target, overwrite)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made, since a file is in its place or above it."""
    for part in (folder, *folder.parents):
        if part.is_file():
            raise OutputError(f"{part} is a file, expected a folder: name another output with -o")


def _refuse_standing(target: Path, overwrite: bool) -> None:
    try:
        stands, folder = target.exists(), target.is_dir()
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error.strerror}): name another output") from None
    if folder:
        raise OutputError(f"{target} is a folder: name another output")
    if stands and not overwrite:
        raise OutputError(f"{target} exists: add --overwrite, or name another output")


def _beside(source: Path, word: str, suffix: str) -> Path:
    """Where the output goes that nobody named: ``photo.cut.png``, or the folder ``photos-cut``."""
    if source.is_dir():
        whole = source.resolve()
        if not whole.name:
            raise OutputError(f"{source} has no folder beside it: name one with -o")
        return whole.with_name(f"{whole.name}-{word}")
    return source.with_name(f"{source.stem}.{word}{suffix}")


def refuse_foreign(plan: Plan, beside: Callable[[Path], Path], mark: Callable[[Path], bytes]) -> None:
    """Drop jobs whose second output exists and belongs to another picture; each becomes a problem.

    Args:
        plan: changed in place.
        beside: the second output of a target.
        mark: how the second output of a source begins.
    """
    for job in list(plan.jobs):
        other = beside(job.target) if job.target is not None else None
        if other is None or other == job.target or not other.exists():
            continue
        try:
            own = mark(job.source) if job.source is not None else b"-"
            with other.open("rb") as file:
                ours = file.read(len(own)) == own
        except OSError:
            ours = False
        if not ours:
            line = f"{other} exists and is of something else: add --overwrite, or name another -o"
            plan.problems.append(Problem(line, job.name))
            plan.jobs.remove(job)


def check_formats(outputs: Iterable[Path | None], *, flat: bool) -> None:
    """Refuse outputs that no picture could be written to, before the first one is cut and if all exist."""
    for target in filter(None, outputs):
        if not target.suffix:
            raise OutputError(f"{target} has no file ending: end it in .png, or in / where it is a folder")
        if image_format(target.suffix) == "JPEG" and not flat:
            raise OutputError(
                f"{target}: JPEG has no transparency: end it in .png, or add --over white (or another colour)"
            )
