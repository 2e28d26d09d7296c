"""Videos out: pieces of an encoded video, and one file of them, with the source's sound."""

from __future__ import annotations

import heapq
import itertools
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np

from decoupe.arrays import Pixels
from decoupe.errors import OutputError, unknown
from decoupe.inference.png import encode_png
from decoupe.inference.video_reader import FFmpegError, Look, VideoReader, av, sound_of, url_of
from decoupe.notices import VideoWarning

_LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")  # by how many channels: RFC 7845
_LONGEST_NAME = 255  # bytes, on the file systems in use
_NUMBER = "%(?:0[1-9][0-9]?)?d"  # in a pattern; with spaces before the digits, files would not be found again
_NAMES = {"language", "title", "handler_name"}  # of a track; other tags are of its data, such as its size
_NO_MATRIX = 0  # ITU-T H.273's of RGB; without it QuickTime files tell nothing of their colours
_TICK = Fraction(1, 1000)  # of pieces, which count frames: the one time base that all containers keep


@dataclass(frozen=True)
class Codec:
    """How frames are compressed.

    Attributes:
        encoder: libavcodec's name.
        alpha: its pixel format with transparency, None where it has none.
        flat: its pixel format without.
        options: its own, so that nothing is visibly lost and speed stays sensible.
        lossless: whether frames come back as they were.
        deep: its pixel formats with transparency and without for more than 8 bits; None where it has none.
        coarse: whether it numbers its frames, and has no room for the ticks of many sources.
        delay: most frames by which it writes one before those shown earlier.
        with_alpha: further options where frames have transparency.
    """

    encoder: str
    alpha: str | None
    flat: str
    options: Mapping[str, str] = field(default_factory=dict)
    lossless: bool = False
    deep: tuple[str | None, str] | None = None
    coarse: bool = False
    delay: int = 0
    with_alpha: Mapping[str, str] = field(default_factory=dict)

    def settings(self, *, transparent: bool) -> dict[str, str]:
        """The encoder's options for frames with transparency or without."""
        return {**self.options, **(self.with_alpha if transparent else {})}

    def pixel_format(self, *, transparent: bool, deep: bool) -> str:
        """The pixel format of frames with transparency or without, of more than 8 bits or not."""
        alpha, flat = self.deep if deep and self.deep is not None else (self.alpha, self.flat)
        chosen = alpha if transparent else flat
        assert chosen is not None  # `form_of` refuses transparency where there is none
        return chosen


