"""Some frames of a video, encoded by themselves."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np

from decoupe.arrays import Pixels
from decoupe.inference.png import encode_png
from decoupe.inference.video.forms import Form, size_in
from decoupe.inference.video.reader import EXACT, WHITE, Look, av, url_of

TICK = Fraction(1, 1000)
"""Seconds; of pieces, which count frames: the one time base that all containers keep."""

_NO_MATRIX = 0  # ITU-T H.273's of RGB; without it QuickTime files tell nothing of their colours


def write_piece(
    path: Path,
    form: Form,
    frames: Iterable[tuple[int, Pixels]],
    *,
    time_base: Fraction,
    rate: Fraction,
    look: Look,
) -> list[int]:
    """Encode some frames by themselves: as a file in which frame ``n`` is at n milliseconds, or as PNG files.

    Args:
        path: of the file, or the folder.
        form: how.
        frames: ticks, and RGB or RGBA ``(H, W, …)``; at least one.
        time_base: of the ticks, in seconds.
        rate: frames per second, on average.
        look: see `Look`.

    Returns:
        The ticks of the frames.
    """
    times: list[int] = []
    if form.container is None or form.codec is None:
        path.mkdir(exist_ok=True)
        for number, (time, pixels) in enumerate(frames):
            (path / f"{number:05d}.png").write_bytes(encode_png(pixels, colours=look.beyond_srgb))
            times.append(time)
        return times
    places: dict[int, int] = {}
    # 16 bits count the parts of a second in MPEG-4, and the time bases of many sources are finer.
    base = (1 / rate).limit_denominator(2**16 - 1) if form.codec.coarse else time_base
    with av.open(url_of(path), "w", format=form.container.name) as out:
        stream: Any = None
        order = itertools.count(-form.codec.delay)

        def mux(packets: Iterable[Any]) -> None:
            for packet in packets:
                packet.pts, packet.dts = places[packet.pts], next(order)
                packet.time_base = TICK
                packet.duration = 1
                out.mux(packet)

        for time, pixels in frames:
            pixels = _fitting(pixels, form)
            if stream is None:
                stream = _encoder(out, form, pixels, base, rate, look)
            pts = len(times) if form.codec.coarse else time
            places[pts] = len(times)
            times.append(time)
            mux(stream.encode(_frame(pixels, stream, pts, base, look)))
        mux(stream.encode(None))
    return times


def _fitting(pixels: Pixels, form: Form) -> Pixels:
    """Pixels with even sides where the codec needs them: the last row and column are repeated."""
    height, width = pixels.shape[:2]
    high, wide = size_in(form, (height, width))
    if (high, wide) == (height, width):
        return pixels
    even: Any = np.pad(pixels, ((0, high - height), (0, wide - width), (0, 0)), mode="edge")
    return cast("Pixels", even)


def _encoder(
    out: av.container.OutputContainer,
    form: Form,
    first: Pixels,
    time_base: Fraction,
    rate: Fraction,
    look: Look,
) -> Any:
    assert form.codec is not None
    settings = form.codec.settings(transparent=form.transparent)
    stream: Any = out.add_stream(form.codec.encoder, rate=rate, options=settings)
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = form.codec.pixel_format(transparent=form.transparent, deep=first.dtype == np.uint16)
    if form.word == "h265" and form.container is not None and form.container.name != "matroska":
        stream.codec_context.codec_tag = "hvc1"  # the mark that Apple's players look for
    stream.time_base = TICK
    context = stream.codec_context
    context.time_base = time_base
    context.sample_aspect_ratio = look.aspect
    context.color_primaries, context.color_trc = look.primaries, look.transfer
    context.colorspace = _NO_MATRIX if _is_rgb(stream.pix_fmt) else look.matrix
    if not _is_rgb(stream.pix_fmt):
        context.color_range = 1
    return stream


def _is_rgb(pixel_format: str) -> bool:
    return bool(av.VideoFormat(pixel_format).is_rgb)


def _frame(pixels: Pixels, stream: Any, time: int, time_base: Fraction, look: Look) -> av.VideoFrame:
    transparent, wide = pixels.shape[2] == 4, pixels.dtype == np.uint16
    named = ("rgba64le" if transparent else "rgb48le") if wide else ("rgba" if transparent else "rgb24")
    rgb = _is_rgb(stream.pix_fmt)
    shown = pixels
    if wide and not rgb:  # of which libswscale takes less for white
        shown = pixels.copy()
        shown[..., :3] = np.rint(pixels[..., :3] * np.float32(WHITE / 0xFFFF))
    frame = av.VideoFrame.from_ndarray(shown, format=named)
    matrix = None if rgb else look.matrix
    frame = frame.reformat(format=stream.pix_fmt, dst_colorspace=matrix, interpolation=EXACT)
    if transparent and not rgb:
        _set_alpha(frame, pixels[..., 3])
    # ProRes tells these in each frame, which does not have them from the stream.
    frame.color_primaries, frame.color_trc = look.primaries, look.transfer
    frame.pts, frame.time_base = time, time_base
    return frame


def _set_alpha(frame: av.VideoFrame, alpha: Pixels) -> None:
    """Give a frame this alpha ``(H, W)``, which libswscale rounds up."""
    plane: Any = frame.planes[3]
    bits = frame.format.components[3].bits
    share = ((1 << bits) - 1) / np.iinfo(alpha.dtype).max
    stored = np.frombuffer(plane, np.uint16 if bits > 8 else np.uint8).reshape(plane.height, -1)
    stored[:, : plane.width] = np.rint(alpha * share)
