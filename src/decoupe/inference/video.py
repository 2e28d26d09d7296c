"""Videos: the matte of every frame, and a video made of them.

>>> for seconds, matte in mattes("clip.mp4", decoupe.load()):  # doctest: +SKIP
...     print(seconds, matte.alpha.mean())
>>> cut_video("clip.mp4", "clip.mov", decoupe.load())  # doctest: +SKIP

Frames are read, predicted and written as they come, so that memory does not grow with the video. What is
written is kept in pieces beside the output until all are there: a run that was interrupted goes on after the
last piece, and the output is what an uninterrupted run would have written.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import operator
import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

import decoupe
from decoupe.errors import DecoupeError, InputError, OutputError
from decoupe.inference.backgrounds import Background
from decoupe.inference.edits import Edits
from decoupe.inference.media import check_folder, lock, real_paths, refuse_overwriting, write_bytes
from decoupe.inference.predictor import Predictor
from decoupe.inference.preprocess import MAX_PIXELS, Picture, Pixels, read_image
from decoupe.inference.results import Matte
from decoupe.inference.smoothing import Known, Smoother
from decoupe.inference.video_files import (
    Form,
    form_of,
    join_pieces,
    sequence_files,
    sequence_path,
    size_in,
    write_piece,
)
from decoupe.inference.video_frames import Composer
from decoupe.inference.video_reader import FFmpegError, VideoReader

PIECE = 64
"""Frames in a piece, at least: what an interrupted run loses at most."""

Seconds = float | Fraction | str
"""Seconds, or ``"m:ss"`` or ``"h:mm:ss"``, with a decimal part where wanted."""

_LOCK = "lock"
_MOVING = "moving"
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
    """

    frames: int
    resumed: int
    width: int
    height: int
    seconds: float
    codec: str
    audio: str


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

    Raises:
        InputError: a file that is missing, damaged or no video, a webcam that is not there, times that
            cannot be, or ``batch_size`` below 1.
    """
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
    so have ProRes, FFV1, H.265 and PNG. Each frame keeps its time, audio is copied where the container can
    hold it, and what the video says about turning it is applied.

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

    Raises:
        InputError: as `mattes` does; a background or an edit that cannot be used; an interrupted run of
            another kind.
        OutputError: an output that exists, or that cannot be written so.
        MissingExtraError: PyAV is not installed.
    """
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
        work = _Work(target, form, {"input": _told_of(reader.name), **wanted}, overwrite, reader)
        try:
            work.advance(predictor, composer, smooth, batch_size, stop, progress)
            return work.finish()
        finally:
            work.leave()


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


def _reader(
    source: str | os.PathLike[str],
    start: Seconds,
    end: Seconds | None,
    max_pixels: int,
    *,
    deep: bool = False,
) -> VideoReader:
    first, last = interval(start, end)
    return VideoReader(os.fspath(source), start=first, end=last, max_pixels=max_pixels, deep=deep)


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
    pool = ThreadPoolExecutor(1)
    try:
        pending = deque(pool.submit(next, items, end) for _ in range(count))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, items, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


