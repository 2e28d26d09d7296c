"""What is written of each frame's matte: a cut-out, the subject over something, or the matte itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from decoupe.arrays import Pixels
from decoupe.inference.backgrounds import Background
from decoupe.inference.compositing import in_bits
from decoupe.inference.edits import Edits
from decoupe.inference.media import READABLE
from decoupe.inference.results import Matte
from decoupe.inference.video.forms import Form
from decoupe.inference.video.reader import VideoReader


class Composer:
    """The picture that is written of each matte, ``(H, W, 3)`` or ``(H, W, 4)``."""

    def __init__(
        self,
        over: Background | None,
        matte: bool,
        edits: Edits,
        form: Form,
        size: tuple[int, int],
        max_pixels: int,
    ) -> None:
        self._matte = matte
        self._edits = edits
        self._form = form
        self._over = over
        self._video: BackgroundVideo | None = None
        if isinstance(over, (str, os.PathLike)) and is_video(Path(over)):
            self._video = BackgroundVideo(os.fspath(over), max_pixels)
        elif over is not None and not (isinstance(over, str) and over == "blur"):
            # Fitted once, and one that cannot be used is told before the first frame is predicted.
            nothing = Matte(np.zeros(size, np.float32), np.zeros((*size, 3), np.uint8))
            self._over = np.asarray(nothing.over(over))

    def __call__(self, seconds: Fraction, matte: Matte) -> Pixels:
        """The frame at this time."""
        if self._edits != Edits():
            matte = matte.edited(**asdict(self._edits))
        if self._matte:
            return _mask(matte)
        if self._video is not None:
            return matte.array(over=self._video.at(seconds))
        if self._over is not None:
            return matte.array(over=self._over)
        cutout = matte.array()
        return cutout if self._form.lossless else surrounded(cutout)


def _mask(matte: Matte) -> Pixels:
    """The matte as grey RGB ``(H, W, 3)``, with as many bits as its picture."""
    dtype = matte.image.dtype
    grey = np.rint(matte.alpha * np.iinfo(dtype).max).astype(dtype)
    return np.repeat(grey[..., np.newaxis], 3, axis=2)


def is_video(path: Path) -> bool:
    """Whether a background is a video: a file, and not of a picture's ending."""
    return path.is_file() and path.suffix.lower() not in READABLE


class BackgroundVideo:
    """A video behind the subject: its frame at each time, from the beginning again when it ends."""

    def __init__(self, name: str, max_pixels: int) -> None:
        self._frames = _forever(name, max_pixels)
        self._shown = next(self._frames)[1]
        self._next = next(self._frames)

    def at(self, seconds: Fraction) -> Pixels:
        """The frame that is shown then; times come in their order."""
        while self._next[0] <= seconds:
            self._shown, self._next = self._next[1], next(self._frames)
        return self._shown


def _forever(name: str, max_pixels: int) -> Iterator[tuple[Fraction, Pixels]]:
    """The frames of a video with their seconds, again and again."""
    offset, length = Fraction(0), None
    while True:
        # Once it is known how long it lasts, it is no surprise that it is no longer.
        reader = VideoReader(name, end=length, max_pixels=max_pixels)
        time = 0
        for time, pixels in reader.frames():
            yield offset + time * reader.time_base, pixels
        length = (time + reader.lasting(time)) * reader.time_base
        offset += length
        reader.close()


def surrounded(bare: Pixels) -> Pixels:
    """A cut-out ``(H, W, 4)`` whose hidden pixels have the colours of the subject near them, not black.

    Codecs that lose something mix the colours of neighbours, and black would darken the edge.
    """
    cutout = Image.fromarray(in_bits(bare, np.uint8))
    small = cutout.convert("RGBa").reduce(4)
    near = Image.new("RGB", small.size)
    for radius in (8, 2):
        blurred = small.filter(ImageFilter.GaussianBlur(radius))
        # Where little of the subject reaches, 8 bits no longer tell its colour.
        enough = blurred.getchannel("a").point(lambda alpha: 255 * (alpha >= 32))
        near.paste(blurred.convert("RGBA").convert("RGB"), mask=enough)
    around = np.asarray(near.resize(cutout.size, Image.Resampling.BILINEAR))
    colours, hidden = bare.copy(), bare[..., 3] == 0
    for channel in range(3):
        values = in_bits(around[..., channel], bare.dtype)
        np.copyto(colours[..., channel], values, where=hidden)
    return colours
