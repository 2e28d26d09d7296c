"""Video files: frames in, upright and at their times; pieces of an encoded video out, and one file of them.

Times are whole numbers of the source's time base throughout, so that none is rounded on its way.
"""

from __future__ import annotations

import heapq
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from decoupe.errors import InputError, MissingExtraError, OutputError, unknown
from decoupe.inference.media import encode
from decoupe.inference.preprocess import MAX_PIXELS

try:
    import av
    from av import FFmpegError as FFmpegError
    from av.sidedata.sidedata import Type as SideDataType
except ModuleNotFoundError as error:
    raise MissingExtraError("decoupe video", "video") from error

Pixels8 = npt.NDArray[np.uint8]

_DISCONTINUOUS = 0x0200  # libavformat's AVFMT_TS_DISCONT: times start anywhere, as in broadcasts
_BT709, _UNSPECIFIED, _BT601 = 1, 2, 5
_DELAY = 2  # most frames by which an encoder below writes a frame before those shown earlier
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
    """

    encoder: str
    alpha: str | None
    flat: str
    options: Mapping[str, str] = field(default_factory=dict)
    lossless: bool = False


CODECS = {
    "prores": Codec(
        "prores_ks", "yuva444p10le", "yuv444p10le", {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"}
    ),
    "qtrle": Codec("qtrle", "argb", "rgb24", lossless=True),
    "vp9": Codec(
        "libvpx-vp9",
        "yuva420p",
        "yuv420p",
        # Frames that are only looked back to cannot be had with transparency.
        {"crf": "18", "b": "0", "auto-alt-ref": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
    ),
    "ffv1": Codec("ffv1", "bgra", "bgr0", {"level": "3"}, lossless=True),
    "h264": Codec("libx264", None, "yuv420p", {"crf": "16", "preset": "medium"}),
    "mpeg4": Codec("mpeg4", None, "yuv420p", {"q": "2"}),
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
    ".mov": Container("mov", ("prores", "qtrle", "h264", "mpeg4"), "aac"),
    ".webm": Container("webm", ("vp9",), "libopus"),
    ".mkv": Container("matroska", ("ffv1", "h264", "vp9", "mpeg4"), "aac", {"avoid_negative_ts": "disabled"}),
    ".mp4": Container("mp4", ("h264", "mpeg4"), "aac", {"movflags": "+faststart"}),
}
"""Containers by file ending."""

_LARGE = ("prores", "qtrle", "ffv1")  # not what is wanted unasked where nothing is transparent

DEVICES = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
"""What reads webcams, and their names, by `sys.platform`."""


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


def form_of(target: Path, codec: str | None, *, transparent: bool) -> Form:
    """How ``target`` is written: a video by its ending; a folder or a pattern such as ``f%05d.png`` as PNG.

    Args:
        target: the output.
        codec: one of `CODECS`; None is what suits.
        transparent: whether there is transparency to be kept.

    Raises:
        OutputError: an ending, or a codec, that is not written or that does not suit.
    """
    suffix = target.suffix.lower()
    if not suffix or (suffix == ".png" and _pattern(target.name)):
        if codec is not None:
            raise OutputError(f"{target} is a sequence of PNG files: leave the codec out")
        return Form(None, None, "png", transparent)
    if suffix == ".png":
        raise OutputError(f"{target} is one picture: name a pattern such as frame%05d.png, or a folder")
    if suffix not in CONTAINERS:
        raise OutputError(unknown("kind of video", suffix, CONTAINERS))
    if codec is not None and codec not in CODECS:
        raise OutputError(unknown("codec", codec, CODECS))
    container = CONTAINERS[suffix]
    if codec is not None and codec not in container.codecs:
        raise OutputError(f"{suffix} holds no {codec}: it holds {', '.join(container.codecs)}")
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
    raise OutputError(f"the installed PyAV encodes no {codec or suffix}: pip install --upgrade av")


def _pattern(name: str) -> bool:
    return re.fullmatch(r"[^%]*%0?\d*d[^%]*", name) is not None


def sequence_path(target: Path, number: int) -> Path:
    """Where the frame of this number, from 1, of a PNG sequence goes."""
    return target.with_name(target.name % number) if target.suffix else target / f"{number:05d}.png"


@dataclass(frozen=True)
class Look:
    """What players have to know of frames beside their pixels.

    Attributes:
        matrix: between RGB and YCbCr, by its number in ITU-T H.273.
        primaries: of the colours, likewise.
        transfer: of the colours, likewise.
        aspect: width to height of a pixel.
    """

    matrix: int = _BT709
    primaries: int = _UNSPECIFIED
    transfer: int = _UNSPECIFIED
    aspect: Fraction = Fraction(1)


class VideoReader:
    """A video that is read frame by frame, upright.

    Args:
        source: a file, or a webcam: ``"webcam"``, ``"webcam:1"``, its number, or its device.
        start: seconds from the video's beginning at which it starts here; the output's time 0.
        end: seconds at which it ends; None is its end.
        max_pixels: largest width × height.

    Attributes:
        name: of the source, for messages.
        live: whether it is a webcam.
        time_base: seconds that one tick is.
        rate: frames per second, on average.
        size: ``(height, width)`` upright.
        look: see `Look`.
        origin: ticks of the source at the output's time 0.
        cut: whether audio has to be cut, or moved.

    Raises:
        InputError: no such file, not a video, no picture in it, too large, or a webcam that is not there.
    """

    def __init__(
        self,
        source: str,
        *,
        start: Fraction = Fraction(0),
        end: Fraction | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.name = source
        self._device = device_of(source)
        self.live = self._device is not None
        self._container = self._open()
        stream = self._stream = _pictures_of(self._container)
        self.time_base = stream.time_base or _TICK
        self.rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        if stream.width * stream.height > max_pixels:
            raise InputError(f"{source} is {stream.width}×{stream.height}, more than {max_pixels} pixels")
        self._decoded = self._decode()
        try:
            first = next(self._decoded)
        except StopIteration:
            raise InputError(f"{source} holds no frame that can be decoded: is it whole?") from None
        self._decoded = itertools.chain([first], self._decoded)
        self._turn = turn_of(first)
        self._stored = first.width, first.height
        height, width = self._turn(np.empty((first.height, first.width, 0), np.uint8)).shape[:2]
        self.size = height, width
        self.look = self._look_of(first)
        zero = (first.pts or 0) if self.live else self._beginning()
        self.origin = zero + self.ticks(start)
        self._end = None if end is None else zero + self.ticks(end)
        self._zero = zero
        self.cut = self.origin != 0 or end is not None

    def ticks(self, seconds: Fraction) -> int:
        """Seconds in the source's time base."""
        return round(seconds / self.time_base)

    @property
    def count(self) -> int | None:
        """About how many frames there are; None where the video does not tell."""
        whole = self.duration
        if self._end is not None:
            whole = min(whole or self._end - self._zero, self._end - self._zero)
        if not whole:
            return None
        return max(1, round((whole + self._zero - self.origin) * self.time_base * self.rate))

    @property
    def duration(self) -> int | None:
        """Ticks from the video's beginning to its end, where it tells."""
        if self._stream.duration:
            return self._stream.duration + (self._stream.start_time or 0) - self._zero
        if self._container.duration:
            return self.ticks(Fraction(self._container.duration, av.time_base))
        return None

    def frames(self, after: int | None = None) -> Iterator[tuple[int, Pixels8]]:
        """The frames in the order in which they are shown.

        Args:
            after: only those later than this, in ticks of the output.

        Yields:
            Ticks since the output's time 0, each later than the one before, and RGB ``(H, W, 3)``.

        Raises:
            InputError: the file is damaged, or ends before its time.
        """
        least = self.origin if after is None else self.origin + after + 1
        previous, last = None, None
        for frame in self._from(least):
            pts = self._time_of(frame, last)
            last = pts
            if self._end is not None and pts >= self._end:
                return
            if pts < least:
                continue
            # Two frames at one time, which broken files have, cannot be written.
            time = pts - self.origin if previous is None else max(pts - self.origin, previous + 1)
            previous = time
            yield time, self._turn(rgb_of(frame, *self._stored))
        self._check_end(last)
        if previous is None and after is None:
            raise InputError(f"{self.name} ends before {_clock(self.origin * self.time_base)}: start earlier")

    def audio(self) -> av.container.InputContainer | None:
        """The file opened once more, to read its audio; None where there is none."""
        if self.live:
            return None
        container = self._open()
        if _sound_of(container):
            return container
        container.close()
        return None

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    def _open(self) -> av.container.InputContainer:
        if self._device is not None:
            return _open_device(self.name, *self._device)
        if not Path(self.name).exists():
            raise InputError(f"{self.name} does not exist: check the path")
        if Path(self.name).is_dir():
            raise InputError(f"{self.name} is a folder: name a video")
        try:
            container = av.open(self.name)
        except FFmpegError as error:
            reason = "is not a video that can be read, or is damaged"
            if isinstance(error, PermissionError):
                reason = "cannot be read: check its permissions"
            raise InputError(f"{self.name} {reason} ({error.strerror})") from None
        if not container.streams.video:
            container.close()
            raise InputError(f"{self.name} has no pictures, only sound: name a video")
        _pictures_of(container).thread_type = "AUTO"
        return container

    def _decode(self) -> Iterator[av.VideoFrame]:
        last: Any = None
        try:
            for frame in self._container.decode(self._stream):
                last = frame.time
                yield frame
        except FFmpegError as error:
            where = "" if last is None else f" after {_clock(Fraction(last))}"
            raise InputError(
                f"{self.name} is damaged{where} ({error.strerror}): repair it, or end before (end, --to)"
            ) from None

    def _from(self, least: int) -> Iterator[av.VideoFrame]:
        """Decoded frames, those from ``least`` on among them, if possible without all that come before."""
        if self.live or least <= self._zero:
            return self._decoded
        for place in (least, None):
            self._container.close()
            self._container = self._open()
            self._stream = _pictures_of(self._container)
            frames = self._decode()
            if place is None:
                return frames
            try:
                self._container.seek(place, stream=self._stream)
            except FFmpegError:
                continue
            first = next(frames, None)
            if first is not None and first.pts is not None and first.pts <= least:
                return itertools.chain([first], frames)
        raise AssertionError("the second place returns")

    def _time_of(self, frame: av.VideoFrame, last: int | None) -> int:
        if frame.pts is not None:
            return frame.pts
        return self._zero if last is None else last + max(1, self.ticks(1 / self.rate))

    def _beginning(self) -> int:
        """The ticks that are the video's time 0: those of its first packet where clocks run from anywhere."""
        if self._container.format.flags & _DISCONTINUOUS and self._container.start_time:
            return self.ticks(Fraction(self._container.start_time, av.time_base))
        return 0

    def _check_end(self, last: int | None) -> None:
        """Refuse a file that tells its duration and ends long before."""
        if self._end is not None or self.live or "mov" not in self._container.format.name:
            return
        whole = self.duration
        if whole is None or last is None:
            return
        missing = (self._zero + whole - last) * self.time_base
        if missing > max(Fraction(1), 3 / self.rate, whole * self.time_base / 20):
            raise InputError(
                f"{self.name} ends after {_clock(last * self.time_base)} of "
                f"{_clock(whole * self.time_base)}, it is damaged: get it whole, or end before (end, --to)"
            )

    def _look_of(self, frame: av.VideoFrame) -> Look:
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        turned = self.size != (frame.height, frame.width)
        return Look(
            matrix=_matrix(frame),
            primaries=self._stream.codec_context.color_primaries,
            transfer=self._stream.codec_context.color_trc,
            aspect=1 / aspect if turned else aspect,
        )


