"""Videos made through PyAV: a red square that moves over noisy green; a blue corner tells which way is up."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

TIME_BASE = Fraction(1, 15360)
RATE = 48_000
TURNS = {
    0: (65536, 0, 0, 65536),
    90: (0, 65536, -65536, 0),
    180: (-65536, 0, 0, -65536),
    270: (0, -65536, 65536, 0),
    "mirror": (-65536, 0, 0, 65536),
}
"""Display matrices (a, b, c, d) by the degrees that players turn frames clockwise."""


def uneven(count: int, seed: int = 0) -> list[int]:
    """Times of a variable frame rate of about 25 frames per second."""
    steps = np.random.default_rng(seed).integers(300, 930, count - 1)
    return [0, *np.cumsum(steps).tolist()]


def picture(number: int, width: int, height: int, noise: float = 3) -> np.ndarray:
    """The frame of this number, as stored."""
    rng = np.random.default_rng(number)
    image = np.full((height, width, 3), (70.0, 130.0, 120.0))
    x = 10 + 2 * number % (width // 2)
    image[height // 4 : height * 3 // 4, x : x + width // 4] = (225, 30, 30)
    image[:8, :12] = (30, 30, 225)
    return (image + rng.normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8)


def write_clip(
    path: Path,
    times: Sequence[int],
    *,
    size: tuple[int, int] = (96, 64),
    turn: int | str = 0,
    audio: str | None = "aac",
    layout: str = "mono",
    noise: float = 3,
    tags: Mapping[str, str] | None = None,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
) -> Path:
    """A video with frames at ``times`` (of `TIME_BASE`), ``size`` (width, height) as stored, and a tone."""
    width, height = size
    made = {"movie_timescale": str(TIME_BASE.denominator), **(options or {})}
    with av.open(str(path), "w", options=made) as out:
        out.metadata.update(tags or {})
        stream: Any = out.add_stream(codec, rate=25, options={"crf": "8"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = (
            width,
            height,
            stream.codec_context.codec.video_formats[0].name,
        )
        stream.codec_context.time_base = stream.time_base = TIME_BASE
        sound: Any = out.add_stream(audio, rate=RATE, layout=layout) if audio else None
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number, width, height, noise), format="rgb24")
            frame.pts, frame.time_base = time, TIME_BASE
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            length = int((times[-1] - times[0]) * TIME_BASE * RATE)
            tone = np.sin(np.arange(length) * 2 * np.pi * 440 / RATE) * 8000
            resampler = av.AudioResampler(sound.format.name, layout, RATE)
            for start in range(0, length, 1024):
                chunk = tone[np.newaxis, start : start + 1024].astype(np.int16)
                frame = av.AudioFrame.from_ndarray(chunk, format="s16", layout="mono")
                frame.rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
                for converted in resampler.resample(frame):
                    out.mux(sound.encode(converted))
            out.mux(sound.encode(None))
    if turn:
        a, b, c, d = TURNS[turn]
        data = bytearray(path.read_bytes())
        matrix = data.index(b"tkhd") + 44  # of the first track, the video's
        data[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path.write_bytes(data)
    return path


def frames_of(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    """Seconds, and RGBA ``(H, W, 4)``, of every frame; transparency of VP9 too."""
    with av.open(str(path)) as clip:
        stream = clip.streams.video[0]
        context: Any = stream.codec_context
        if {"alpha_mode", "ALPHA_MODE"} & set(stream.metadata):
            context = av.CodecContext.create("libvpx-vp9", "r")  # FFmpeg's own decoder sees no transparency
        assert stream.time_base is not None
        found = [
            frame
            for packet in clip.demux(stream)
            for frame in (context.decode(packet) if packet.size else context.decode(None))
        ]
        return [(frame.pts * stream.time_base, frame.to_ndarray(format="rgba")) for frame in found]


def sound_of(path: Path) -> np.ndarray:
    """The samples of the first audio track, as floats."""
    with av.open(str(path)) as clip:
        parts = [frame.to_ndarray()[0] for frame in clip.decode(audio=0)]
    return np.concatenate(parts)


def packets_of(path: Path) -> list[bytes]:
    """The compressed audio."""
    with av.open(str(path)) as clip:
        return [bytes(packet) for packet in clip.demux(audio=0) if packet.size]
