"""``decoupe video``: the subject cut out of a video, every frame of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decoupe.commands.console import drawn, hush_downloads, progress_bar, say, told
from decoupe.commands.cut_files import read_background
from decoupe.commands.options import (
    Compile,
    Device,
    Feather,
    FillHoles,
    Grow,
    InputSize,
    Invert,
    KeepLargest,
    MaxPixels,
    Mean,
    Memory,
    Model,
    NetworkSize,
    Precision,
    Quiet,
    Shrink,
    Std,
    Threshold,
    Trust,
    Verbose,
    among,
    parse_edits,
    parse_feeding,
    parse_size,
    taking,
)
from decoupe.commands.running import Telling, announced, said_warnings
from decoupe.errors import DecoupeError, InputError, OutputError
from decoupe.inference.media import check_folder, real_paths, refuse_overwriting
from decoupe.inference.pictures import MAX_PIXELS
from decoupe.runtimes import find_spec

if TYPE_CHECKING:
    from decoupe.inference.predictor import Predictor
    from decoupe.inference.video import Written


# Those of decoupe.inference.video.forms, which needs PyAV; the help does not.
CODECS = ("prores", "qtrle", "vp9", "ffv1", "h264", "h265", "mpeg4")

SECTIONS = {
    "over": "Output",
    "threshold": "Matte",
    "model": "Model",
    "as_json": "Messages",
}
"""Titles of the help's sections, by the first option of each."""


@dataclass(frozen=True)
class VideoOptions:
    """What a command line asks of ``decoupe video``, as it was written."""

    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="A video, or a webcam: webcam, webcam:1, /dev/video0.")
    ]
    out: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="A .mov, .webm, .mkv or .mp4 file; a folder or frame%05d.png for PNG files."
        ),
    ]
    over: Annotated[
        str | None,
        typer.Option(
            metavar="COLOUR|IMAGE|VIDEO|blur",
            help="Put the subject over a colour, an image, another video or a blur.",
        ),
    ] = None
    matte: Annotated[bool, typer.Option("--matte", help="Write the matte: white is the subject.")] = False
    codec: Annotated[
        str | None,
        typer.Option(
            metavar="CODEC",
            help=f"{', '.join(CODECS[:-1])} or {CODECS[-1]}; by default what suits OUT.",
            autocompletion=among(CODECS),
        ),
    ] = None
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Begin here: seconds, m:ss or h:mm:ss.")
    ] = None
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="End here.")] = None
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output that exists, or start it over.")
    ] = False
    threshold: Threshold = None
    keep_largest: KeepLargest = False
    fill_holes: FillHoles = False
    grow: Grow = 0
    shrink: Shrink = 0
    feather: Feather = 0
    invert: Invert = False
    smooth: Annotated[
        bool, typer.Option("--smooth/--no-smooth", help="Keep mattes from flickering where nothing moves.")
    ] = True
    model: Model = None
    size: NetworkSize = None
    guided: Annotated[
        bool | None,
        typer.Option(
            "--guided/--no-guided",
            help="Enlarge mattes along outlines, with lost hairs; by default as the model says.",
        ),
    ] = None
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Frames that the model sees at a time.")] = 8
    device: Device = "auto"
    precision: Precision = "auto"
    compile: Compile = False
    memory: Memory = None
    trust: Trust = False
    input_size: InputSize = None
    mean: Mean = None
    std: Std = None
    max_pixels: MaxPixels = MAX_PIXELS
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written, or why not, as a line of JSON.")
    ] = False
    quiet: Quiet = False
    verbose: Verbose = False


