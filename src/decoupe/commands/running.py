"""Doing what a command line asks for: every job of a plan, told, counted and written whole.

Several pictures are worked on at a time, on threads: while the model computes one, others are read and
written.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import typer

from decoupe.commands.console import Recorder, drawn, opened, progress_bar, recorder, say
from decoupe.commands.plan import Job, Plan
from decoupe.commands.watching import arrivals
from decoupe.errors import DecoupeError, InputError, OutputError
from decoupe.inference.media import remove_stale, write_bytes
from decoupe.notices import CompileWarning, FramesWarning, LabelWarning, SizeWarning, VideoWarning

Files = Sequence[tuple[bytes, Path | None]]
"""What is written for one picture, in this order: the bytes of files, and where; None is standard output."""

Worked = tuple[Files, Callable[[], dict[str, Any]]]
"""What is written of a picture, and what tells of it, which is asked only where it is recorded."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Telling:
    """How much is said of the work, and where.

    Attributes:
        quiet: nothing but errors.
        verbose: the model, and each output.
        as_json: a line of JSON about each picture on standard output.
        log: the file that gets such lines too.

    Raises:
        InputError: both quiet and verbose.
    """

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    log: Path | None = None

    def __post_init__(self) -> None:
        if self.quiet and self.verbose:
            raise InputError("--quiet and --verbose exclude each other: give one of them")


def do(
    plan: Plan,
    open_model: Callable[[], Any],
    work: Callable[[Any, Path | BinaryIO, Path | None], Worked],
    *,
    done: str,
    telling: Telling,
    workers: int = 1,
    look: Callable[[], Plan] | None = None,
) -> None:
    """Tell the plan's problems, do its jobs; with ``look``, go on with what arrives until Ctrl-C.

    The model is opened where there is something to do.

    Args:
        plan: what is to be done.
        open_model: opens a model, a `Predictor` or a `Segmenter`.
        work: from the model, a picture and its target to what is written, and what tells of it; raises
            DecoupeError where it cannot.
        done: what happened to a picture that is done, as ``"cut"``.
        telling: how much is said.
        workers: how many pictures are worked on at a time.
        look: the plan of all that is to be done now.

    Raises:
        typer.Exit: 1, where some jobs failed, or could not be logged.
    """
    if telling.as_json and any(job.target is None for job in plan.jobs):
        raise InputError("--json is printed where the picture would go: name an output with -o")
    if plan.own and not telling.quiet:
        say(f"{plan.own} left out, made of the pictures beside them: to cut one, name it alone")
    opened_model = functools.cache(lambda: announced(open_model(), telling))
    failed = 0
    for folder in {target.parent for target in plan.outputs if target is not None}:
        remove_stale(folder)
    record = recorder(telling.log, telling.as_json)
    for part in [plan] if look is None else arrivals(look):
        for problem in part.problems:
            say(problem.line)
            if record is not None:
                record(problem.record())
        failed += len(part.problems)
        if part.jobs:
            model = opened_model()
            chosen = f"{model.runtime.name} on {model.device} in {model.dtype}"
            failed += _run(part, functools.partial(work, model), done, chosen, telling, record, workers)
        elif part.skipped and not telling.quiet:
            outdated = f", {part.outdated} of them older than their pictures" if part.outdated else ""
            say(f"{part.skipped} there already{outdated}: --overwrite does them again")
    if failed or (record is not None and not record.complete):
        raise typer.Exit(1)


def announced(model: Any, telling: Telling) -> Any:
    """A model that has just been opened; it is described where that is wanted."""
    for line in (model.describe(), *model.runtime.notes) if telling.verbose else ():
        say(line)
    return model


