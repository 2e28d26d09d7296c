"""The sound and the subtitles of a source, as another container takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import Any

from decoupe.inference.video.forms import Container
from decoupe.inference.video.reader import FFmpegError, VideoReader, av, sound_of

Timed = tuple[Fraction, int, Any]
"""Seconds at which a packet is wanted, its track's number, and the packet."""

_LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")  # by how many channels: RFC 7845
_NAMES = {"language", "title", "handler_name"}  # of a track; other tags are of its data, such as its size


@dataclass(frozen=True)
class Beside:
    """What became of what a source has beside its pictures.

    Attributes:
        audio: ``"kept"``, ``"encoded again"`` or ``"none"``.
        subtitles: ``"kept"``, ``"some left out"``, ``"left out"`` or ``"none"``.
    """

    audio: str = "none"
    subtitles: str = "none"


class Tracks:
    """The audio and subtitles of a source, as they are where the container takes them.

    Other audio is encoded again, other subtitles are left out.

    Attributes:
        done: what became of them.
        damaged: whether some sound could not be read, and was left out, of the packets so far.
    """

    def __init__(
        self,
        source: av.container.InputContainer,
        out: av.container.OutputContainer,
        container: Container,
        reader: VideoReader,
        end: int,
    ) -> None:
        self._source = source
        self.damaged = False
        self._start = reader.origin * reader.time_base
        # Sound that goes on when the pictures have ended stays, but where an end was asked for.
        self._end = self._start + end * reader.time_base if reader.ends else None
        self._copied: dict[int, Any] = {}  # output streams by the source's index
        self._encoded: dict[int, Any] = {}
        for track in sound_of(source):
            if _holds(container, track):
                self._copied[track.index] = out.add_stream_from_template(track)
            else:
                rate = 48_000 if container.audio == "libopus" else track.rate  # the one that Opus has
                layout = _layout(track, container.audio)
                stream = out.add_stream(container.audio, rate=rate, layout=layout)
                self._encoded[track.index] = stream
        audio = "encoded again" if self._encoded else "kept" if self._copied else "none"
        subtitles = source.streams.subtitles
        held = [one for one in subtitles if one.codec_context is not None and _holds(container, one)]
        self._copied |= {one.index: out.add_stream_from_template(one) for one in held}
        for index, stream in (self._copied | self._encoded).items():
            _name(stream, source.streams[index], container)
        self.done = Beside(audio, _kept(len(held), len(subtitles)))

    def packets(self) -> Iterator[Timed]:
        """The packets of all tracks, in the source's order."""
        resamplers = {index: _Resampler(stream) for index, stream in self._encoded.items()}
        written = [self._source.streams[index] for index in (*self._copied, *self._encoded)]
        for packet in self._source.demux(written) if written else ():
            index = packet.stream.index
            if index in self._copied:
                yield from self._moved(packet, self._copied[index])
                continue
            # The empty packet at the end flushes the decoder, as None does the resampler and the encoder.
            try:
                frames: list[Any] = packet.decode()
            except FFmpegError:  # as players do: what cannot be heard is silent
                frames, self.damaged = [], True
            wanted = [frame for frame in frames if self._wanted(frame.pts, frame.time_base)]
            for frame in wanted:
                frame.pts -= round(self._start / frame.time_base)
            if packet.size == 0:
                wanted.append(None)
            for resampled in (one for frame in wanted for one in resamplers[index](frame)):
                yield from self._timed(self._encoded[index].encode(resampled))
            if packet.size == 0:
                yield from self._timed(self._encoded[index].encode(None))

    def _moved(self, packet: Any, stream: Any) -> Iterator[Timed]:
        if stream.type == "subtitle":
            self._trim(packet)
        if packet.size == 0 or not self._wanted(packet.pts, packet.time_base):
            return
        shift = round(self._start / packet.time_base)
        packet.pts -= shift
        packet.dts = packet.pts if packet.dts is None else packet.dts - shift
        packet.stream = stream
        yield packet.dts * packet.time_base, 1, packet

    def _trim(self, packet: Any) -> None:
        """Have a subtitle that is on the screen at the start begin there, and one at the end end there."""
        if packet.pts is None or not packet.duration:  # those that are pictures are ended by the next
            return
        late = round(self._start / packet.time_base) - packet.pts if self._start else 0
        if 0 < late < packet.duration:
            packet.pts += late
            packet.dts = packet.pts
            packet.duration -= late
        if self._end is not None:
            packet.duration = min(packet.duration, round(self._end / packet.time_base) - packet.pts)

    def _wanted(self, pts: int | None, time_base: Fraction) -> bool:
        if pts is None:
            return False
        after_start = not self._start or self._start <= pts * time_base
        return after_start and (self._end is None or pts * time_base < self._end)

    def _timed(self, packets: Iterable[Any]) -> Iterator[Timed]:
        for packet in packets:
            yield packet.dts * packet.time_base, 1, packet


class _Resampler:
    """Frames of sound as an encoder wants them; broadcasts change theirs on the way."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._resampler: av.AudioResampler | None = None
        self._form: tuple[str, str, int] | None = None
        self._next: int | None = None

    def __call__(self, frame: Any) -> Iterator[Any]:
        """What there is of it so far, each after the one before; None is the end."""
        for done in self._resampled(frame):
            # Two recordings that were put end to end may share some milliseconds.
            done.pts = done.pts if self._next is None else max(done.pts, self._next)
            self._next = done.pts + done.samples
            yield done

    def _resampled(self, frame: Any) -> list[Any]:
        rest: list[Any] = []
        form = None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._form and self._resampler is not None:
            rest = self._resampler.resample(None)
        if frame is None:
            return rest
        if form != self._form:
            stream, self._form = self._stream, form
            self._resampler = av.AudioResampler(
                stream.format.name, stream.layout.name, stream.rate, stream.codec_context.frame_size
            )
        assert self._resampler is not None
        return [*rest, *self._resampler.resample(frame)]


def _holds(container: Container, track: Any) -> bool:
    """Whether a container takes a track as it is.

    Its beginning is written to find out: libavformat's list of the codecs of a .mov has Opus and FLAC,
    which it then refuses. Samples in a .mp4 it refuses at the end, where it is not known whose they are.
    """
    if container.name == "mp4" and track.codec_context.name.startswith("pcm_") and not _placed(track):
        return False
    try:
        with av.open(BytesIO(), "w", container.name) as trial:
            trial.add_stream_from_template(track)
            trial.start_encoding()
    except (FFmpegError, ValueError):
        return False
    return True


def _placed(track: av.AudioStream) -> bool:
    """Whether it is known which loudspeakers a track's channels are for; a .avi does not tell."""
    return any(channel.name != "NONE" for channel in track.layout.channels)


def _layout(track: av.AudioStream, encoder: str) -> str:
    """The loudspeakers that a track is encoded for; Opus has one arrangement for each number of them."""
    count = track.layout.nb_channels
    known = encoder != "libopus" and _placed(track)
    return track.layout.name if known or count > len(_LAYOUTS) else _LAYOUTS[count - 1]


def _name(stream: Any, source: Any, container: Container) -> None:
    """Call a track as in the source, and have it chosen as there."""
    names = {name: source.metadata[name] for name in _NAMES & source.metadata.keys()}
    if container.name in ("mov", "mp4") and "title" in names:  # which have one name of a track
        names.setdefault("handler_name", names["title"])
    stream.metadata.update(names)
    stream.disposition = source.disposition.value


def _kept(kept: int, count: int) -> str:
    if count == 0:
        return "none"
    return "kept" if kept == count else "some left out" if kept else "left out"