CODECS = {
    "prores": Codec(
        "prores_ks",
        "yuva444p10le",
        "yuv444p10le",
        {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"},
        deep=("yuva444p10le", "yuv444p10le"),
        # The finest quantiser, in FFmpeg's units: where alpha takes bits, the search for one that keeps to a
        # rate ends there in any case, after five times as long.
        with_alpha={"flags": "+qscale", "global_quality": "118"},
    ),
    "qtrle": Codec("qtrle", "argb", "rgb24", lossless=True),
    "vp9": Codec(
        "libvpx-vp9",
        "yuva420p",
        "yuv420p",
        # Frames that are only looked back to cannot be had with transparency.
        {"crf": "18", "b": "0", "auto-alt-ref": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
    ),
    "ffv1": Codec("ffv1", "bgra", "bgr0", {"level": "3"}, lossless=True, deep=("gbrap16le", "gbrp16le")),
    "h264": Codec("libx264", None, "yuv420p", {"crf": "16", "preset": "medium"}, delay=2),
    "h265": Codec(
        "libx265",
        None,
        "yuv420p",
        {"crf": "18", "preset": "medium", "x265-params": "log-level=error"},
        deep=(None, "yuv420p10le"),
        delay=2,
    ),
    "mpeg4": Codec("mpeg4", None, "yuv420p", {"q": "2"}, coarse=True),
}
"""Codecs by the names that users give them."""


@dataclass(frozen=True)
class Container:
    """A kind of file.

    Attributes:
        name: libavformat's.
        codecs: those of `CODECS` that it holds, the preferred first.
        audio: what audio becomes that it cannot hold as it is.
        options: of the muxer.
    """

    name: str
    codecs: tuple[str, ...]
    audio: str
    options: Mapping[str, str] = field(default_factory=dict)


CONTAINERS = {
    ".mov": Container("mov", ("prores", "qtrle", "h264", "h265", "mpeg4"), "aac"),
    # Without bitexact, Matroska files are numbered at random.
    ".webm": Container("webm", ("vp9",), "libopus", {"fflags": "+bitexact"}),
    ".mkv": Container(
        "matroska",
        ("ffv1", "h264", "h265", "vp9", "mpeg4"),
        "aac",
        {"avoid_negative_ts": "disabled", "fflags": "+bitexact"},
    ),
    ".mp4": Container("mp4", ("h264", "h265", "mpeg4"), "aac", {"movflags": "+faststart"}),
}
"""Containers by file ending."""

_LARGE = ("prores", "qtrle", "ffv1")  # not what is wanted unasked where nothing is transparent


@dataclass(frozen=True)
class Form:
    """How a video is written: as a file, or as one PNG file for each frame.

    Attributes:
        container: the kind of file; None is a PNG sequence.
        codec: how frames are compressed; None is PNG.
        word: the codec's name among `CODECS`, or ``"png"``.
        transparent: whether frames are RGBA.
    """

    container: Container | None
    codec: Codec | None
    word: str
    transparent: bool

    @property
    def lossless(self) -> bool:
        """Whether frames come back as they were."""
        return self.codec is None or self.codec.lossless

    @property
    def deep(self) -> bool:
        """Whether more than 8 bits are kept."""
        return self.codec is None or self.codec.deep is not None


def form_of(target: str | os.PathLike[str], codec: str | None, *, transparent: bool) -> Form:
    """How ``target`` is written: a video by its ending; a folder or a pattern such as ``f%05d.png`` as PNG.

    Args:
        target: the output; what exists as a folder is one, and so is what ends in a slash.
        codec: one of `CODECS`; None is what suits.
        transparent: whether there is transparency to be kept.

    Raises:
        OutputError: an ending, or a codec, that is not written or that does not suit; no name.
    """
    folder = os.fspath(target).endswith(("/", os.sep))
    target = Path(target)
    suffix = target.suffix.lower()
    if target.name in ("", ".."):  # as "." has: what is unfinished is called after it, and lies beside it
        raise OutputError(f"{target} has no name of its own: name a folder for the PNG files")
    if folder or not suffix or target.is_dir() or _is_pattern(target):
        if codec is not None:
            raise OutputError(f"{target} is a sequence of PNG files: leave the codec out")
        if len(os.fsencode(sequence_path(target, 1).name)) > _LONGEST_NAME:
            raise OutputError(f"{target} makes names that are too long: name a shorter pattern")
        return Form(None, None, "png", transparent)
    if suffix == ".png":
        raise OutputError(
            f"{target} is one picture: name a pattern with %d or %05d, such as frame%05d.png, or a folder"
        )
    if suffix not in CONTAINERS:
        raise OutputError(unknown("kind of video", suffix, CONTAINERS))
    if codec is not None and codec not in CODECS:
        raise OutputError(unknown("codec", codec, CODECS))
    container = CONTAINERS[suffix]
    if codec is not None and codec not in container.codecs:
        raise OutputError(f"{suffix} cannot hold {codec}: it can hold {', '.join(container.codecs)}")
    names = [name for name in container.codecs if CODECS[name].alpha is not None or not transparent]
    if not names or codec not in (None, *names):
        raise OutputError(
            f"{codec or suffix} has no transparency: name a .mov or .webm file, or put the subject over a "
            "background (over, --over)"
        )
    if not transparent:
        names.sort(key=lambda name: name in _LARGE)  # stable: the preferred stay first
    for name in [codec] if codec is not None else names:
        if CODECS[name].encoder in av.codecs_available:
            return Form(container, CODECS[name], name, transparent)
    raise OutputError(f"the installed PyAV cannot encode {codec or suffix}: pip install --upgrade av")


def _is_pattern(target: Path) -> bool:
    return re.fullmatch(rf"[^%]*{_NUMBER}[^%]*\.(?i:png)", target.name) is not None


def sequence_path(target: Path, number: int) -> Path:
    """Where the frame of this number, from 1, of a PNG sequence goes."""
    folder, name = _sequence(target)
    return folder / (name % number)


def sequence_files(target: Path) -> list[Path]:
    """The files there are that frames of a PNG sequence would be called, by their numbers."""
    folder, name = _sequence(target)
    if not folder.is_dir():
        return []
    numbers = re.compile(r"(\d+)".join(map(re.escape, re.split(_NUMBER, name))))
    matches = (numbers.fullmatch(path.name) for path in folder.iterdir())
    found = sorted(int(match[1]) for match in matches if match and name % int(match[1]) == match[0])
    return [sequence_path(target, number) for number in found]


def _sequence(target: Path) -> tuple[Path, str]:
    """The folder of a PNG sequence, and the pattern of its names."""
    return (target.parent, target.name) if _is_pattern(target) else (target, "%05d.png")


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
                packet.time_base = _TICK
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


def size_in(form: Form, size: tuple[int, int]) -> tuple[int, int]:
    """``(height, width)`` of frames of ``size`` as they are written: even where the codec needs it."""
    height, width = size
    if form.codec is None or form.transparent or "420" not in form.codec.flat:
        return height, width
    return height + height % 2, width + width % 2


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
    stream.time_base = _TICK
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
    frame = av.VideoFrame.from_ndarray(pixels, format=named)
    matrix = None if _is_rgb(stream.pix_fmt) else look.matrix
    frame = frame.reformat(format=stream.pix_fmt, dst_colorspace=matrix)
    # ProRes tells these in each frame, which does not have them from the stream.
    frame.color_primaries, frame.color_trc = look.primaries, look.transfer
    frame.pts, frame.time_base = time, time_base
    return frame


@dataclass(frozen=True)
class Beside:
    """What became of what a source has beside its pictures.

    Attributes:
        audio: ``"kept"``, ``"encoded again"`` or ``"none"``.
        subtitles: ``"kept"``, ``"some left out"``, ``"left out"`` or ``"none"``.
    """

    audio: str = "none"
    subtitles: str = "none"


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
        # Without this mark players do not look for the transparency that VP9 keeps beside its frames.
        if "alpha_mode" in first.streams.video[0].metadata:
            stream.metadata["alpha_mode"] = "1"
        out.metadata.update(reader.tags)
        source = reader.beside()
        tracks = _Tracks(source, out, container, reader, end) if source is not None else None
        out.start_encoding()
        packets = [
            _video_packets(pieces, [*times, end], codec.delay, stream, reader),
            tracks.packets() if tracks else iter(()),
        ]
        for _, _, packet in heapq.merge(*packets, key=lambda one: one[:2]):
            out.mux(packet)
        if source is not None:
            source.close()
    return Beside() if tracks is None else tracks.done


Timed = tuple[Fraction, int, Any]
"""Seconds at which a packet is wanted, its track's number, and the packet."""


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
                number = base + round(packet.pts * packet.time_base / _TICK)
                packet.pts, packet.dts = times[number], next(decoded)
                packet.duration = times[number + 1] - times[number]
                packet.time_base = reader.time_base
                packet.stream = stream
                yield packet.dts * reader.time_base, 0, packet
        base += len(some)


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


class _Tracks:
    """The audio and subtitles of a source, as they are where the container takes them.

    Other audio is encoded again, other subtitles are left out.
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
        self._name = reader.name
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
        damaged = False
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
                frames, damaged = [], True
            wanted = [frame for frame in frames if self._wanted(frame.pts, frame.time_base)]
            for frame in wanted:
                frame.pts -= round(self._start / frame.time_base)
            if packet.size == 0:
                wanted.append(None)
            for resampled in (one for frame in wanted for one in resamplers[index](frame)):
                yield from self._timed(self._encoded[index].encode(resampled))
            if packet.size == 0:
                yield from self._timed(self._encoded[index].encode(None))
        if damaged:
            line = f"part of the sound of {self._name} is damaged, and left out"
            warnings.warn(line, VideoWarning, stacklevel=2)

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
