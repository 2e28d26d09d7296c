"""Videos: the matte of every frame, and a video made of them.

>>> for seconds, matte in mattes("clip.mp4", decoupe.load()):  # doctest: +SKIP
...     print(seconds, matte.alpha.mean())
>>> cut_video("clip.mp4", "clip.mov", decoupe.load())  # doctest: +SKIP

Frames are read, predicted and written as they come, so that memory does not grow with the video. What is
written is kept in pieces beside the output until all are there: a run that was interrupted goes on after the
last piece, and the output is what an uninterrupted run would have written.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import decoupe
from decoupe.arrays import Pixels
from decoupe.errors import InputError, OutputError
from decoupe.inference.backgrounds import Background
from decoupe.inference.edits import Edits
from decoupe.inference.media import real_paths, refuse_overwriting
from decoupe.inference.pictures import MAX_PIXELS, Picture, read_image
from decoupe.inference.predictor import Predictor
from decoupe.inference.results import Matte
from decoupe.inference.smoothing import Smoother
from decoupe.inference.video.forms import form_of, size_in
from decoupe.inference.video.frames import Composer
from decoupe.inference.video.pieces import Pieces
from decoupe.inference.video.reader import VideoReader
from decoupe.notices import VideoWarning, called_here, warn

PIECE = 64
"""Frames in a piece, at least: what an interrupted run loses at most."""

Seconds = float | Fraction | str
"""Seconds, or ``"m:ss"`` or ``"h:mm:ss"``, with a decimal part where wanted."""

_LONGEST = 10**9  # seconds: what is longer does not fit into a container's clocks

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Written:
    """What was made of a video.

    Attributes:
        frames: how many it has.
        resumed: how many of them an interrupted run had left.
        width: of a frame, in pixels.
        height: of a frame, in pixels.
        seconds: from its beginning to its last frame.
        codec: of its frames: ``"prores"``, ``"qtrle"``, ``"vp9"``, ``"ffv1"``, ``"h264"``, ``"h265"``,
            ``"mpeg4"`` or ``"png"``.
        audio: ``"kept"``, ``"encoded again"`` where the container cannot hold it as it was, or ``"none"``.
        subtitles: ``"kept"``, ``"some left out"`` or ``"left out"`` where the container cannot hold them, or
            ``"none"``.
    """

    frames: int
    resumed: int
    width: int
    height: int
    seconds: float
    codec: str
    audio: str
    subtitles: str


def mattes(
    source: str | os.PathLike[str],
    predictor: Predictor,
    *,
    start: Seconds = 0,
    end: Seconds | None = None,
    smooth: bool = True,
    batch_size: int = 8,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[tuple[float, Matte]]:
    """The mattes of a video's frames, upright, in the order in which they are shown.

    Args:
        source: a video file, or a webcam: ``"webcam"``, ``"webcam:1"``, ``"/dev/video0"``.
        predictor: what cuts, from `decoupe.load`.
        start: where in the video to begin.
        end: where to end; None is the video's end.
        smooth: whether mattes are smoothed where nothing moves, see `Smoother`.
        batch_size: frames that are predicted together.
        max_pixels: largest width × height of a frame.

    Yields:
        Seconds since ``start``, and the `Matte`, its picture in 8 bits.

    Warns:
        VideoWarning: a file that is cut short, or interlaced.

    Raises:
        InputError: a file that is missing, damaged or no video, a webcam that is not there, times that
            cannot be, no model, or ``batch_size`` below 1.
    """
    _check_kinds(source, predictor)
    reader = _reader(source, start, end, max_pixels)
    # From the last to the first: the file is let go of when nothing reads it any more.
    with (
        closing(reader),
        closing(_predicted(reader, reader.frames(), predictor, batch_size)) as found,
        closing(_smoothed(found, Smoother() if smooth else None)) as smoothed,
    ):
        for time, matte in smoothed:
            yield float(time * reader.time_base), matte


def cut_video(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    predictor: Predictor,
    *,
    over: Background | None = None,
    matte: bool = False,
    edits: Mapping[str, Any] | None = None,
    codec: str | None = None,
    start: Seconds = 0,
    end: Seconds | None = None,
    smooth: bool = True,
    batch_size: int = 8,
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int | None], object] = lambda done, count: None,
) -> Written:
    """Cut the subject out of a video, and write it: with its transparency, over something, or the matte.

    Alpha is straight, and colours at soft edges are the subject's own. Where the source has more than 8 bits,
    so have ProRes, FFV1, H.265 and PNG. Each frame keeps its time, audio and subtitles are copied where the
    container can hold them, and what the video says about turning it is applied.

    Args:
        source: a video file, or a webcam: ``"webcam"``, ``"webcam:1"``, ``"/dev/video0"``.
        target: a ``.mov``, ``.webm``, ``.mkv`` or ``.mp4`` file; a folder, or a pattern such as
            ``"out/%05d.png"``, for PNG files.
        predictor: what cuts, from `decoupe.load`.
        over: what the subject is put over: as `Matte.over` takes it, or another video, which begins anew when
            it ends.
        matte: write the matte instead: white is the subject.
        edits: changes of each matte, as `Matte.edited` takes them: ``{"grow": -1}``.
        codec: ``"prores"``, ``"qtrle"``, ``"vp9"``, ``"ffv1"``, ``"h264"``, ``"h265"`` or ``"mpeg4"``; None
            chooses.
        start: where in the video to begin; the output begins at 0.
        end: where to end; None is the video's end.
        smooth: whether mattes are smoothed where nothing moves, see `Smoother`.
        batch_size: frames that are predicted together.
        max_pixels: largest width × height of a frame.
        overwrite: replace an output, or an interrupted one of another kind; a run that goes on does as it was
            told when it began.
        stop: asked before each frame whether to end here; for webcams, which do not end.
        progress: called after each frame with how many are done, and about how many there are, if known.

    Returns:
        What was written.

    Warns:
        VideoWarning: a file that is cut short, or interlaced, or whose sound is damaged, or whose pixels are
            not square where the output cannot tell it.

    Raises:
        InputError: as `mattes` does; a background or an edit that cannot be used; an interrupted run of
            another kind.
        OutputError: an output that exists, or that cannot be written so.
        MissingExtraError: PyAV is not installed.
    """
    _check_kinds(source, predictor)
    if not isinstance(target, (str, os.PathLike)):
        raise OutputError(f"the output is a {type(target).__name__}, expected a file's name or a folder's")
    if matte and over is not None:
        raise InputError("matte shows no background: leave matte or over out")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, expected at least 1")
    form = form_of(target, codec, transparent=over is None and not matte)
    target = Path(target)
    if target.is_symlink():  # what it points to is replaced, not the link
        target = Path(os.path.realpath(target))
    if over is not None and not isinstance(over, (str, os.PathLike, tuple)):
        over = read_image(over, max_pixels)  # once: a file object is at its end after
    changes = Edits(**(edits or {}))
    wanted = {
        "over": _told_of(over),
        "matte": matte,
        "edits": asdict(changes),
        "codec": form.word,
        "from": str(seconds_of(start)),
        "to": None if end is None else str(seconds_of(end)),
        "smooth": smooth,
        "batch": batch_size,
        "model": predictor.describe(),
        # An exported file is described by the name in it, which others may have as well.
        "model file": None if predictor.file is None else _as_told(*predictor.file),
        "preprocessing": repr(predictor.preprocessing),
        "guided": predictor.guided,
        "minmax": predictor.minmax,
        "version": decoupe.__version__,
    }
    with closing(_reader(source, start, end, max_pixels, deep=form.deep)) as reader:
        composer = Composer(over, matte, changes, form, reader.size, max_pixels)
        if isinstance(over, (str, os.PathLike)) and Path(over).is_file():
            refuse_overwriting([target], real_paths([Path(over)]))
        if form.square and (aspect := reader.look.aspect) != 1:
            line = f"{source} has pixels {aspect} times as wide as high, of which {form.word} tells nothing"
            warn(f"{line}: the picture will look squeezed but in a .mov or .mp4 file", VideoWarning)
        pieces = Pieces(target, form, {"input": _told_of(reader.name), **wanted}, overwrite, reader)
        try:
            _advance(
                pieces,
                reader,
                predictor,
                composer,
                smooth=smooth,
                batch_size=batch_size,
                stop=stop,
                progress=progress,
            )
            beside = pieces.finish()
        finally:
            pieces.leave()
        height, width = size_in(form, reader.size)
        seconds = round(float((pieces.last or 0) * reader.time_base), 3)
        return Written(
            frames=pieces.frames,
            resumed=pieces.resumed,
            width=width,
            height=height,
            seconds=seconds,
            codec=form.word,
            audio=beside.audio,
            subtitles=beside.subtitles,
        )


def _advance(
    pieces: Pieces,
    reader: VideoReader,
    predictor: Predictor,
    compose: Composer,
    *,
    smooth: bool,
    batch_size: int,
    stop: Callable[[], bool],
    progress: Callable[[int, int | None], object],
) -> None:
    """Make the pieces that are missing."""
    done = pieces.resumed
    progress(done, reader.count)
    smoother = pieces.smoother() if smooth else None
    frames = _until(reader.frames(pieces.last), stop)
    # Pieces end where batches do: after an interruption the batches are those of an uninterrupted run.
    length = -(-PIECE // batch_size) * batch_size

    def composed(some: Iterable[tuple[int, Matte]]) -> Iterator[tuple[int, Pixels]]:
        nonlocal done
        for time, matte in some:
            yield time, compose(time * reader.time_base, matte)
            done += 1
            progress(done, reader.count)

    with (
        closing(_predicted(reader, frames, predictor, batch_size)) as found,
        closing(_smoothed(found, smoother)) as made,
    ):
        for first in made:
            pieces.add(composed(itertools.chain([first], itertools.islice(made, length - 1))), smoother)


def seconds_of(time: Seconds) -> Fraction:
    """Seconds of ``12.5``, ``"12.5"``, ``"1:02"`` or ``"1:00:02.5"``.

    Raises:
        InputError: anything else.
    """
    if isinstance(time, Fraction) and time >= 0:
        return time
    parts = str(time).split(":")
    try:
        numbers = [Fraction(part) for part in parts]
    except (ValueError, ZeroDivisionError):
        numbers = []
    later_parts_fit = all(0 <= number < 60 for number in numbers[1:])
    if not 1 <= len(numbers) <= 3 or "/" in str(time) or min(numbers) < 0 or not later_parts_fit:
        raise InputError(f"{time!r} is not a time, expected seconds, m:ss or h:mm:ss: such as 0:01:30")
    total = Fraction(0)
    for number in numbers:
        total = total * 60 + number
    if total > _LONGEST:
        raise InputError(f"{time!r} is later than any video lasts: check the time")
    return total


def interval(start: Seconds, end: Seconds | None) -> tuple[Fraction, Fraction | None]:
    """Both in seconds.

    Raises:
        InputError: no times, or an end that does not come after the start.
    """
    first, last = seconds_of(start), None if end is None else seconds_of(end)
    if last is not None and last <= first:
        raise InputError(f"the end, {end}, does not come after the start, {start}: give a later end")
    return first, last


def _check_kinds(source: Any, predictor: Any) -> None:
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"the video is a {type(source).__name__}, expected a file's name or a webcam's")
    if not isinstance(predictor, Predictor):
        found = repr(predictor) if isinstance(predictor, str) else f"a {type(predictor).__name__}"
        raise InputError(f"predictor is {found}, expected an open model: such as decoupe.load('birefnet')")


def _reader(
    source: str | os.PathLike[str],
    start: Seconds,
    end: Seconds | None,
    max_pixels: int,
    *,
    deep: bool = False,
) -> VideoReader:
    first, last = interval(start, end)
    reader = VideoReader(os.fspath(source), start=first, end=last, max_pixels=max_pixels, deep=deep)
    if reader.interlaced:
        line = f"{source} is interlaced, and what moves may look like a comb: write it progressive first"
        warn(f"{line}, as with ffmpeg -i {source} -vf bwdif OUT", VideoWarning)
    return reader


Found = Generator[tuple[int, Matte], None, None]


def _predicted(
    reader: VideoReader, frames: Iterable[tuple[int, Pixels]], predictor: Predictor, batch_size: int
) -> Found:
    """Ticks and mattes; while one is used, the next are read and predicted."""
    times: deque[int] = deque()

    def pictures() -> Iterator[Picture]:
        for time, pixels in frames:
            times.append(time)
            source = f"{reader.name} at {float(time * reader.time_base):.3f} s"
            clear = pixels.shape[2] == 4
            yield replace(read_image(pixels), source=source) if clear else Picture(pixels, source=source)

    with closing(_ahead(predictor.map(pictures(), batch_size), batch_size)) as found:
        for matte in found:
            yield times.popleft(), matte


def _smoothed(found: Found, smoother: Smoother | None) -> Found:
    for time, matte in found:
        if smoother is not None:
            alpha = smoother(matte.image, matte.alpha)
            matte = replace(matte, alpha=alpha if matte.opacity is None else np.minimum(alpha, matte.opacity))
        yield time, matte


def _ahead(items: Iterator[_Item], count: int) -> Generator[_Item, None, None]:
    """``items`` in their order, up to ``count`` of them made by a thread before they are asked for."""
    end: Any = object()
    following: Callable[..., Any] = called_here(next)
    pool = ThreadPoolExecutor(1)
    try:
        pending = deque(pool.submit(following, items, end) for _ in range(count))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(following, items, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def _until(frames: Iterable[_Item], stop: Callable[[], bool]) -> Iterator[_Item]:
    for frame in frames:
        if stop():
            return
        yield frame


def _told_of(source: Any) -> str | None:
    """What tells a source from another, to know whether an interrupted run was of the same."""
    if source is None:
        return None
    if isinstance(source, (str, os.PathLike)) and (path := Path(source)).is_file():
        about = path.stat()
        return _as_told(path.resolve(), about.st_mtime_ns, about.st_size)
    if isinstance(source, (str, os.PathLike, tuple)):
        return str(source)
    return hashlib.sha256(read_image(source).pixels.tobytes()).hexdigest()


def _as_told(path: str | Path, changed: int, size: int) -> str:
    return f"{path}, {size} bytes of {changed}"
