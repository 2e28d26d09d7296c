"""The pieces of a video that is being made: a run that was interrupted goes on after the last one."""

from __future__ import annotations

import errno
import itertools
import json
import operator
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from decoupe.arrays import Pixels
from decoupe.errors import DecoupeError, InputError, OutputError
from decoupe.inference.media import check_folder, lock, write_bytes
from decoupe.inference.smoothing import Known, Smoother
from decoupe.inference.video.encoding import write_piece
from decoupe.inference.video.forms import Form, sequence_files, sequence_path
from decoupe.inference.video.joining import join_pieces
from decoupe.inference.video.reader import FFmpegError, VideoReader
from decoupe.inference.video.tracks import Beside

_LOCK = "lock"
_MOVING = "moving"


class Pieces:
    """The pieces of an output in a folder beside it, and their joining.

    The folder holds what was asked for, ``job.json``; of each piece the file or folder, which is renamed to
    its name when it is whole, the ticks of its frames, and what the smoother knew at its end; ``lock``, which
    is locked while a run works there; and ``moving``, once frames of a sequence may have their own names.

    Args:
        target: the output.
        form: of its frames and container.
        job: what is asked for, which an interrupted run must have been asked for as well.
        overwrite: replace an output, or an interrupted one of another kind.
        reader: of the source.

    Attributes:
        resumed: how many frames an interrupted run had left.

    Raises:
        InputError: an interrupted run of another kind is in the folder.
        OutputError: an output that exists, or that cannot be written; or another run works at it.
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
        with ExitStack() as failing, written_to(target):
            failing.callback(self._let_go)
            self._open(job, overwrite)
            failing.pop_all()
        self.resumed = self.frames

    @property
    def frames(self) -> int:
        """How many there are in all pieces."""
        return sum(map(len, self._times))

    @property
    def last(self) -> int | None:
        """The ticks of the last frame; None where there is none."""
        return self._times[-1][-1] if self._times else None

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

    def leave(self) -> None:
        """Let go of the folder; it is removed where it holds nothing to go on with."""
        if not self._times:
            with suppress(OSError):
                self._remove()
        self._let_go()

    def add(self, frames: Iterator[tuple[int, Pixels]], smoother: Smoother | None) -> None:
        """Write one more piece, of all of ``frames``, and what the smoother knows at its end."""
        number, reader = len(self._times), self._reader
        piece = self._piece(number)
        unfinished = piece.with_name(f"unfinished{piece.suffix}")
        with written_to(self._target):
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

    def smoother(self) -> Smoother:
        """The smoother as the last piece left it."""
        if not self._times:
            return Smoother()
        with np.load(self._beside(len(self._times) - 1, "npz")) as state:
            return Smoother(Known(**state))

    def finish(self) -> Beside:
        """Join the pieces, give the output its name, and tidy up.

        Returns:
            What became of audio and subtitles.

        Raises:
            InputError: there is no frame.
            OutputError: the output cannot be written, or exists by now.
        """
        if not self._times:
            raise InputError(f"{self._reader.name} gave no frame: end it later")
        beside = Beside()
        with written_to(self._target):
            if self._form.container is None:
                self._refuse_to_replace()
                self._move_pictures()
            else:
                joined = self._folder / f"joined{self._target.suffix}"
                pieces = [(self._piece(number), times) for number, times in enumerate(self._times)]
                beside = join_pieces(joined, self._form, pieces, self._reader)
                self._refuse_to_replace()
                joined.replace(self._target)
            self._remove()
        return beside

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
        for later in itertools.count(self.frames + 1):
            if not self._replaces or not sequence_path(self._target, later).exists():
                break
            sequence_path(self._target, later).unlink()


@contextmanager
def written_to(target: Path) -> Iterator[None]:
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
