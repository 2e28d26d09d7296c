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
_STYLE = {"Name": "Default", "Fontname": "Arial", "Fontsize": "16", "PrimaryColour": "&Hffffff"}
_SUBTITLE_HEADER = "\n".join(
    [
        "[Script Info]",
        "ScriptType: v4.00+",
        "[V4+ Styles]",
        f"Format: {', '.join(_STYLE)}",
        f"Style: {','.join(_STYLE.values())}",
        "[Events]",
        "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n",
    ]
).encode()


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


def add_subtitles(clip: Path, path: Path, lines: Mapping[tuple[float, float], str]) -> Path:
    """A video with lines of French text besides, each from some second to another."""
    text = path.suffix in (".mp4", ".mov")
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(clip)) as source, av.open(str(path), "w", options=options) as out:
        tracks = {track.index: out.add_stream_from_template(track) for track in source.streams}
        words: Any = out.add_stream("mov_text" if text else "srt")
        words.codec_context.subtitle_header = _SUBTITLE_HEADER
        words.metadata["language"] = "fra"
        for packet in source.demux():
            if packet.size:
                packet.stream = tracks[packet.stream.index]
                out.mux(packet)
        for (start, end), line in lines.items():
            data = line.encode()
            packet = av.Packet(len(data).to_bytes(2, "big") + data if text else data)
            packet.stream, packet.time_base = words, Fraction(1, 1000)
            packet.pts = packet.dts = round(start * 1000)
            packet.duration = round((end - start) * 1000)
            out.mux(packet)
    return path


def subtitles_of(path: Path) -> dict[tuple[float, float], str]:
    """The lines of the first track of text, by the seconds from which and to which they are shown."""
    with av.open(str(path)) as clip:
        (words,) = clip.streams.subtitles
        assert words.metadata["language"] == "fra"
        shown = [packet for packet in clip.demux(words) if packet.size]
    found = {}
    for packet in shown:
        times = packet.pts * packet.time_base, (packet.pts + packet.duration) * packet.time_base
        text = bytes(packet)[2:] if path.suffix in (".mp4", ".mov") else bytes(packet)
        if text:  # between lines there is none
            found[tuple(round(float(time), 3) for time in times)] = text.decode()
    return found


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


def sound_begins(path: Path) -> float:
    """Seconds at which the first audio track is first heard."""
    with av.open(str(path)) as clip:
        first = next(clip.decode(audio=0))
        return float(first.pts * first.time_base)


def packets_of(path: Path) -> list[bytes]:
    """The compressed audio."""
    with av.open(str(path)) as clip:
        return [bytes(packet) for packet in clip.demux(audio=0) if packet.size]
