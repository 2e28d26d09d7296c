"""What every open model shares: reading pictures, batches, and the plan of what fits in memory."""

from __future__ import annotations

import functools
import math
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from decoupe.errors import InputError, ModelError
from decoupe.inference.preprocess import (
    MAX_PIXELS,
    Picture,
    Size,
    Source,
    network_size,
    read_image,
    reduced,
    second_size,
    to_network,
)
from decoupe.memory import Plan, parse_memory, plan, shown
from decoupe.notices import called_here, warn
from decoupe.runtimes import OpenModel
from decoupe.weights.registry import ModelSpec, Preprocessing

Result = TypeVar("Result")
READERS = 2
"""Threads that decode the pictures of the next batch."""

Pair = tuple[int, int]
"""``(height, width)`` in pixels."""


class SizeWarning(UserWarning):
    """A prediction at a size at which the weights are not known to work, or that is seen in tiles."""


def results_size(pictures: Sequence[Picture]) -> int:
    """Bytes of the pictures' mattes, and of one more: while it is enlarged there are two."""
    pixels = [math.prod(picture.size) for picture in pictures]
    return 4 * (sum(pixels) + max(pixels))


class Opened(ABC, Generic[Result]):
    """What every open model shares: reading pictures, batches of those that enter it at one size, memory."""

    def __init__(
        self,
        runtime: OpenModel,
        *,
        size: Size | None = None,
        spec: ModelSpec | None = None,
        memory: int | str | None = None,
    ) -> None:
        self.size: Size | None = size
        self.memory = None if memory is None else parse_memory(memory)
        self.spec = spec
        self._model = runtime
        self._warned = False
        # Threads may share a model: they read and write at the same time, and compute in turns.
        self._turn = threading.Lock()
        network_size((1024, 1024), self.preprocessing, size)

    @property
    def preprocessing(self) -> Preprocessing:
        """How a picture becomes the model's input."""
        return self._model.preprocessing

    @property
    def device(self) -> str:
        """Where the model computes."""
        return self._model.device

    @property
    def dtype(self) -> str:
        """The precision that the model computes in."""
        return self._model.dtype

    def __reduce__(self) -> NoReturn:
        raise ModelError("an open model is not pickled: call decoupe.load in each process")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.describe()})"

    def describe(self) -> str:
        """Model, runtime, device, precision and size, in one line."""
        size = self.preprocessing.size if self.size is None else self.size
        if isinstance(size, int):
            size = size, size
        shown = size if isinstance(size, str) else f"{size[1]}×{size[0]}"
        computed = f"{self.device} in {self.dtype} by {type(self._model).__name__}"
        return f"{self._model.name} on {computed}, size {shown} ({self.preprocessing.fit})"

    def map(
        self, images: Iterable[Source], batch_size: int = 8, *, max_pixels: int = MAX_PIXELS
    ) -> Iterator[Result]:
        """The results of many pictures, in their order; equal to one by one.

        Pictures that enter the model at the same size are computed together, ``batch_size`` at most. While
        the caller makes use of a batch the next is computed, and the one after that decoded and reduced.

        Args:
            images: pictures as `read_image` takes them.
            batch_size: most pictures in one batch; up to three batches are in memory.
            max_pixels: largest width × height that is decoded.

        Raises:
            InputError: ``batch_size`` below 1, one picture instead of several, or a picture that cannot be
                read; those before it come first.
        """
        # A string is several too, of letters, a file of lines, and an array (H, W, 3) of grey pictures.
        one = isinstance(images, (str, bytes, os.PathLike, Image.Image, Picture)) or hasattr(images, "read")
        shape = getattr(images, "shape", (0, 0, 0, 0))
        if one or len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)):
            raise InputError("images is one picture, expected several: put it in a list")
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, expected at least 1")
        return self._map(iter(images), batch_size, max_pixels)

    def _map(self, images: Iterator[Source], batch_size: int, max_pixels: int) -> Iterator[Result]:
        with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(1) as computing:
            read = functools.partial(readers.submit, functools.partial(self._read, max_pixels=max_pixels))
            predict = called_here(self._predict)

            # What came before an error, of a picture or of the caller's own iterator, is computed first.
            def begin() -> tuple[list[Future[Picture]], Exception | None]:
                begun: list[Future[Picture]] = []
                try:
                    for image in islice(images, batch_size):
                        begun.append(read(image))  # noqa: PERF401 - kept on an error
                except Exception as error:
                    return begun, error
                return begun, None

            ahead, failed = begin()
            results: Future[list[Result]] | None = None
            while ahead:
                pictures: list[Picture] = []
                try:
                    for future in ahead:
                        pictures.append(future.result())  # noqa: PERF401 - kept on an error
                    ahead, failed = ([], failed) if failed else begin()
                except Exception as error:
                    ahead, failed = [], error
                before, results = results, computing.submit(predict, pictures)
                if before is not None:
                    yield from before.result()
            if results is not None:
                yield from results.result()
            if failed is not None:
                raise failed

    def _read(self, image: Source, max_pixels: int) -> Picture:
        """A picture, reduced to the sizes at which the model sees it: of a large one that takes a while."""
        picture = read_image(image, max_pixels)
        for size in self._sizes(picture) if picture.pixels.dtype == np.uint8 else ():
            if size is not None and math.prod(size) < math.prod(picture.size):
                reduced(picture, size)
        return picture

    def _sizes(self, picture: Picture) -> tuple[Pair, Pair | None]:
        """The size at which a picture enters the model, and that of a closer look."""
        return (
            network_size(picture.size, self.preprocessing, self.size),
            second_size(picture.size, self.preprocessing, self.size),
        )

    def _predict(self, pictures: Sequence[Picture]) -> list[Result]:
        """The results of pictures that are in memory, each group of the same sizes in one batch."""
        groups: dict[tuple[Pair, Pair | None], list[int]] = {}
        for index, picture in enumerate(pictures):
            groups.setdefault(self._sizes(picture), []).append(index)
        results: dict[int, Result] = {}
        for (size, closer), indices in groups.items():
            group = [pictures[index] for index in indices]
            results.update(zip(indices, self._planned(group, size, closer), strict=True))
        return [results[index] for index in range(len(pictures))]

    def _planned(self, pictures: Sequence[Picture], size: Pair, closer: Pair | None) -> list[Result]:
        """The results of pictures that enter the model at one size, as many at once as fit in memory."""
        least, most = self.preprocessing.size_range
        if not least <= min(self._sides(size)) <= max(self._sides(size)) <= most:
            self._warn(
                f"{self._model.name} is known to work at {least} to {most} pixels a side, "
                f"not at {size[1]}×{size[0]}: leave size out, or choose another model"
            )
        height, width = closer or size
        fits = self._fits(height * width, len(pictures), pictures)
        results: list[Result] = []
        while len(results) < len(pictures):
            if fits.batch:
                some = pictures[len(results) : len(results) + fits.batch]
                results.extend(self._computed(some, size, closer))
            else:
                results.append(self._beyond(pictures[len(results)], (height, width), fits))
        return results

    def _fits(self, pixels: int, batch: int, pictures: Sequence[Picture]) -> Plan:
        """What fits when the turn comes: memory that another thread computes in is free again by then."""
        with self._turn:
            return plan(self._model, pixels, batch, self.memory, results_size(pictures))

    def _sides(self, size: Pair) -> tuple[float, float]:
        """The sides of a size as they compare with the range that the weights know."""
        # Where the sides follow the picture's aspect, the scale is what the weights know.
        scale = math.sqrt(size[0] * size[1])
        return size if self.preprocessing.fit == "stretch" else (scale, scale)

    def _largest_side(self, pixels: int) -> int:
        """Of the largest square of at most so many pixels in the range that the weights know; else 0."""
        least, most = self.preprocessing.size_range
        side = min(math.isqrt(max(0, pixels)), most) // self.preprocessing.multiple
        return side * self.preprocessing.multiple if side * self.preprocessing.multiple >= least else 0

    def _beyond(self, picture: Picture, size: Pair, fits: Plan) -> Result:
        """The result of a picture that does not fit in memory at ``size``.

        Raises:
            ModelError: it cannot be had.
        """
        side = self._largest_side(fits.pixels)
        remedy = f"size {side} fits" if side else "no size fits: choose a smaller model"
        raise ModelError(
            f"{self._model.name} takes about {shown(fits.needed or 0)} of memory at {size[1]}×{size[0]}, "
            f"{shown(fits.room)} may be taken; {remedy}, or allow more (memory=, --memory)"
        )

    @abstractmethod
    def _computed(self, pictures: Sequence[Picture], size: Pair, closer: Pair | None) -> list[Result]:
        """The results of pictures that enter the model at one size, and for a closer look at another."""

    def _batch(self, pictures: Sequence[Picture], size: Pair) -> npt.NDArray[Any]:
        """Pictures as one input ``(N, 3, h, w)``, or ``(N, h, w, 3)`` where the model normalises them."""
        if self._model.normalises and all(picture.pixels.dtype == np.uint8 for picture in pictures):
            return np.stack([reduced(picture, size) for picture in pictures])
        return np.stack([to_network(picture, size, self.preprocessing) for picture in pictures])

    def _warn(self, message: str) -> None:
        """Warn once, where decoupe was called, of a size at which the result may be poor."""
        if not self._warned:
            self._warned = True
            warn(message, SizeWarning)
