"""A process that opens pictures and computes: what a hostile picture may bring down, and nothing else.

It reads pictures, lets the model see those that are ready in one batch, and writes answers, each in threads
of its own. Jobs come pickled from the server, which is trusted; a number without a job is of one that nobody
waits for any more. Every job is answered, if only by that it was let go of. Answers go back as a line of JSON
and bytes: the server believes nothing else of a process in which strangers' files were opened.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import queue
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from decoupe.errors import DecoupeError, InputError, ModelError, TooLargeError
from decoupe.inference.pictures import FORMATS, Picture, read_image, register_heic
from decoupe.inference.predictor import Predictor, Segmenter, load
from decoupe.inference.preprocess import network_size
from decoupe.server.jobs import PLAIN, Answer, Cut, Job, Looks, Segmentation
from decoupe.server.problems import ProblemError

_TRY_SECONDS = 250  # for the picture that a model does before a worker is ready; the server waits 600


@dataclass(frozen=True)
class Workplace:
    """What a worker is started with.

    Attributes:
        models: what is opened, by the names that clients use, as `load` takes it; None is the embedded model.
        device: where they compute.
        dtype: in which precision.
        batch: most pictures that a model sees at once.
        threads: how many pictures are read and written at the same time.
        max_pixels: most pixels of a picture, and of all that are in work.
        max_frames: most frames of an animation, of which the first is read.
        memory: megabytes that the process may take beyond its models; 0 is without bound. The system keeps
            it to that where it can: on Linux, on a CPU.
    """

    models: Mapping[str, str | None] = field(default_factory=lambda: {"pocket": None})
    device: str = "auto"
    dtype: str = "auto"
    batch: int = 4
    threads: int = 2
    max_pixels: int = 50_000_000
    max_frames: int = 100
    memory: int = 4096


_DROPPED = MappingProxyType({"dropped": True})
"""What is said of a job for whose answer nobody waits: it takes no memory here any more."""


@dataclass
class _Task:
    """A job on its way through a worker."""

    number: int
    job: Job
    begun: float
    choice: Mapping[str, Any] = field(default_factory=dict)  # of its picture, see `Job.choice`
    pixels: int = 0
    seconds: float = 0.0


def main(connection: Connection, place: Workplace) -> None:
    """What the process does until the server closes the connection."""
    # The server is told to stop and lets its workers finish; whoever tells the whole group must not end them.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    log_warnings()
    refuse_other_formats()
    try:
        models = opened(place)
        one = _Worker(connection, place, models)
        if place.memory and all(model.device == "cpu" for model in models.values()):
            bound_memory(place.memory, one)
    except DecoupeError as error:
        connection.send_bytes(json.dumps({"error": str(error)}).encode())
        return
    connection.send_bytes(json.dumps({"models": [told(name, one) for name, one in models.items()]}).encode())
    one.run()


def log_warnings() -> None:
    """Let warnings of this process be lines of the log."""
    warnings.showwarning = lambda message, *_: log(warning=str(message))


def log(**about: str) -> None:
    """A line of JSON on standard error, as the server's own."""
    sys.stderr.write(line_of(**about) + "\n")
    sys.stderr.flush()


def line_of(**about: str) -> str:
    """What is told now, as JSON."""
    return json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **about})


def refuse_other_formats() -> None:
    """Let Pillow open `FORMATS`, in this process, and no others."""
    Image.init()
    register_heic()  # before any picture comes, so that these are measured as all others
    Image.ID[:] = [name for name in Image.ID if name in FORMATS]
    Image.MAX_IMAGE_PIXELS = None  # each picture is measured before it is decoded


def opened(place: Workplace) -> dict[str, Predictor | Segmenter]:
    """The models by name; a segment model finds what ``what`` names for all matte models.

    Raises:
        DecoupeError: as `load` does.
    """
    models: dict[str, Predictor | Segmenter] = {
        name: load(path or None, device=place.device, dtype=place.dtype)
        for name, path in place.models.items()
    }
    segmenter = next((model for model in models.values() if isinstance(model, Segmenter)), None)
    return {
        name: Predictor(model.runtime, spec=model.spec, segmenter=segmenter)
        if isinstance(model, Predictor)
        else model
        for name, model in models.items()
    }


def looking(model: Predictor | Segmenter, looks: Looks) -> Predictor | Segmenter:
    """The same model with these options."""
    if isinstance(model, Segmenter) or looks == PLAIN:
        return model
    return Predictor(
        model.runtime,
        size=looks.size,
        spec=model.spec,
        minmax=looks.minmax,
        guided=looks.guided,
        segmenter=lambda: model.segmenter,
    )


def check_size_of(looks: Looks, model: Predictor | Segmenter) -> None:
    """Refuse a size outside the range that a model's weights know: its memory would have no bound.

    Raises:
        InputError: such a size, or one that is no multiple of what the model divides pictures by.
    """
    if looks.size is None:
        return
    least, most = model.preprocessing.size_range
    if min(looks.size) < least or max(looks.size) > most:
        height, width = looks.size
        raise InputError(f"size is {width}x{height}, this model knows {least} to {most} pixels a side")
    network_size((most, most), model.preprocessing, looks.size)