def _pictures_of(container: av.container.InputContainer) -> av.VideoStream:
    """The stream that players show: not a cover beside it."""
    best = container.streams.best("video")
    assert isinstance(best, av.VideoStream)
    return best


def _sound_of(container: av.container.InputContainer) -> list[av.AudioStream]:
    """The audio tracks whose codec is known."""
    return [track for track in container.streams.audio if track.codec_context is not None]


def device_of(source: str) -> tuple[str, str] | None:
    """What reads the webcam that ``source`` names, and its name there; None where it names a file.

    Raises:
        InputError: a webcam on a system where none is read.
    """
    found = re.fullmatch(r"webcam(?::(\d+))?|(\d+)", source)
    if found is None or Path(source).exists():
        return ("v4l2", source) if re.fullmatch(r"/dev/video\d+", source) else None
    if sys.platform not in DEVICES:
        raise InputError(f"webcams are read on {' and '.join(DEVICES)}, not on {sys.platform}: name a file")
    reader, name = DEVICES[sys.platform]
    return reader, name.format(found[1] or found[2] or 0)


def _open_device(source: str, reader: str, name: str) -> av.container.InputContainer:
    try:
        return av.open(name, format=reader)
    except (FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{source} cannot be opened as a webcam ({reason}): plug one in, or name another, as webcam:1"
        ) from None


