"""Raw frames in a pipe: ``ffmpeg … -f rawvideo -pix_fmt rgb24 - | decoupe cut - --raw 1920x1080``."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from decoupe.commands.console import opened, recorder, say
from decoupe.commands.cut_files import Wanted, describe
from decoupe.commands.cut_options import CutOptions
from decoupe.commands.options import parse_sides
from decoupe.commands.plan import refuse_log
from decoupe.commands.running import Telling, announced, in_order, said_warnings, write
from decoupe.errors import DecoupeError, InputError, OutputError
from decoupe.inference.media import is_done, real_paths, refuse_overwriting, remove_stale
from decoupe.inference.results import Matte

if TYPE_CHECKING:
    from decoupe.inference.predictor import Predictor

_NUMBER = re.compile(r"%(0\d+)?[du]")  # as ffmpeg writes it in names


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame as it came: its number, from 1; its bytes, which are fewer at a broken end; where it goes."""

    number: int
    data: bytes
    target: Path | None


def cut_frames(
    options: CutOptions,
    output: Wanted,
    open_model: Callable[[], Predictor],
    choice: dict[str, Any],
    workers: int,
    telling: Telling,
) -> None:
    """Cut each frame of standard input: into numbered files, or as raw frames on standard output.

    Raises:
        InputError: options that do not go together.
        OutputError: outputs that cannot be written.
        typer.Exit: 1, where some frames failed, or could not be logged.
    """
    size = _frame_size(options)
    target_of = _targets(options, output)
    over = real_paths([Path(options.over)] if options.over else [])
    clear = functools.cache(remove_stale)
    record = recorder(telling.log, telling.as_json)
    model = announced(open_model(), telling)
    work = functools.partial(
        _cut_frame,
        predictor=model,
        size=size,
        output=output,
        choice=choice,
        overwrite=options.overwrite,
        over=over,
        log=telling.log,
    )
    counts = {"cut": 0, "there already": 0, "failed": 0}

    def left() -> Iterator[Frame]:
        read = functools.partial(opened(sys.stdin, "input").buffer.read, size[0] * size[1] * 3)
        for number, data in enumerate(iter(read, b""), 1):  # the last may be cut off
            target = target_of(number)
            if target is not None:
                clear(target.parent)
            if target is None or options.overwrite or not is_done(target):
                yield Frame(number, data, target)
            else:
                counts["there already"] += 1

    with said_warnings(telling.quiet), contextlib.closing(in_order(work, left(), workers)) as results:
        for frame, result in results:
            try:
                data, about = result()
                if frame.target is None:
                    write(data, None)
                counts["cut"] += 1
                if telling.verbose and frame.target is not None:
                    say(f"wrote {frame.target}")
            except DecoupeError as error:
                if frame.target is None and len(frame.data) == size[0] * size[1] * 3:
                    write(_nothing_of(frame, size, output), None)
                counts["failed"] += 1
                about = {"source": f"frame {frame.number}", "error": str(error)}
                say(f"frame {frame.number}: {error}")
            if record is not None:
                record(about)
    if not telling.quiet:
        summary = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        say(f"frames: {summary or 'none'}; {model.runtime.name} on {model.device} in {model.dtype}")
    if counts["failed"] or not any(counts.values()) or (record is not None and not record.complete):
        raise typer.Exit(1)


def _nothing_of(frame: Frame, size: tuple[int, int], output: Wanted) -> bytes:
    """What stands for a frame that failed where frames have no numbers: later ones keep their times."""
    nothing = Matte(np.zeros(size, np.float32), np.frombuffer(frame.data, np.uint8).reshape(*size, 3))
    return np.asarray(output.image_of(nothing)).tobytes()


def _cut_frame(
    frame: Frame,
    *,
    predictor: Predictor,
    size: tuple[int, int],
    output: Wanted,
    choice: dict[str, Any],
    overwrite: bool,
    over: Collection[str],
    log: Path | None,
) -> tuple[bytes, dict[str, Any]]:
    """The bytes of one frame's output, already written where it has a file; and its record."""
    begun = time.perf_counter()
    if frame.target is not None:
        refuse_overwriting([frame.target], over)
        refuse_log([frame.target], log)
    height, width = size
    expected = height * width * 3
    if len(frame.data) < expected:
        raise InputError(
            f"it ends after {len(frame.data)} of {expected} bytes: "
            f"check that the frames are rgb24 and of {width}×{height}"
        )
    matte = predictor(np.frombuffer(frame.data, np.uint8).reshape(height, width, 3), **choice)
    if frame.target is None:
        data = np.asarray(output.image_of(output.changed(matte))).tobytes()
    else:
        data = output.bytes_of(matte, frame.target)
        write(data, frame.target, make_folders=True, overwrite=overwrite)
    seconds = round(time.perf_counter() - begun, 3)
    target = None if frame.target is None else str(frame.target)
    return data, {"source": f"frame {frame.number}", "target": target, "seconds": seconds, **describe(matte)}


def _frame_size(options: CutOptions) -> tuple[int, int]:
    """``(height, width)`` of the frames, where the options go with raw ones."""
    text = str(options.raw)
    size = None if text.isdecimal() else parse_sides(text)  # one number names no frame
    if size is None or min(size) < 1:
        raise InputError(f"--raw is {text!r}, expected WIDTHxHEIGHT: such as 1920x1080")
    if size[0] * size[1] > options.max_pixels:
        raise InputError(f"--raw is {options.raw}, over {options.max_pixels:,} pixels: raise --max-pixels")
    if options.inputs != ["-"]:
        raise InputError("--raw frames come from standard input: name - as the only input")
    if options.watch:
        raise InputError("--watch waits in folders, and --raw reads standard input: leave one of them out")
    return size


def _targets(options: CutOptions, output: Wanted) -> Callable[[int], Path | None]:
    """Where the frame of a number goes; None is standard output."""
    out = options.out
    if out is None or out == "-":
        piped = {"--json": options.as_json, "--crop": options.crop, "--layers": options.layers}
        piped |= {"--format": options.form is not None, "--quality": options.quality is not None}
        for option in [option for option, given in piped.items() if given]:
            raise InputError(
                f"{option} is for files, and frames go to standard output: add -o out/%05d{output.suffix}"
            )
        if sys.stdout is not None and sys.stdout.isatty():
            raise OutputError("frames are not written to a terminal: name -o out/%05d.png, or redirect them")
        return lambda _: None
    folder = out.endswith(("/", os.sep)) or Path(out).is_dir()
    pattern = f"{out.rstrip('/' + os.sep)}/%05d{output.suffix}" if folder else out
    if len(_NUMBER.findall(pattern)) != 1 or pattern.count("%") != 1:
        raise OutputError(f"{out} names one file, and there are many: number them, such as out/%05d.png")

    def target_of(number: int) -> Path:
        return Path(_NUMBER.sub(lambda found: found[0].replace("u", "d") % number, pattern))

    output.check([target_of(1)])
    return target_of