def told(name: str, model: Predictor | Segmenter) -> dict[str, Any]:
    """What the server tells of a model."""
    height, width = model.preprocessing.size
    about: dict[str, Any] = {
        "name": name,
        "task": "matte" if isinstance(model, Predictor) else "segment",
        "device": model.device,
        "precision": model.dtype,
        "size": [width, height],
        "licence": model.spec.licence if model.spec is not None else None,
    }
    return about | ({"labels": list(model.vocabulary.names)} if isinstance(model, Segmenter) else {})


def bound_memory(megabytes: int, one: _Worker) -> None:
    """Let the process's address space grow by so much and no more, where the system can bound it.

    Raises:
        ModelError: one small picture cannot be computed in it.
    """
    try:
        import resource

        taken = _address_space("VmSize")
    except (ImportError, OSError):
        return
    bound, (_, hard) = taken + megabytes * 2**20, resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    with _silent():  # what fails for want of memory is told in one line
        fits = one.tries_each()
    # Lifted where it does not fit: what it takes shows without a bound alone.
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound) if fits else (hard, hard))
    if fits:
        return
    names = ", ".join(one.models)
    if not one.tries_each():
        raise ModelError(f"a worker with {names} cannot compute one small picture: see above")
    takes = -(-(_address_space("VmPeak") - taken) // 2**20)
    raise ModelError(
        f"--memory {megabytes}: a worker with {names} takes up to {takes} MB for one small picture, "
        "give that or more"
    )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence standard error, of libraries in C as well."""
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _address_space(field: str) -> int:
    """Bytes of address space that the process has (VmSize), or has had at most (VmPeak).

    Raises:
        OSError: the system does not tell.
    """
    found = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024


def measured(data: bytes, max_pixels: int, max_frames: int) -> int:
    """How many pixels a picture has, by its header alone; 0 where `read_image` cannot open it either.

    Raises:
        TooLargeError: more pixels or frames than that.
    """
    try:
        with Image.open(BytesIO(data)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise TooLargeError(
                    f"the picture is {width}×{height}, {width * height:,} pixels; "
                    f"this server takes at most {max_pixels:,}: make it smaller"
                )
            frames = _frames(image)
    except TooLargeError:
        raise
    except Exception:  # whatever a damaged header makes Pillow raise
        return 0
    if frames > max_frames:
        raise TooLargeError(
            f"the picture has {frames:,} frames; this server takes at most {max_frames:,}, "
            "and cuts the first: send that"
        )
    return width * height


def _frames(image: Image.Image) -> int:
    """How many frames an open file has; 1 where later ones are damaged, since the first is read."""
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # as above
        return 1


_Read = tuple[_Task, Picture]
"""A task whose picture has been read."""


class _Budget:
    """Pixels that may be in work at the same time, so that memory is bounded whatever comes together."""

    def __init__(self, total: int) -> None:
        self._total = self._left = total
        self._changed = threading.Condition()

    def take(self, pixels: int) -> int:
        """Wait for as many pixels, at most all of them; how many were taken."""
        pixels = min(pixels, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= pixels)
            self._left -= pixels
        return pixels

    def give(self, pixels: int) -> None:
        with self._changed:
            self._left += pixels
            self._changed.notify_all()


class _Worker:
    def __init__(
        self, connection: Connection, place: Workplace, models: Mapping[str, Predictor | Segmenter]
    ) -> None:
        self._connection = connection
        self._place = place
        self.models = models
        self._budget = _Budget(place.max_pixels)
        self._read: queue.SimpleQueue[_Read] = queue.SimpleQueue()
        self._wanted: set[int] = set()  # numbers of jobs for whose answers somebody waits
        self._sending = threading.Lock()
        self._readers = _started(place.threads)
        self._writers = _started(place.threads)
        threading.Thread(target=self._compute, daemon=True).start()

    def tries_each(self) -> bool:
        """Whether each model does one picture of its size, or 512×512, in all steps of a job; blocks."""
        try:
            return all(self._tries(name, model) for name, model in self.models.items())
        except MemoryError:  # of this thread: there is none for the picture either
            return False

    def _tries(self, name: str, model: Predictor | Segmenter) -> bool:
        most = math.isqrt(self._place.max_pixels)
        height, width = (min(max(side, 512), most) for side in model.preprocessing.size)
        data = BytesIO()
        # Noise, as no photograph takes more to read and write.
        Image.effect_noise((width, height), 64).convert("RGB").save(data, "PNG")
        job = (Cut if isinstance(model, Predictor) else Segmentation)(data.getvalue(), name)
        here, theirs = Pipe()
        server, self._connection = self._connection, theirs
        try:
            self._take(0, job)
            if not here.poll(_TRY_SECONDS):
                return False
            return "failed" not in json.loads(here.recv_bytes().partition(b"\n")[0])
        finally:
            self._connection = server

    def run(self) -> None:
        """Take jobs until the server closes the connection."""
        while True:
            try:
                number, job = self._connection.recv()
            except (EOFError, OSError):
                break
            if job is not None:
                self._take(number, job)
            elif number in self._wanted:
                self._wanted.discard(number)  # whichever step comes next lets go of it
            else:
                self._say(number, _DROPPED)
        for pool in (self._readers, self._writers):
            pool.shutdown(wait=False, cancel_futures=True)

    def _take(self, number: int, job: Job) -> None:
        self._wanted.add(number)
        self._readers.submit(self._guarded, self._open, _Task(number, job, time.perf_counter()))

    def _open(self, task: _Task) -> None:
        if task.number not in self._wanted:
            self._send(task, _DROPPED)
            return
        check_size_of(task.job.looks, self.models[task.job.model])
        cap, frames = self._place.max_pixels, self._place.max_frames
        task.pixels = self._budget.take(sum(measured(data, cap, frames) for data in task.job.pictures))
        picture = read_image(task.job.pictures[0], cap)
        task.choice = task.job.choice(picture.size)
        self._read.put((task, picture))

    def _compute(self) -> None:
        while True:
            batch = [self._read.get()]
            while len(batch) < self._place.batch and not self._read.empty():
                batch.append(self._read.get())
            groups: dict[tuple[str, Looks], list[_Read]] = {}
            for task, picture in batch:
                if task.number in self._wanted:
                    groups.setdefault((task.job.model, task.job.looks), []).append((task, picture))
                else:
                    self._send(task, _DROPPED)
            for (name, looks), group in groups.items():
                self._predict(looking(self.models[name], looks), group)

    def _predict(self, model: Predictor | Segmenter, group: list[_Read]) -> None:
        """The results of one model: in one batch, but for pictures of which something is chosen."""
        whole = [(task, picture) for task, picture in group if not task.choice]
        begun = time.perf_counter()
        try:
            results = list(model.map([picture for _, picture in whole], batch_size=max(1, len(whole))))
        except Exception:  # whose it is shows when each is done by itself
            results = []
        for (task, _), result in zip(whole, results, strict=False):
            task.seconds = time.perf_counter() - begun
            self._finish(task, result)
        for task, picture in group:
            if task.choice or not results:
                self._guarded(functools.partial(self._predict_one, model, picture), task)

    def _predict_one(self, model: Any, picture: Picture, task: _Task) -> None:
        begun = time.perf_counter()
        result = model(picture, **task.choice)
        task.seconds = time.perf_counter() - begun
        self._finish(task, result)

    def _finish(self, task: _Task, result: Any) -> None:
        def write(task: _Task) -> None:
            self._answer(task, task.job.answer(result))

        self._guarded(lambda task: self._writers.submit(self._guarded, write, task), task)

    def _guarded(self, step: Callable[[_Task], object], task: _Task) -> None:
        """A step of a task; what it raises is the answer."""
        failure = _failure(step, task)
        # Not before what failed has let go of its memory: the next job comes as soon as this one is answered.
        if failure is not None:
            self._send(task, failure)

    def _answer(self, task: _Task, answer: Answer) -> None:
        seconds = {"model": task.seconds, "worker": time.perf_counter() - task.begun}
        about = {"media_type": answer.media_type, "headers": dict(answer.headers), "seconds": seconds}
        self._send(task, about, answer.body)

    def _send(self, task: _Task, about: Mapping[str, Any], body: bytes = b"") -> None:
        self._budget.give(task.pixels)
        self._wanted.discard(task.number)
        self._say(task.number, about, body)

    def _say(self, number: int, about: Mapping[str, Any], body: bytes = b"") -> None:
        line = json.dumps({"number": number, **about}).encode()
        try:
            with self._sending:
                self._connection.send_bytes(line + b"\n" + body)
        except OSError:
            pass  # the server is gone, and this process is about to end


def _started(threads: int) -> ThreadPoolExecutor:
    """Threads that have all started: once memory is bounded, there may be none for another."""
    pool = ThreadPoolExecutor(threads)
    together = threading.Barrier(threads)  # who waits is not free, so each of these takes a new one
    for _ in range(threads):
        pool.submit(together.wait)
    return pool


def _failure(step: Callable[[_Task], object], task: _Task) -> dict[str, str] | None:
    """What a step raises: its kind, a line, and a code where it has one of its own."""
    try:
        step(task)
    except TooLargeError as error:
        return {"failed": "large", "line": str(error)}
    except ProblemError as error:
        return {"failed": "input", "line": str(error), "code": error.code}
    except (MemoryError, DecoupeError) as error:
        # Runtimes tell in words that a model lacked memory.
        if isinstance(error, MemoryError) or (isinstance(error, ModelError) and "memory" in str(error)):
            line = "the picture needs more memory than this server gives: make it smaller"
            return {"failed": "large", "line": line}
        return {"failed": "input", "line": str(error)}
    except Exception:
        log(fault=traceback.format_exc())
        return {"failed": "fault", "line": "the picture could not be done; the server's log says why"}
    return None
