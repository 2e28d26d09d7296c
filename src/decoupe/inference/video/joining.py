"""One video of its pieces, with the source's sound and subtitles."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from decoupe.inference.video.encoding import TICK
from decoupe.inference.video.forms import Form
from decoupe.inference.video.reader import VideoReader, av, url_of
from decoupe.inference.video.tracks import Beside, Timed, Tracks
from decoupe.notices import VideoWarning, warn


def join_pieces(
    path: Path,
    form: Form,
    pieces: Iterable[tuple[Path, list[int]]],
    reader: VideoReader,
) -> Beside:
    """One file of encoded pieces, each frame at its time, and of the source's audio and subtitles.

    Nothing is encoded again but audio that the container cannot hold; such subtitles are left out.

    Args:
        path: the file.
        form: how it is written; not as PNG files.
        pieces: files of `write_piece`, in order, with the ticks of their frames.
        reader: the source.

    Returns:
        What became of audio and subtitles.
    """
    container, codec = form.container, form.codec
    assert container is not None
    assert codec is not None
    pieces = list(pieces)
    times = [time for _, some in pieces for time in some]
    end = times[-1] + reader.lasting(times[-1])
    options = {**container.options}
    if container.name in ("mov", "mp4"):
        # In which beginnings are told; milliseconds, the default, would move them.
        options["movie_timescale"] = str(reader.time_base.denominator)
    with av.open(url_of(pieces[0][0])) as first, av.open(url_of(path), "w", container.name, options) as out:
        stream: Any = out.add_stream_from_template(first.streams.video[0])
        stream.rate = reader.rate  # else Matroska tells that of the pieces
        stream.time_base = reader.time_base
        if reader.look.aspect != 1:  # which a .mov tells, and many codecs do not
            stream.codec_context.sample_aspect_ratio = reader.look.aspect
        # Without this mark players do not look for the transparency that VP9 keeps beside its frames.
        if "alpha_mode" in first.streams.video[0].metadata:
            stream.metadata["alpha_mode"] = "1"
        out.metadata.update(reader.tags)
        source = reader.beside()
        tracks = Tracks(source, out, container, reader, end) if source is not None else None
        out.start_encoding()
        packets = [
            _video_packets(pieces, [*times, end], codec.delay, stream, reader),
            tracks.packets() if tracks else iter(()),
        ]
        for _, _, packet in heapq.merge(*packets, key=lambda one: one[:2]):
            out.mux(packet)
        if source is not None:
            source.close()
    if tracks is None:
        return Beside()
    if tracks.damaged:
        warn(f"part of the sound of {reader.name} is damaged, and left out", VideoWarning)
    return tracks.done


def _video_packets(
    pieces: Iterable[tuple[Path, list[int]]], times: list[int], delay: int, stream: Any, reader: VideoReader
) -> Iterator[Timed]:
    """The pieces' packets at the ``times`` of their frames, after which stands when the last frame ends.

    They are decoded ``delay`` frames before they are shown; players take the steps for the frame rate.
    """
    step = max(1, reader.ticks(1 / reader.rate))
    decoded = iter([times[0] - step * ahead for ahead in range(delay, 0, -1)] + times)
    base = 0
    for path, some in pieces:
        with av.open(url_of(path)) as piece:
            for packet in piece.demux(video=0):
                if packet.size == 0 or packet.pts is None:
                    continue
                number = base + round(packet.pts * packet.time_base / TICK)
                packet.pts, packet.dts = times[number], next(decoded)
                packet.duration = times[number + 1] - times[number]
                packet.time_base = reader.time_base
                packet.stream = stream
                yield packet.dts * reader.time_base, 0, packet
        base += len(some)
