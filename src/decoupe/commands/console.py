"""What commands say, and where: pictures and paths on standard output, all else on standard error."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import typer

from decoupe import interrupts
from decoupe.errors import (
    DecoupeError,
    DownloadError,
    InputError,
    InstallationError,
    MissingExtraError,
    OutputError,
)

_LONGEST_RECORD = 1 << 16  # bytes; a path has at most 4096


class Recorder:
    """Records jobs as JSON Lines in a file, on standard output, or both.

    Attributes:
        complete: whether the file holds every line. One that cannot be written, as on a full disk, is told
            once, and the work goes on.
    """

    def __init__(self, path: Path | None, printed: bool) -> None:
        self._path, self._printed = path, printed
        self.complete = True
        self._add("")  # told now, not after the first picture

    def __call__(self, about: dict[str, Any]) -> None:
        """Record what is known of one job."""
        line = json.dumps(about) + "\n"
        if self._printed:
            sys.stdout.write(line)
            sys.stdout.flush()
        try:
            self._add(line)
        except OutputError as error:
            if self.complete:
                say(str(error))
            self.complete = False

    def _add(self, line: str) -> None:
        if self._path is not None:
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                raise OutputError(
                    f"{self._path} cannot be written ({error.strerror}): name another log"
                ) from None


def recorder(path: Path | None, printed: bool) -> Recorder | None:
    """What records jobs in a file, on standard output, or both; None where nobody wants that.

    Raises:
        OutputError: the file cannot be written, or holds something else, such as a picture.
    """
    if path is not None and not _is_log(path):
        raise OutputError(f"{path} is no log of decoupe, and nothing is added to it: name another log")
    if printed and sys.stdout is None:
        raise OutputError("standard output is closed, where --json prints: give --log FILE instead")
    return Recorder(path, printed) if printed or path is not None else None


def _is_log(path: Path) -> bool:
    """Whether records may be added: to a new or empty file, to a device, or to what begins with one."""
    if not path.is_file():
        return True  # or writing finds out, and tells
    try:
        with path.open("rb") as file:
            first = file.readline(_LONGEST_RECORD)
        record = json.loads(first) if first else {"source": "-"}
    except (ValueError, RecursionError):
        return False
    except OSError:
        return True  # likewise
    return isinstance(record, dict) and not record.keys().isdisjoint({"source", "error"})


def opened(stream: TextIO | None, name: str) -> TextIO:
    """A standard stream, which is None where the process was started without it."""
    if stream is None:
        raise InputError(f"standard {name} is closed: name a file instead of -")
    return stream


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


def hush_downloads(quiet: bool) -> None:
    """Let downloads draw no bars where nobody wants them; the hub's library looks when it is loaded."""
    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


def imported(module: str, command: str, extra: str) -> ModuleType:
    """A module of decoupe.

    Raises:
        MissingExtraError: the extra that a command needs is not installed.
        InstallationError: it is, and a library of it does not work.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("decoupe"):
            raise
        raise MissingExtraError(command, extra) from error
    except ImportError as error:
        raise InstallationError((error.name or extra).partition(".")[0], error) from error


def say(line: str) -> None:
    """One line on standard error."""
    typer.echo(f"decoupe: {printable(line)}", err=True)


def printable(line: str) -> str:
    """``line`` without what file names may hold: line breaks, and sequences that terminals obey."""
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in line)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What decoupe raises, as one line and an exit status; Ctrl-C and a closed pipe end quietly."""
    leaving = interrupts.interrupt_again()
    try:
        yield
    except BaseException as error:
        if interrupts.is_interrupt(error):
            if leaving:
                interrupts.leave()
            raise typer.Exit(interrupts.INTERRUPTED) from None
        status = told_status(error)
        if status is None:
            raise
        raise typer.Exit(status) from None
    finally:
        if leaving:
            interrupts.leave_at_once()


def told_status(error: BaseException) -> int | None:
    """Say what an error is; the exit status, which is None for one that nobody meant."""
    if isinstance(error, DecoupeError):
        say(str(error))
        return 1 if isinstance(error, DownloadError) else 2
    if isinstance(error, BrokenPipeError) or _is_closed_pipe_of_windows(error):
        with contextlib.suppress(OSError):
            # What is left in the buffer has nowhere to go: without this the interpreter complains as it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if isinstance(error, OSError):
        say(f"{error.filename or 'standard output'}: {error.strerror}" if error.strerror else str(error))
        return 1
    return None


def _is_closed_pipe_of_windows(error: BaseException) -> bool:
    """Whether it is how Windows' C library tells a closed pipe: as an argument that is none."""
    told = isinstance(error, OSError) and error.errno == errno.EINVAL and error.filename is None
    return told and sys.platform == "win32"
