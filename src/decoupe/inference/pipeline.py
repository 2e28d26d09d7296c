"""Many pictures, in their order: while the caller makes use of some, the next are computed, others read."""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from decoupe.errors import InputError
from decoupe.inference.pictures import Picture, Source, held_bytes, read_image
from decoupe.notices import called_here

Outcome = TypeVar("Outcome")
Result = TypeVar("Result")

READERS = 2
"""Threads that decode the pictures of the next batch."""

STAGES = 3
"""Batches in memory at a time: one is read, one computed, one made use of."""

Compute: TypeAlias = Callable[[Sequence[Picture]], Iterable[tuple[int, Result]]]
"""Computes the pictures of a batch: each one's place among them, and its result."""


@dataclass(frozen=True)
class Failed:
    """In the place of a picture, or of its result: why there is none.

    Attributes:
        error: what was raised.
        final: whether nothing comes after it.
    """

    error: Exception
    final: bool


def piped(
    images: Iterator[Source],
    batch_size: int,
    *,
    max_pixels: int,
    read: Callable[[Source], Picture],
    compute: Compute[Result],
    fit: Callable[[Sequence[Picture]], bool] | None = None,
    on_error: Callable[[Any], object] | None = None,
) -> Iterator[Result]:
    """The results of many pictures, in their order.

    Where one fails, or ``images`` does, the results of those before it come first.

    Args:
        images: where the pictures come from; asked on the caller's thread.
        batch_size: most pictures in one batch.
        max_pixels: largest width × height that is decoded.
        read: reads one picture; called on several threads.
        compute: computes a batch; called on one thread.
        fit: whether `STAGES` batches of such pictures may be in memory together. Batches end before they may
            not, and are read on the caller's thread; where one picture is too much, nothing is read or
            computed beside it. None for as many as there are.
        on_error: given each `InputError` of a picture, in the place of its result. None raises it; everything
            else is raised, and so is what ``images`` raises.
    """
    stopped, skipping = threading.Event(), on_error is not None
    readers, computing = ThreadPoolExecutor(READERS), ThreadPoolExecutor(1)
    reading = _Reading(images, batch_size, max_pixels, read, fit, skipping, readers)
    run = functools.partial(_computed, compute, skipping, stopped)
    run_there = called_here(run)
    try:
        ahead = reading.begin()
        before: Future[list[Result | Failed]] | None = None
        while ahead:
            pictures = _to_the_end(future.result() for future in ahead)
            more, ahead = not _ends(pictures[-1]), []
            alone = fit is not None and not fit(_there(pictures))
            if alone:
                yield from _given(before, on_error)
                before = None
            results: Future[list[Result | Failed]] | None
            results = _over(run(pictures)) if alone else computing.submit(run_there, pictures)
            del pictures
            if alone:
                yield from _given(results, on_error)
                results = None
            if more:
                ahead = reading.begin()
            yield from _given(before, on_error)
            before, results = results, None
        yield from _given(before, on_error)
    finally:
        # What is being computed or decoded cannot be stopped; nothing else begins.
        stopped.set()
        for pool in (computing, readers):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (computing, readers):
            pool.shutdown()


class _Reading:
    """Batches of pictures that are read, see `piped`, on the threads of a pool where there is no ``fit``."""

    def __init__(
        self,
        images: Iterator[Source],
        batch_size: int,
        max_pixels: int,
        read: Callable[[Source], Picture],
        fit: Callable[[Sequence[Picture]], bool] | None,
        skipping: bool,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._images, self._batch_size, self._max_pixels = images, batch_size, max_pixels
        self._read, self._fit, self._skipping, self._pool = read, fit, skipping, pool
        self._read_there = called_here(functools.partial(_attempted, skipping, read))

    def begin(self) -> list[Future[Picture | Failed]]:
        """What is read of the next batch; nothing once there are no more."""
        begun: list[Future[Picture | Failed]] = []
        try:
            for image in islice(self._images, self._batch_size):
                begun.append(self._take(image))
                if self._fit is not None:
                    outcomes = [future.result() for future in begun]
                    there = _there(outcomes)
                    largest = sorted(there, key=_pixels)[-1:]  # the next may be as large
                    if _ends(outcomes[-1]) or not self._fit([*there, *largest]):
                        break
        except Exception as error:
            begun.append(_over(Failed(error, final=True)))
        return begun

    def _take(self, image: Source) -> Future[Picture | Failed]:
        if self._fit is not None:
            return _over(_attempted(self._skipping, self._read, image))
        taken = _attempted(self._skipping, taken_over, image, self._max_pixels)
        return _over(taken) if isinstance(taken, Failed) else self._pool.submit(self._read_there, taken)


def taken_over(image: Source, max_pixels: int) -> Source:
    """A picture that stays as it is now, though its owner closes its file or fills its array anew.

    What is in memory is read, a file's bytes are fetched and not yet decoded.
    """
    if isinstance(image, (str, os.PathLike, bytes, Picture)):
        return image
    if isinstance(image, (bytearray, memoryview)):
        return held_bytes(image)
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


def _attempted(skipping: bool, function: Callable[..., Outcome], *given: Any) -> Outcome | Failed:
    """What ``function`` returns, or its failure, final unless it is one picture's and those are skipped."""
    try:
        return function(*given)
    except Exception as error:
        return Failed(error, final=not (skipping and isinstance(error, InputError)))


def _computed(
    compute: Compute[Result], skipping: bool, stopped: threading.Event, batch: Sequence[Picture | Failed]
) -> list[Result | Failed]:
    """The results of a batch, as far as the failure that ends it; none once ``stopped``."""

    def alone(picture: Picture) -> Result:
        ((_, result),) = compute([picture])
        return result

    found: dict[int, Result | Failed] = {}
    places = [place for place, picture in enumerate(batch) if isinstance(picture, Picture)]
    with suppress(Exception):  # whose it is shows when each is computed by itself
        for index, result in compute(_there(batch)) if len(places) > 1 else ():
            found[places[index]] = result
            if stopped.is_set():
                return []
    for place, picture in enumerate(batch):
        if isinstance(picture, Failed):
            found[place] = picture
        elif place not in found:
            if stopped.is_set():
                return []
            found[place] = _attempted(skipping, alone, picture)
        if _ends(found[place]):
            break
    return _to_the_end(found[place] for place in range(len(batch)))


def _given(
    batch: Future[list[Result | Failed]] | None, on_error: Callable[[Any], object] | None
) -> Iterator[Result]:
    """The results of a batch, if there is one, when they are there; failures are told or raised."""
    for result in () if batch is None else batch.result():
        if not isinstance(result, Failed):
            yield result
        elif result.final or on_error is None:
            raise result.error
        else:
            on_error(result.error)


def _ends(outcome: object) -> bool:
    return isinstance(outcome, Failed) and outcome.final


def _to_the_end(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Outcomes up to the failure that ends them."""
    taken: list[Outcome] = []
    for outcome in outcomes:
        taken.append(outcome)
        if _ends(outcome):
            break
    return taken


def _there(outcomes: Iterable[Picture | Failed]) -> list[Picture]:
    """The pictures among outcomes of reading."""
    return [outcome for outcome in outcomes if isinstance(outcome, Picture)]


def _over(outcome: Outcome) -> Future[Outcome]:
    """What is known already, as what is waited for."""
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def _pixels(picture: Picture) -> int:
    return picture.pixels.size
