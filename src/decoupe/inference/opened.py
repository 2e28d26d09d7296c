"""What every open model shares: reading pictures, batches, and the plan of what fits in memory."""

from __future__ import annotations

import functools
import math
import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Literal, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from decoupe.errors import InputError, ModelError
from decoupe.inference.pictures import MAX_PIXELS, Picture, Source, read_image
from decoupe.inference.pipeline import STAGES, piped
from decoupe.inference.preprocess import Size, network_size, second_size, to_network
from decoupe.inference.turns import Turns
from decoupe.memory import Plan, left, parse_memory, plan, shown
from decoupe.notices import SizeWarning, warn
from decoupe.runtimes import OpenModel
from decoupe.weights.registry import ModelSpec, Preprocessing

Result = TypeVar("Result")

SLACK = 2
"""Bytes that are held for each byte of pictures: what is freed is not given back to the system at once."""

Pair = tuple[int, int]
"""``(height, width)`` in pixels."""


def in_memory(picture: Picture) -> int:
    """Bytes of a picture as it was read."""
    return picture.pixels.nbytes + (0 if picture.opacity is None else picture.opacity.nbytes)


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
        self._warned: set[str] = set()
        # Threads may share a model: they read and write at the same time, and compute in turns.
        self._turn = Turns()
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
        raise ModelError(
            "an open model is neither copied nor pickled: threads share it, each process calls decoupe.load"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.describe()})"

    def describe(self) -> str:
        """Model, runtime, device, precision and size, in one line."""
        size = self.preprocessing.size if self.size is None else self.size
        if not isinstance(size, (str, tuple)):
            size = size, size
        shown = size if isinstance(size, str) else f"{size[1]}×{size[0]}"
        computed = f"{self.device} in {self.dtype} by {self._model.engine}"
        return f"{self._model.name} on {computed}, size {shown} ({self.preprocessing.fit})"

    def map(
        self,
        images: Iterable[Source],
        batch_size: int = 8,
        *,
        max_pixels: int = MAX_PIXELS,
        on_error: Callable[[InputError], object] | None = None,
    ) -> Iterator[Result]:
        """The results of many pictures, in their order; equal to one by one.

        Pictures that enter the model at the same size are computed together, ``batch_size`` at most. While
        the caller makes use of a batch the next is computed, and the one after that decoded and reduced.
        A picture is taken as it is when it is asked for: its file may then be closed, its array filled anew.

        Args:
            images: pictures as `read_image` takes them.
            batch_size: most pictures in one batch; up to three batches are in memory, or as many pictures as
                a ``memory`` that was set leaves room for.
            max_pixels: largest width × height that is decoded.
            on_error: called, in the place of its result, with what is wrong with a picture that cannot be
                read or used; the pictures after it go on. None raises it.

        Raises:
            InputError: ``batch_size`` is no whole number or below 1, or one picture instead of several.
            DecoupeError: as a call with one picture does, after the results of those before it.
        """
        # A string is several too, of letters, a file of lines, and an array (H, W, 3) of grey pictures.
        one = isinstance(images, (str, bytes, os.PathLike, Image.Image, Picture)) or hasattr(images, "read")
        shape = getattr(images, "shape", (0, 0, 0, 0))
        if one or len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)):
            raise InputError("images is one picture, expected several: put it in a list")
        try:
            batch_size = operator.index(batch_size)
        except TypeError:
            raise InputError(f"batch_size is {batch_size!r}, expected a whole number: such as 8") from None
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, expected at least 1")
        try:
            several = iter(images)
        except TypeError:
            raise InputError(
                f"images is of type {type(images).__name__}, expected several pictures: such as a list"
            ) from None
        if on_error is not None and not callable(on_error):
            raise InputError(f"on_error is {on_error!r}, expected a function of the error: such as print")
        return self._map(several, batch_size, max_pixels, on_error)

    def _map(
        self,
        images: Iterator[Source],
        batch_size: int,
        max_pixels: int,
        on_error: Callable[[InputError], object] | None,
    ) -> Iterator[Result]:
        room = self._room()
        yield from piped(
            images,
            batch_size,
            max_pixels=max_pixels,
            read=functools.partial(self._read, max_pixels=max_pixels),
            compute=self._predicted,
            fit=None if room is None else functools.partial(self._fit, room),
            on_error=on_error,
        )

    def _room(self) -> int | None:
        """Bytes that a budget leaves to computing and to what `map` has in memory; None where none is set."""
        if self.memory is None or self.device.startswith("cuda"):  # pictures are not on the device
            return None
        with self._turn():
            self._model.footprint()  # measured before other threads ask for it
            return left(self.memory, self.device)

    def _fit(self, room: int, pictures: Sequence[Picture]) -> bool:
        """Whether a batch of such pictures leaves room for computing, and for those before and after it."""
        if not pictures:
            return True
        taken = [in_memory(picture) + 4 * math.prod(picture.size) for picture in pictures]
        seen = [math.prod(closer or size) for size, closer in map(self._sizes, pictures)]
        # The caller may keep the last matte of the batch before, and while one is enlarged there are two.
        together = STAGES * sum(taken) + 2 * max(taken)
        return SLACK * together + self._model.footprint().of(max(seen)) <= room

    def _read(self, image: Source, max_pixels: int) -> Picture:
        """A picture, reduced to the sizes at which the model sees it: of a large one that takes a while."""
        picture = read_image(image, max_pixels)
        for size in self._sizes(picture) if picture.pixels.dtype == np.uint8 else ():
            if size is not None and math.prod(size) < math.prod(picture.size):
                picture.reduced(size)
        return picture

    def _sizes(self, picture: Picture) -> tuple[Pair, Pair | None]:
        """The size at which a picture enters the model, and that of a closer look."""
        return (
            network_size(picture.size, self.preprocessing, self.size),
            second_size(picture.size, self.preprocessing, self.size),
        )

    def _predict(self, picture: Picture) -> Result:
        """The result of one picture that is in memory."""
        ((_, result),) = self._predicted([picture])
        return result

    def _predicted(self, pictures: Sequence[Picture]) -> Iterator[tuple[int, Result]]:
        """Each picture's place among them, and its result; those that enter at the same sizes together."""
        groups: dict[tuple[Pair, Pair | None], list[int]] = {}
        for place, picture in enumerate(pictures):
            groups.setdefault(self._sizes(picture), []).append(place)
        for (size, closer), places in groups.items():
            group = [pictures[place] for place in places]
            yield from zip(places, self._planned(group, size, closer), strict=True)

    def _planned(self, pictures: Sequence[Picture], size: Pair, closer: Pair | None) -> Iterator[Result]:
        """The results of pictures that enter the model at one size, as many at once as fit in memory."""
        least, most = self.preprocessing.size_range
        if not least <= min(self._sides(size)) <= max(self._sides(size)) <= most:
            self._warn(
                "range",
                f"{self._model.name} is known to work at {least} to {most} pixels a side, "
                f"not at {size[1]}×{size[0]}: leave size out, or choose another model",
            )
        height, width = closer or size
        fits = self._fits(height * width, pictures)
        if fits.batch:
            for start in range(0, len(pictures), fits.batch):
                yield from self._computed(pictures[start : start + fits.batch], size, closer)
        elif len(pictures) > 1:  # by itself each leaves more room
            for picture in pictures:
                yield from self._planned([picture], size, closer)
        else:
            yield self._beyond(pictures[0], (height, width), fits)

    def _fits(self, pixels: int, pictures: Sequence[Picture], beside: int = 0) -> Plan:
        """What fits when the turn comes: memory that another thread computes in is free again by then.

        Args:
            pixels: of each picture, as the model sees it.
            pictures: what is seen.
            beside: bytes that are taken beside the results.
        """
        with self._turn():
            return plan(self._model, pixels, len(pictures), self.memory, results_size(pictures) + beside)

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
        beside = "" if fits.held is None else f" beside the {shown(fits.held)} that the process holds"
        remedy = f"size {side} fits" if side else "no size fits: choose a smaller model"
        raise ModelError(
            f"{self._model.name} takes about {shown(fits.needed or 0)} of memory at {size[1]}×{size[0]}, "
            f"{shown(fits.room)} may be taken{beside}; {remedy}, or allow more (memory=, --memory)"
        )

    @abstractmethod
    def _computed(self, pictures: Sequence[Picture], size: Pair, closer: Pair | None) -> list[Result]:
        """The results of pictures that enter the model at one size, and for a closer look at another."""

    def _batch(self, pictures: Sequence[Picture], size: Pair) -> npt.NDArray[Any]:
        """Pictures as one input ``(N, 3, h, w)``, or ``(N, h, w, 3)`` where the model normalises them."""
        if self._model.normalises and all(picture.pixels.dtype == np.uint8 for picture in pictures):
            return np.stack([picture.reduced(size) for picture in pictures])
        return np.stack([to_network(picture, size, self.preprocessing) for picture in pictures])

    def _warn(self, reason: Literal["range", "tiles", "memory"], message: str) -> None:
        """Warn where decoupe was called, once for each reason for which a result may be poor."""
        if reason not in self._warned:
            self._warned.add(reason)
            warn(message, SizeWarning)
