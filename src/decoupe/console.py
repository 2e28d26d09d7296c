"""Doing what a command line asks for: every job of a plan, told, counted and written whole.

Pictures and paths go to standard output, everything said about them to standard error.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, TextIO

import typer

from decoupe.errors import DecoupeError, DownloadError, InputError, MissingExtraError, OutputError
from decoupe.inference.media import write_bytes
from decoupe.inference.predictor import SizeWarning
from decoupe.inference.preprocess import Size
from decoupe.plan import Plan

Files = Sequence[tuple[bytes, Path | None]]
"""What is written for one picture, in this order: the bytes of files, and where; None is standard output."""


def run(
    plan: Plan,
    work: Callable[[Path | BinaryIO, Path | None], tuple[Files, Callable[[], dict[str, Any]]]],
    *,
    done: str,
    chosen: str,
    quiet: bool,
    verbose: bool,
    record: Callable[[dict[str, Any]], None] | None = None,
) -> int:
    """Do the plan's jobs.

    Args:
        plan: what is to be done.
        work: from a picture and its target to what is written, and what tells of it, which is asked only
            where it is recorded; raises DecoupeError where it cannot.
        done: what happened to a picture that is done, as ``"cut"``.
        chosen: the model, device and precision, to be told.
        quiet: say nothing but errors.
        verbose: name each output.
        record: gets what there is to tell of each job when it is done: ``source``, ``target``, ``seconds``
            and what ``work`` says, or ``source`` and ``error``.

    Returns:
        How many jobs failed.
    """
    failed = 0
    with (
        progress_bar(len(plan.jobs), drawn=len(plan.jobs) > 1 and drawn(quiet)) as advance,
        warnings_told(quiet),
    ):
        for job in plan.jobs:
            named_source = "-" if job.source is None else str(job.source)
            begun = time.perf_counter()
            try:
                source = _opened(sys.stdin, "input").buffer if job.source is None else job.source
                written, about = work(source, job.target)
                for data, target in written:
                    _write(data, target, plan.several)
                if record is not None:
                    told_target = None if job.target is None else str(job.target)
                    seconds = round(time.perf_counter() - begun, 3)
                    record({"source": named_source, "target": told_target, "seconds": seconds, **about()})
                if job.target is not None and (verbose or not (quiet or plan.several)):
                    say(f"wrote {job.target} ({chosen})")
            except DecoupeError as error:
                failed += 1
                line = str(error)
                if record is not None:
                    record({"source": named_source, "error": line})
                named = str(job.source) in line or str(job.target) in line
                say(line if named or not plan.several else f"{job.source}: {line}")
            advance()
    if plan.several and not quiet:
        counts = {
            done: len(plan.jobs) - failed,
            "there already": plan.skipped,
            "of them older than their pictures": plan.outdated,
            "failed": failed + len(plan.problems),
        }
        summary = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        say(f"{summary}; {chosen}")
    return failed


def _write(data: bytes, target: Path | None, make_folders: bool) -> None:
    if target is None:
        stream = _opened(sys.stdout, "output").buffer
        stream.write(data)
        stream.flush()
        return
    if make_folders:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot make the folder {target.parent} ({error.strerror}): name another with -o"
            ) from error
    write_bytes(data, target)


def recorder(path: Path | None, printed: bool) -> Callable[[dict[str, Any]], None] | None:
    """What records jobs as JSON Lines: added to a file, on standard output, or both; None is nowhere.

    Raises:
        OutputError: the file cannot be written; so does what it returns.
    """

    def add(line: str) -> None:
        if path is not None:
            try:
                with path.open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                raise OutputError(f"{path} cannot be written ({error.strerror}): name another log") from None

    def record(about: dict[str, Any]) -> None:
        line = json.dumps(about) + "\n"
        if printed:
            sys.stdout.write(line)
            sys.stdout.flush()
        add(line)

    add("")  # told now, not after the first picture
    return record if printed or path is not None else None


def _opened(stream: TextIO | None, name: str) -> TextIO:
    """A standard stream, which is None where the process was started without it."""
    if stream is None:
        raise InputError(f"standard {name} is closed: name a file instead of -")
    return stream


@contextlib.contextmanager
def warnings_told(quiet: bool) -> Iterator[None]:
    """Warnings as one line each, those of sizes every time; none where nothing but errors is wanted."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", SizeWarning)
        warnings.showwarning = lambda message, *_: None if quiet else say(str(message))
        yield


def drawn(quiet: bool) -> bool:
    """Whether a bar is to be drawn: nobody asked for quiet, and there is a terminal to see it."""
    return not quiet and sys.stderr is not None and sys.stderr.isatty()


@contextlib.contextmanager
def progress_bar(total: int | None, *, drawn: bool) -> Iterator[Callable[[], None]]:
    """A bar on standard error with the rate and the time left; yields what to call after each picture.

    Where nobody knows the total, None, it tells how many there were.
    """
    if not drawn:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(elapsed_when_finished=True))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total, rate="")
        begun = time.perf_counter()

        def advance() -> None:
            done = progress.tasks[task].completed + 1
            progress.update(task, advance=1, rate=f"{done / (time.perf_counter() - begun):.1f}/s")

        yield advance


def imported(module: str, command: str, extra: str) -> ModuleType:
    """A module of decoupe; MissingExtraError where the extra that a command needs is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("decoupe"):
            raise
        raise MissingExtraError(command, extra) from error


def parse_size(text: str | None) -> Size | None:
    """The network size that ``--size`` names.

    Raises:
        InputError: another form.
    """
    if text is None:
        return None
    if text == "native":
        return "native"
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) > 2 or not all(side.isdecimal() and len(side) < 10 for side in sides):
        raise InputError(f"--size is {text!r}, expected N, WxH or native: such as 1024 or 1440x960")
    width, height = int(sides[0]), int(sides[-1])
    return height, width


def say(line: str) -> None:
    """One line on standard error."""
    typer.echo(f"decoupe: {printable(line)}", err=True)


def printable(line: str) -> str:
    """``line`` without what file names may hold: line breaks, and sequences that terminals obey."""
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in line)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What decoupe raises, as one line and an exit status; Ctrl-C and a closed pipe end quietly."""
    try:
        yield
    except DecoupeError as error:
        say(str(error))
        raise typer.Exit(1 if isinstance(error, DownloadError) else 2) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            # What is left in the buffer has nowhere to go: without this the interpreter complains as it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(141) from None
    except OSError as error:
        say(f"{error.filename or 'standard output'}: {error.strerror}" if error.strerror else str(error))
        raise typer.Exit(1) from None