def _run(
    plan: Plan,
    work: Callable[[Path | BinaryIO, Path | None], Worked],
    done: str,
    chosen: str,
    telling: Telling,
    record: Recorder | None,
    workers: int,
) -> int:
    """Do the plan's jobs; how many failed."""
    failed = 0
    work_job = functools.partial(_worked, work=work, plan=plan, recorded=record is not None)
    total = len(plan.jobs)
    with (
        progress_bar(total, drawn=total > 1 and drawn(telling.quiet)) as advance,
        said_warnings(telling.quiet),
        contextlib.closing(in_order(work_job, plan.jobs, min(workers, total))) as results,
    ):
        for job, result in results:
            try:
                about = result()
            except Exception as error:
                # The rest of a folder is not lost to one picture; alone, whatever it is ends the command.
                if not isinstance(error, (DecoupeError, MemoryError)) and not plan.several:
                    raise
                failed += 1
                line = told_of(error)
                if telling.verbose and not isinstance(error, DecoupeError):
                    traceback.print_exception(error)
                about = {"source": job.name, "error": line}
                named = str(job.source) in line or str(job.target) in line
                say(line if named or not plan.several else f"{job.source}: {line}")
            else:
                if job.target is not None and (telling.verbose or not (telling.quiet or plan.several)):
                    say(f"wrote {job.target} ({chosen})")
            if record is not None:
                record(about)
            advance()
    if plan.several and not telling.quiet:
        counts = {
            done: len(plan.jobs) - failed,
            "there already": plan.skipped,
            "of them older than their pictures": plan.outdated,
            "failed": failed + len(plan.problems),
        }
        summary = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        say(f"{summary}; {chosen}")
    return failed


def told_of(error: Exception) -> str:
    """The line about a picture that failed, foreseen or not."""
    if isinstance(error, DecoupeError):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is too little memory for it: --workers 1 works on one picture at a time"
    return f"failed unexpectedly ({type(error).__name__}: {error}): please report it, -v shows where"


def _worked(
    job: Job, *, work: Callable[[Path | BinaryIO, Path | None], Worked], plan: Plan, recorded: bool
) -> dict[str, Any]:
    """Do one job; its record, empty where nobody asks for one."""
    begun = time.perf_counter()
    source = opened(sys.stdin, "input").buffer if job.source is None else job.source
    written, about = work(source, job.target)
    for data, target in written:
        # What stands beside the target, if anything, is an interrupted run's: `refuse_foreign` has looked.
        write(data, target, make_folders=plan.folders, overwrite=plan.overwrite or target != job.target)
    if not recorded:
        return {}
    named = None if job.target is None else str(job.target)
    seconds = round(time.perf_counter() - begun, 3)
    return {"source": job.name, "target": named, "seconds": seconds, **about()}


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Generator[tuple[Item, Callable[[], Result]], None, None]:
    """Each item, and what gives or raises the result of ``work``, in the items' order.

    With several workers the items are worked on by threads, a few ahead of the one that is yielded.
    """
    if workers < 2:
        for item in items:
            yield item, functools.partial(work, item)
        return
    ahead: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            ahead.append((item, pool.submit(work, item)))
            # What is done is not kept back: the next item may be long in coming.
            while ahead and (len(ahead) > 2 * workers or ahead[0][1].done()):
                done, future = ahead.popleft()
                yield done, future.result
        for done, future in ahead:
            yield done, future.result
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def said_warnings(quiet: bool = False) -> Iterator[None]:
    """What decoupe warns of, as lines on standard error."""
    with warnings.catch_warnings():
        for category in (SizeWarning, CompileWarning, FramesWarning, LabelWarning, VideoWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = lambda message, *_: None if quiet else say(str(message))
        yield


def write(data: bytes, target: Path | None, *, make_folders: bool = False, overwrite: bool = True) -> None:
    """Write a picture's bytes: to standard output, or whole or not at all to a file.

    Raises:
        OutputError: a place that cannot be written.
    """
    if target is None:
        stream = opened(sys.stdout, "output").buffer
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
    write_bytes(data, target, overwrite=overwrite)
