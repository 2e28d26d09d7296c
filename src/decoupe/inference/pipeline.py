"""Many pictures, in their order: while the caller makes use of some, the next are computed, others read."""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from itertools import islice
from typing import TypeAlias, TypeVar

from decoupe.inference.preprocess import Picture, Source, read_image
from decoupe.notices import called_here

Result = TypeVar("Result")

READERS = 2
"""Threads that decode the pictures of the next batch."""

STAGES = 3
"""Batches in memory at a time: one is read, one computed, one made use of."""

Computed: TypeAlias = tuple[list[Result], Exception | None]
"""The results of a batch, and the error of the picture after them, if it has one."""


def piped(
    images: Iterator[Source],
    batch_size: int,
    *,
    max_pixels: int,
    read: Callable[[Source], Picture],
    compute: Callable[[Sequence[Picture]], Iterable[tuple[int, Result]]],
    fit: Callable[[Sequence[Picture]], bool] | None = None,
) -> Iterator[Result]:
    """The results of many pictures, in their order.

    Where one fails, or ``images`` does, the results of those before it come first.

    Args:
        images: where the pictures come from; asked on the caller's thread.
        batch_size: most pictures in one batch.
        max_pixels: largest width × height that is decoded.
        read: reads one picture; called on several threads.
        compute: the pictures of a batch -> each one's place among them, and its result; called on one thread.
        fit: whether `STAGES` batches of such pictures may be in memory together. Batches end before they may
            not, and are read on the caller's thread; where one picture is too much, nothing is read or
            computed beside it. None for as many as there are.
    """
    stopped = threading.Event()
    readers, computing = ThreadPoolExecutor(READERS), ThreadPoolExecutor(1)
    run = functools.partial(_computed, compute, stopped)
    run_there, read_there = called_here(run), called_here(read)

    def take(image: Source) -> Future[Picture]:
        if fit is None:
            return readers.submit(read_there, taken_over(image, max_pixels))
        at_once: Future[Picture] = Future()
        at_once.set_result(read(image))
        return at_once

    def begin() -> tuple[list[Future[Picture]], Exception | None]:
        begun: list[Future[Picture]] = []
        try:
            for image in islice(images, batch_size):
                begun.append(take(image))
                if fit is not None:
                    pictures = [future.result() for future in begun]
                    if not fit([*pictures, max(pictures, key=_pixels)]):  # the next may be as large
                        break
        except Exception as error:
            return begun, error
        return begun, None

    try:
        ahead, failed = begin()
        before: Future[Computed[Result]] | None = None
        while ahead:
            pictures, broken = _gathered(ahead)
            ahead, failed = [], broken or failed
            if fit is None or fit(pictures):
                results = computing.submit(run_there, pictures)
                del pictures
                if failed is None:
                    ahead, failed = begin()
                if before is not None:
                    yield from _given(before.result())
                before = results
                del results
                continue
            if before is not None:
                yield from _given(before.result())
                before = None
            yield from _given(run(pictures))
            del pictures
            if failed is None:
                ahead, failed = begin()
        if before is not None:
            yield from _given(before.result())
        if failed is not None:
            raise failed
    finally:
        # What is being computed or decoded cannot be stopped; nothing else begins.
        stopped.set()
        for pool in (computing, readers):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (computing, readers):
            pool.shutdown()


def taken_over(image: Source, max_pixels: int) -> Source:
    """A picture that stays as it is now, though its owner closes its file or fills its array anew.

    What is in memory is read, a file's bytes are fetched and not yet decoded.
    """
    if isinstance(image, (str, os.PathLike, bytes, Picture)):
        return image
    if isinstance(image, (bytearray, memoryview)):
        return bytes(image)
    if hasattr(image, "read"):
        with suppress(OSError, ValueError):
            data = image.read()
            if data and isinstance(data, bytes):
                held = BytesIO(data)
                held.name = getattr(image, "name", "image")
                return held
            if inspect.iscoroutine(data):
                data.close()  # nobody will wait for it
    return read_image(image, max_pixels)  # it tells as well what is wrong with a file


def _computed(
    compute: Callable[[Sequence[Picture]], Iterable[tuple[int, Result]]],
    stopped: threading.Event,
    pictures: Sequence[Picture],
) -> Computed[Result]:
    """The results of a batch up to the first picture that fails, and its error; none once ``stopped``."""
    found: dict[int, Result] = {}
    try:
        for place, result in compute(pictures):
            found[place] = result
            if stopped.is_set():
                return [], None
    except Exception as error:
        if len(pictures) == 1:
            return [], error
        # Whose error it is shows when each is computed by itself.
        for place, picture in enumerate(pictures):
            if stopped.is_set():
                return [], None
            try:
                if place not in found:
                    ((_, found[place]),) = compute([picture])
            except Exception as own:
                return [found[earlier] for earlier in range(place)], own
    return [found[place] for place in range(len(pictures))], None


def _given(computed: Computed[Result]) -> Iterator[Result]:
    results, error = computed
    yield from results
    if error is not None:
        raise error


def _gathered(ahead: Iterable[Future[Picture]]) -> tuple[list[Picture], Exception | None]:
    """The pictures that were read, up to the first that cannot be, and why it cannot."""
    pictures: list[Picture] = []
    try:
        for future in ahead:
            pictures.append(future.result())  # noqa: PERF401 - kept on an error
    except Exception as error:
        return pictures, error
    return pictures, None


def _pixels(picture: Picture) -> int:
    return picture.pixels.size