@taking(VideoOptions)
def video(options: VideoOptions) -> None:
    """Cut the subject out of a video. With transparency, or over something; run again, it goes on."""
    with told():
        telling = Telling(options.quiet, options.verbose)
        hush_downloads(options.quiet)
        find_spec(options.model)  # an unknown name is told before anything else
        from decoupe.inference.predictor import open_predictor
        from decoupe.inference.video.forms import form_of
        from decoupe.inference.video.frames import is_video
        from decoupe.inference.video.reader import VideoReader, device_of

        network_size = parse_size(options.size)
        feeding = parse_feeding(options.input_size, options.mean, options.std)
        if "" in (options.source, options.out):
            raise InputError("a path is empty: check the variable that it came from")
        if options.source == "-":
            raise InputError("a video is read from a file, not from standard input: name the file")
        if options.out == "-":
            raise OutputError("a video is written to a file, not to standard output: name one, or a folder")
        if options.matte and options.over is not None:
            raise InputError("--matte and --over exclude each other: give one of them")
        if device_of(options.source) is None:
            refuse_overwriting([Path(options.out)], real_paths([Path(options.source)]))
        if options.over is not None and Path(options.over).is_file():
            refuse_overwriting([Path(options.out)], real_paths([Path(options.over)]))
        if options.over is not None and not is_video(Path(options.over)):
            with said_warnings(quiet=True):  # told when it is put below the first frame
                read_background(options.over, options.max_pixels)
        form = form_of(options.out, options.codec, transparent=options.over is None and not options.matte)
        wanted = _wanted(options)
        if device_of(options.source) is None:  # before a model is fetched for nothing
            with _failing(options), said_warnings(quiet=True):
                VideoReader(options.source, max_pixels=options.max_pixels).close()
                if form.container is not None:
                    check_folder(Path(options.out))
        predictor = open_predictor(
            options.model,
            device=options.device,
            dtype=options.precision,
            compile=options.compile,
            memory=options.memory,
            size=network_size,
            guided=options.guided,
            preprocessing=feeding,
            trust=options.trust,
        )
        announced(predictor, telling)
        with _failing(options):
            written = _cut(options, predictor, wanted)
        if not options.quiet:
            say(_summary(written, options.out, predictor))
        if options.as_json:
            about = {"source": options.source, "target": options.out, **dataclasses.asdict(written)}
            typer.echo(json.dumps(about))


@contextlib.contextmanager
def _failing(options: VideoOptions) -> Iterator[None]:
    """Tell what goes wrong with the video, and leave with status 1."""
    try:
        yield
    except DecoupeError as error:
        say(str(error))
        if options.as_json:
            typer.echo(json.dumps({"source": options.source, "error": str(error)}))
        raise typer.Exit(1) from None


def _wanted(options: VideoOptions) -> dict[str, Any]:
    """What is asked of `cut_video`."""
    from decoupe.inference.video import interval

    first, last = interval(options.start or "0", options.end)
    return {
        "over": options.over,
        "matte": options.matte,
        "edits": parse_edits(options),
        "codec": options.codec,
        "start": first,
        "end": last,
        "smooth": options.smooth,
        "batch_size": options.batch,
        "max_pixels": options.max_pixels,
        "overwrite": options.overwrite,
    }


def _cut(options: VideoOptions, predictor: Predictor, wanted: dict[str, Any]) -> Written:
    from decoupe.inference.video import cut_video
    from decoupe.inference.video.reader import device_of

    with (
        _progress(options.quiet) as progress,
        _until_ctrl_c(device_of(options.source) is not None) as stopped,
        said_warnings(options.quiet),
    ):
        return cut_video(options.source, options.out, predictor, stop=stopped, progress=progress, **wanted)


def _summary(written: Written, out: str, predictor: Predictor) -> str:
    """What was written, and what of the source is not in it."""
    counted = "1 frame" if written.frames == 1 else f"{written.frames} frames"
    parts = [f"wrote {out}: {counted} of {written.width}×{written.height}, {written.codec}"]
    if written.resumed:
        parts.append(f"{written.resumed} of them from the interrupted run")
    parts.append({"none": "no audio"}.get(written.audio, f"audio {written.audio}"))
    if written.subtitles != "none":
        some = written.subtitles == "some left out"
        parts.append("some subtitles left out" if some else f"subtitles {written.subtitles}")
    return f"{', '.join(parts)} ({predictor.runtime.name} on {predictor.device} in {predictor.dtype})"


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int | None], None]]:
    """A bar of the frames that are left, which appears with the first call."""
    with contextlib.ExitStack() as stack:
        advance: Callable[[], None] | None = None

        def progress(done: int, count: int | None) -> None:
            nonlocal advance
            if advance is None:
                left = None if count is None else max(0, count - done)
                advance = stack.enter_context(progress_bar(left, drawn=drawn(quiet)))
            else:
                advance()

        yield progress


@contextlib.contextmanager
def _until_ctrl_c(live: bool) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, which ends a webcam's video and makes it whole; elsewhere it interrupts."""
    stopped = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if live:
        signal.signal(signal.SIGINT, lambda *_: stopped.set())
    try:
        yield stopped.is_set
    finally:
        if live:
            signal.signal(signal.SIGINT, before)
