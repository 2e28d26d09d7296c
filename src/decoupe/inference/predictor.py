"""From pictures to mattes: one model, opened once, applied to one picture or to many."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from decoupe.errors import InputError
from decoupe.inference.preprocess import (
    MAX_PIXELS,
    Picture,
    Size,
    Source,
    from_network,
    network_size,
    read_image,
    to_network,
)
from decoupe.inference.results import Matte
from decoupe.runtimes import Runtime, find_spec, open_runtime
from decoupe.weights.registry import ModelSpec, Preprocessing


class SizeWarning(UserWarning):
    """A prediction at a size at which the weights are not known to work."""


class Predictor:
    """A model that cuts out subjects: ``predictor("photo.jpg")`` gives a `Matte`.

    `load` makes one by name. A picture's result depends on nothing but the picture: not on its batch
    neighbours and not on what was predicted before.

    Args:
        runtime: what computes.
        size: network size instead of the model's own: one side for both, ``(height, width)``, or
            ``"native"``.
        spec: the catalogue's row of the model, where it has one.

    Attributes:
        runtime: what computes.
        size: as given; None is the model's own.
        spec: as given.

    Raises:
        InputError: a ``size`` that this model cannot take.
    """

    def __init__(self, runtime: Runtime, *, size: Size | None = None, spec: ModelSpec | None = None) -> None:
        self.runtime = runtime
        self.size: Size | None = size
        self.spec = spec
        self._warned = False
        network_size((1024, 1024), self.preprocessing, size)

    @property
    def preprocessing(self) -> Preprocessing:
        """How a picture becomes the model's input."""
        return self.runtime.preprocessing

    @property
    def device(self) -> str:
        """Where the model computes."""
        return self.runtime.device

    @property
    def dtype(self) -> str:
        """The precision that the model computes in."""
        return self.runtime.dtype

    def __repr__(self) -> str:
        return f"Predictor({self.describe()})"

    def describe(self) -> str:
        """Model, runtime, device, precision and size, in one line."""
        size = self.preprocessing.size if self.size is None else self.size
        if isinstance(size, int):
            size = size, size
        shown = size if isinstance(size, str) else f"{size[1]}×{size[0]}"
        computed = f"{self.device} in {self.dtype} by {type(self.runtime).__name__}"
        return f"{self.runtime.name} on {computed}, size {shown} ({self.preprocessing.fit})"

    def __call__(self, image: Source, *, max_pixels: int = MAX_PIXELS) -> Matte:
        """Cut out the subject of one picture.

        Args:
            image: a path, the bytes of a file, a binary file, a Pillow image or an array; see `read_image`.
            max_pixels: largest width × height that is decoded.

        Raises:
            InputError: a picture that cannot be read.
        """
        return self._predict([read_image(image, max_pixels)])[0]

    def map(
        self, images: Iterable[Source], batch_size: int = 8, *, max_pixels: int = MAX_PIXELS
    ) -> Iterator[Matte]:
        """Cut out the subjects of many pictures, in their order; equal to one by one.

        Pictures are read when they are needed, ``batch_size`` of them at a time, and those that enter the
        model at the same size are computed together.

        Args:
            images: pictures as `read_image` takes them.
            batch_size: most pictures in memory, and in one batch.
            max_pixels: largest width × height that is decoded.

        Raises:
            InputError: ``batch_size`` below 1, or a picture that cannot be read; those before it come first.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, expected at least 1")
        return self._map(iter(images), batch_size, max_pixels)

    def _map(self, images: Iterator[Source], batch_size: int, max_pixels: int) -> Iterator[Matte]:
        for first in images:
            pictures: list[Picture] = []
            try:
                for image in chain([first], islice(images, batch_size - 1)):
                    pictures.append(read_image(image, max_pixels))  # noqa: PERF401 - kept on an error
            except InputError:
                yield from self._predict(pictures)
                raise
            yield from self._predict(pictures)

    def _predict(self, pictures: list[Picture]) -> list[Matte]:
        """The mattes of pictures that are in memory, each group of one network size in one batch."""
        groups: dict[tuple[int, int], list[int]] = {}
        for index, picture in enumerate(pictures):
            size = network_size(picture.size, self.preprocessing, self.size)
            self._check_range(size)
            groups.setdefault(size, []).append(index)
        alphas: dict[int, npt.NDArray[np.float32]] = {}
        for size, indices in groups.items():
            batch = np.stack(
                [to_network(pictures[index], size, self.preprocessing) for index in indices]
            )  # (N, 3, h, w)
            alphas.update(zip(indices, self.runtime(batch)[:, 0], strict=True))
        return [_as_matte(alphas[index], picture) for index, picture in enumerate(pictures)]

    def _check_range(self, size: tuple[int, int]) -> None:
        least, most = self.preprocessing.size_range
        # Under fit "keep" the sides follow the picture's aspect; the scale is what the weights know.
        scale = (size[0] * size[1]) ** 0.5
        sides = size if self.preprocessing.fit == "stretch" else (scale, scale)
        if self._warned or (min(sides) >= least and max(sides) <= most):
            return
        self._warned = True
        warnings.warn(
            f"{self.runtime.name} is known to work at {least} to {most} pixels a side, "
            f"not at {size[1]}×{size[0]}: leave size out, or choose another model",
            SizeWarning,
            stacklevel=4,
        )


def load(
    model: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    size: Size | None = None,
    runtime: str | None = None,
) -> Predictor:
    """Open a model for cutting out subjects; what was chosen is in ``repr(predictor)``.

    Args:
        model: a path (``.onnx``, ``.safetensors``, ``.pth``), a name of `catalogue`, a hub id
            ``owner/name``, or None for the embedded default, which needs no download and no PyTorch.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; None or ``"auto"`` takes the fastest there is.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``; None or ``"auto"`` chooses by device.
        size: network size instead of the model's own: one side for both, ``(height, width)``, or
            ``"native"``.
        runtime: ``"onnx"`` or ``"torch"``; None or ``"auto"`` follows from the model.

    Raises:
        UnknownModelError: no such name or file; the message suggests the nearest.
        InputError: a size or runtime that this model cannot take.
        DeviceError: a device or precision that this machine does not have.
        MissingExtraError: the model needs PyTorch, which is not installed.
        ModelError: the weights cannot be had or read.
    """
    opened = open_runtime(model, device=device, dtype=dtype, runtime=runtime)
    return Predictor(opened, size=size, spec=find_spec(model))


_cached_load = functools.lru_cache(maxsize=2)(load)


def cut(
    image: Source,
    model: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    size: Size | None = None,
    runtime: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Matte:
    """Cut out the subject of one picture: ``decoupe.cut("photo.jpg").save("photo.png")``.

    The two models used last stay open. The options are those of `load` and of `Predictor`.

    Raises:
        DecoupeError: as `load` and `Predictor` do.
    """
    predictor = _cached_load(model, device=device, dtype=dtype, size=size, runtime=runtime)
    return predictor(image, max_pixels=max_pixels)


def _as_matte(alpha: npt.NDArray[np.float32], picture: Picture) -> Matte:
    return Matte(from_network(alpha, picture), picture.pixels, picture.icc_profile, picture.source)