def turn_of(frame: av.VideoFrame) -> Callable[[Pixels8], Pixels8]:
    """What makes frames ``(H, W, C)`` of a stream upright, by the display matrix of its first frame."""
    matrix = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
    if matrix is None:
        return lambda pixels: pixels
    # x' = a·x + c·y and y' = b·x + d·y, of which quarter turns and mirrors are kept.
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
    swapped = abs(int(a)) + abs(int(d)) < abs(int(b)) + abs(int(c))
    columns, rows = (c, b) if swapped else (a, d)

    def upright(pixels: Pixels8) -> Pixels8:
        turned = pixels.swapaxes(0, 1) if swapped else pixels
        turned = turned[:: -1 if rows < 0 else 1, :: -1 if columns < 0 else 1]
        return np.ascontiguousarray(turned)

    return upright


def _matrix(frame: av.VideoFrame) -> int:
    """The matrix of a frame's YCbCr; where it tells none, by its height, as players do."""
    if frame.colorspace in (_BT709, 4, _BT601, 6, 7, 9, 10):
        return frame.colorspace
    return _BT709 if frame.height >= 720 else _BT601


def rgb_of(frame: av.VideoFrame, width: int, height: int) -> Pixels8:
    """A frame as RGB ``(height, width, 3)`` in 8 bits; recorded calls change their size on the way."""
    matrix = None if frame.format.is_rgb else _matrix(frame)
    pixels = frame.reformat(width, height, "rgb24", src_colorspace=matrix).to_ndarray()
    return pixels.astype(np.uint8, copy=False)