class _Work:
    """The pieces of an output in a folder beside it, and their joining.

    The folder holds what was asked for, ``job.json``; of each piece the file or folder, which is renamed to
    its name when it is whole, the ticks of its frames, and what the smoother knew at its end; ``lock``, which
    is locked while a run works there; and ``moving``, once frames of a sequence may have their own names.
    """

    def __init__(
        self, target: Path, form: Form, job: dict[str, Any], overwrite: bool, reader: VideoReader
    ) -> None:
        self._target, self._form, self._reader = target, form, reader
        self._folder = target.with_name(f"{target.name.replace('%', '_')}.part")
        self._lock: BinaryIO | None = None
        if form.container is not None:
            check_folder(target)
        if not reader.live and target.exists() and target.samefile(reader.name):
            raise OutputError(f"{target} is the input, and would be overwritten: choose another output")
        self._times: list[list[int]] = []
        self._replaces = overwrite
        self._moving = False
        with ExitStack() as failing, _written_to(target):
            failing.callback(self._let_go)
            self._open(job, overwrite)
            failing.pop_all()
        self.resumed = sum(map(len, self._times))

    def _open(self, job: dict[str, Any], overwrite: bool) -> None:
        described = self._folder / "job.json"
        anew = overwrite or self._reader.live or not described.exists()
        if self._folder.exists() and not described.exists() and any(self._left()):
            raise OutputError(f"{self._folder} is in the way, not an interrupted run: rename or delete it")
        if anew:
            self._refuse_to_replace()
        self._hold()
        if anew:
            self._clear()
            # NumPy's numbers are numbers.
            told = json.dumps({**job, "overwrite": overwrite}, default=operator.methodcaller("item"))
            write_bytes(told.encode(), described)
            return
        before = json.loads(described.read_text())
        differing = [name for name in job if name not in before or before[name] != job[name]]
        if differing:
            raise InputError(
                f"{self._folder} holds an interrupted run with another {' and '.join(differing)}: give "
                "what was given then, or begin anew with overwrite, --overwrite"
            )
        self._replaces = before["overwrite"]
        self._moving = (self._folder / _MOVING).exists()
        self._times = list(self._whole_pieces())
        self._refuse_to_replace()

    def _refuse_to_replace(self) -> None:
        """Raise OutputError where there is a file that the output would replace unasked."""
        if self._replaces or not (there := self._in_the_way()):
            return
        others = f" and {len(there) - 1} more" if len(there) > 1 else ""
        what = "it" if self._form.container is not None else "the sequence"
        kept = ""
        if self._times:
            kept = f"; what is made is kept in {self._folder}"
            if not self._reader.live:
                whose = "they are" if others else "it is"
                kept += f", and the same command goes on with it once {whose} moved away"
        raise OutputError(
            f"{there[0]}{others} exist{'' if others else 's'}: choose another output, or overwrite {what} "
            f"(--overwrite){kept}"
        )

    def _in_the_way(self) -> list[Path]:
        """The files that the output would replace: not the frames that an interrupted run has moved."""
        if self._form.container is not None:
            return [self._target] if self._target.exists() else []
        if self._moving:
            return [path for source, path in self._pictures() if source.exists() and path.exists()]
        return sequence_files(self._target)

    def _hold(self) -> None:
        """Lock the folder, which is made where it is missing, while this run works in it."""
        while self._lock is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = (self._folder / _LOCK).open("ab")
            whose = lock(file)
            if whose == "ours" and (self._folder / _LOCK).exists():  # else its run ended just now
                self._lock = file
                return
            file.close()
            if whose == "another's":
                raise OutputError(f"another run is making {self._target}: wait for it, or stop it")
            if whose == "none":
                return

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _left(self) -> Iterator[Path]:
        return (path for path in self._folder.iterdir() if path.name != _LOCK)

    def _clear(self) -> None:
        """Remove what is in the folder, that by which it is told from others first, but keep the lock."""
        (self._folder / "job.json").unlink(missing_ok=True)
        for path in self._left():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _remove(self) -> None:
        self._clear()
        self._let_go()
        (self._folder / _LOCK).unlink()
        self._folder.rmdir()

    def _whole_pieces(self) -> Iterator[list[int]]:
        number = 0
        while self._piece(number).exists():
            yield json.loads(self._beside(number, "json").read_text())
            number += 1

    def _piece(self, number: int) -> Path:
        return self._folder / f"{number:05d}{'' if self._form.container is None else self._target.suffix}"

    def _beside(self, number: int, ending: str) -> Path:
        return self._folder / f"{number:05d}.{ending}"

    def advance(
        self,
        predictor: Predictor,
        compose: Composer,
        smooth: bool,
        batch_size: int,
        stop: Callable[[], bool],
        progress: Callable[[int, int | None], object],
    ) -> None:
        """Make the pieces that are missing."""
        reader = self._reader
        done = self.resumed
        progress(done, reader.count)
        smoother = self._smoother() if smooth else None
        after = self._times[-1][-1] if self._times else None
        frames = _until(reader.frames(after), stop)
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
            closing(_smoothed(found, smoother)) as mattes,
        ):
            for first in mattes:
                some = composed(itertools.chain([first], itertools.islice(mattes, length - 1)))
                with _written_to(self._target):
                    self._add(some, smoother)

    def leave(self) -> None:
        """Let go of the folder; it is removed where it holds nothing to go on with."""
        if not self._times:
            with suppress(OSError):
                self._remove()
        self._let_go()

    def _add(self, frames: Iterator[tuple[int, Pixels]], smoother: Smoother | None) -> None:
        number = len(self._times)
        piece = self._piece(number)
        unfinished = piece.with_name(f"unfinished{piece.suffix}")
        reader = self._reader
        times = write_piece(
            unfinished, self._form, frames, time_base=reader.time_base, rate=reader.rate, look=reader.look
        )
        write_bytes(json.dumps(times).encode(), self._beside(number, "json"))
        if smoother is not None and smoother.known is not None:
            with self._beside(number, "npz").open("wb") as file:
                np.savez(file, **smoother.known._asdict())
        unfinished.replace(piece)
        self._times.append(times)
        if number:
            self._beside(number - 1, "npz").unlink(missing_ok=True)

    def _smoother(self) -> Smoother:
        if not self._times:
            return Smoother()
        with np.load(self._beside(len(self._times) - 1, "npz")) as state:
            return Smoother(Known(**state))

    def finish(self) -> Written:
        """Join the pieces, give the output its name, and tidy up."""
        reader = self._reader
        if not self._times:
            raise InputError(f"{reader.name} gave no frame: end it later")
        with _written_to(self._target):
            if self._form.container is None:
                audio = "none"
                self._refuse_to_replace()
                self._move_pictures()
            else:
                joined = self._folder / f"joined{self._target.suffix}"
                pieces = [(self._piece(number), times) for number, times in enumerate(self._times)]
                audio = join_pieces(joined, self._form, pieces, reader)
                self._refuse_to_replace()
                joined.replace(self._target)
            self._remove()
        height, width = size_in(self._form, reader.size)
        return Written(
            frames=sum(map(len, self._times)),
            resumed=self.resumed,
            width=width,
            height=height,
            seconds=round(float(self._times[-1][-1] * reader.time_base), 3),
            codec=self._form.word,
            audio=audio,
        )

    def _pictures(self) -> Iterator[tuple[Path, Path]]:
        """Each frame of a sequence: where it is until it is moved, and its own name."""
        places = (
            self._piece(number) / f"{index:05d}.png"
            for number, times in enumerate(self._times)
            for index in range(len(times))
        )
        for number, place in enumerate(places, 1):
            yield place, sequence_path(self._target, number)

    def _move_pictures(self) -> None:
        """Each frame to its own name; those that an interrupted run moved are there."""
        sequence_path(self._target, 1).parent.mkdir(parents=True, exist_ok=True)
        (self._folder / _MOVING).touch()
        for source, path in self._pictures():
            if source.exists():
                source.replace(path)
        # What a longer sequence had after this one's end is replaced as well.
        for later in itertools.count(sum(map(len, self._times)) + 1):
            if not self._replaces or not sequence_path(self._target, later).exists():
                break
            sequence_path(self._target, later).unlink()


def _until(frames: Iterable[_Item], stop: Callable[[], bool]) -> Iterator[_Item]:
    for frame in frames:
        if stop():
            return
        yield frame


@contextmanager
def _written_to(target: Path) -> Iterator[None]:
    """Raise OutputError, as one line, where ``target`` or what is beside it cannot be written."""
    try:
        yield
    except DecoupeError:
        raise
    except (OSError, FFmpegError) as error:
        reason = error.strerror or str(error)
        # What FFmpeg makes of what it was given has numbers of its own, or this one.
        own = error.errno == errno.EINVAL or error.errno not in errno.errorcode
        remedy = "check the folder's permissions and free space"
        if own:
            remedy = "another codec or kind of file may hold what this video has"
        raise OutputError(f"{target} cannot be written ({reason}): {remedy}") from None


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