def write_piece(
    path: Path,
    form: Form,
    frames: Iterable[tuple[int, Pixels8]],
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
    if form.container is None or form.codec is None:
        path.mkdir(exist_ok=True)
        times = []
        for number, (time, pixels) in enumerate(frames):
            (path / f"{number:05d}.png").write_bytes(encode(Image.fromarray(pixels)))
            times.append(time)
        return times
    places: dict[int, int] = {}
    with av.open(str(path), "w", format=form.container.name) as out:
        stream: Any = None
        order = itertools.count()

        def mux(packets: Iterable[Any]) -> None:
            for packet in packets:
                packet.pts, packet.dts = places[packet.pts], next(order) - _DELAY
                packet.time_base = _TICK
                packet.duration = 1
                out.mux(packet)

        for time, pixels in frames:
            pixels = _fitting(pixels, form)
            if stream is None:
                stream = _encoder(out, form, pixels.shape, time_base, rate, look)
            places[time] = len(places)
            mux(stream.encode(_frame(pixels, stream, time, time_base, look)))
        mux(stream.encode(None))
    return list(places)


def _fitting(pixels: Pixels8, form: Form) -> Pixels8:
    """Where pixels share colours sides have to be even: the last pixel is repeated where one lacks."""
    assert form.codec is not None
    if form.transparent or "420" not in form.codec.flat:
        return pixels
    height, width = pixels.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return pixels
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _encoder(
    out: av.container.OutputContainer,
    form: Form,
    shape: tuple[int, ...],
    time_base: Fraction,
    rate: Fraction,
    look: Look,
) -> Any:
    assert form.codec is not None
    stream: Any = out.add_stream(form.codec.encoder, rate=rate, options=dict(form.codec.options))
    stream.height, stream.width = shape[:2]
    stream.pix_fmt = form.codec.alpha if form.transparent else form.codec.flat
    stream.time_base = _TICK
    context = stream.codec_context
    context.time_base = time_base
    context.sample_aspect_ratio = look.aspect
    context.color_primaries, context.color_trc = look.primaries, look.transfer
    if not _is_rgb(stream.pix_fmt):
        context.colorspace = look.matrix
        context.color_range = 1
    return stream


def _is_rgb(pixel_format: str) -> bool:
    return bool(av.VideoFormat(pixel_format).is_rgb)


def _frame(pixels: Pixels8, stream: Any, time: int, time_base: Fraction, look: Look) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(pixels, format="rgba" if pixels.shape[2] == 4 else "rgb24")
    matrix = None if _is_rgb(stream.pix_fmt) else look.matrix
    frame = frame.reformat(format=stream.pix_fmt, dst_colorspace=matrix)
    frame.pts, frame.time_base = time, time_base
    return frame


def join_pieces(
    path: Path,
    container: Container,
    pieces: Iterable[tuple[Path, list[int]]],
    reader: VideoReader,
) -> str:
    """One file of encoded pieces, each frame at its time, and of the source's audio.

    Nothing is encoded again but audio that the container cannot hold.

    Args:
        path: the file.
        container: its kind.
        pieces: files of `write_piece`, in order, with the ticks of their frames.
        reader: the source.

    Returns:
        What became of the audio: ``"kept"``, ``"encoded again"`` or ``"none"``.
    """
    pieces = list(pieces)
    times = [time for _, some in pieces for time in some]
    options = {**container.options}
    if container.name in ("mov", "mp4"):
        # In which beginnings are told; milliseconds, the default, would move them.
        options["movie_timescale"] = str(reader.time_base.denominator)
    with av.open(str(pieces[0][0])) as first, av.open(str(path), "w", container.name, options) as out:
        stream: Any = out.add_stream_from_template(first.streams.video[0])
        stream.time_base = reader.time_base
        # Without this mark players do not look for the transparency that VP9 keeps beside its frames.
        if "alpha_mode" in first.streams.video[0].metadata:
            stream.metadata["alpha_mode"] = "1"
        source = reader.audio()
        sound = _Sound(source, out, container, reader, times[-1]) if source is not None else None
        if source is not None:
            out.metadata.update(source.metadata)
        out.start_encoding()
        tracks = [_video_packets(pieces, times, stream, reader), sound.packets() if sound else iter(())]
        for _, _, packet in heapq.merge(*tracks, key=lambda one: one[:2]):
            out.mux(packet)
        if source is not None:
            source.close()
    return "none" if sound is None else sound.done


Timed = tuple[Fraction, int, Any]
"""Seconds at which a packet is wanted, its track's number, and the packet."""


def _video_packets(
    pieces: Iterable[tuple[Path, list[int]]], times: list[int], stream: Any, reader: VideoReader
) -> Iterator[Timed]:
    order = itertools.count()
    usual = max(1, reader.ticks(1 / reader.rate))
    base = 0
    for path, some in pieces:
        with av.open(str(path)) as piece:
            for packet in piece.demux(video=0):
                if packet.size == 0 or packet.pts is None:
                    continue
                number = base + round(packet.pts * packet.time_base / _TICK)
                place = next(order) - _DELAY
                packet.pts = times[number]
                packet.dts = times[place] if place >= 0 else times[0] + place
                packet.duration = times[number + 1] - times[number] if number + 1 < len(times) else usual
                packet.time_base = reader.time_base
                packet.stream = stream
                yield packet.dts * reader.time_base, 0, packet
        base += len(some)


class _Sound:
    """The audio tracks of a source, as they are where the container takes them, else encoded again."""

    def __init__(
        self,
        source: av.container.InputContainer,
        out: av.container.OutputContainer,
        container: Container,
        reader: VideoReader,
        last: int,
    ) -> None:
        self._source = source
        self._start = reader.origin * reader.time_base
        self._end = self._start + last * reader.time_base + 1 / reader.rate
        self._cut = reader.cut
        self._copied: dict[int, Any] = {}  # output streams by the source's index
        self._encoded: dict[int, Any] = {}
        for track in _sound_of(source):
            if track.codec_context.codec.canonical_name in out.supported_codecs:
                self._copied[track.index] = out.add_stream_from_template(track)
            else:
                rate = 48_000 if container.audio == "libopus" else track.rate  # the one that Opus has
                stream = out.add_stream(container.audio, rate=rate, layout=track.layout.name)
                self._encoded[track.index] = stream
        self.done = "encoded again" if self._encoded else "kept"

    def packets(self) -> Iterator[Timed]:
        """The packets of all tracks, in the source's order."""
        resamplers = {
            index: av.AudioResampler(
                stream.format.name, stream.layout.name, stream.rate, stream.codec_context.frame_size
            )
            for index, stream in self._encoded.items()
        }
        for packet in self._source.demux(_sound_of(self._source)):
            index = packet.stream.index
            if index in self._copied:
                yield from self._moved(packet, self._copied[index])
                continue
            # The empty packet at the end flushes the decoder, as None does the resampler and the encoder.
            frames: list[Any] = packet.decode()
            wanted = [frame for frame in frames if self._wanted(frame.pts, frame.time_base)]
            for frame in wanted:
                frame.pts -= round(self._start / frame.time_base)
            if packet.size == 0:
                wanted.append(None)
            for resampled in (one for frame in wanted for one in resamplers[index].resample(frame)):
                yield from self._timed(self._encoded[index].encode(resampled))
            if packet.size == 0:
                yield from self._timed(self._encoded[index].encode(None))

    def _moved(self, packet: Any, stream: Any) -> Iterator[Timed]:
        if packet.size == 0 or not self._wanted(packet.pts, packet.time_base):
            return
        shift = round(self._start / packet.time_base)
        packet.pts -= shift
        packet.dts = packet.pts if packet.dts is None else packet.dts - shift
        packet.stream = stream
        yield packet.dts * packet.time_base, 1, packet

    def _wanted(self, pts: int | None, time_base: Fraction) -> bool:
        if pts is None:
            return False
        return not self._cut or self._start <= pts * time_base < self._end

    def _timed(self, packets: Iterable[Any]) -> Iterator[Timed]:
        for packet in packets:
            yield packet.dts * packet.time_base, 1, packet


def _clock(seconds: Fraction | float) -> str:
    """Seconds as ``--from`` and ``--to`` take them."""
    return f"{float(seconds):.3f}".rstrip("0").rstrip(".") + " s"
