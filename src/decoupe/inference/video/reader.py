"""Videos in: frames upright and at their times, from files and webcams.

Times are whole numbers of the source's time base throughout, so that none is rounded on its way.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from decoupe.arrays import Pixels
from decoupe.errors import InputError, MissingExtraError
from decoupe.inference.compositing import in_bits
from decoupe.inference.pictures import MAX_PIXELS
from decoupe.notices import VideoWarning, warn

try:
    import av as av
    from av import FFmpegError as FFmpegError
    from av.sidedata.sidedata import Type as SideDataType
except ModuleNotFoundError as error:
    raise MissingExtraError("decoupe video", "video") from error

DEVICES = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
"""What reads webcams, and their names, by `sys.platform`."""

# By what reads: what it is asked for first. Unasked, AVFoundation's wants 29.97 frames a second of cameras
# that have 30.
_ASKED = {"avfoundation": {"framerate": "30"}}
_PATIENCE = 10  # seconds without a picture after which a webcam is given up

_DISCONTINUOUS = 0x0200  # libavformat's AVFMT_TS_DISCONT: times start anywhere, as in broadcasts
_OF_THE_FILE = frozenset({"timecode", "encoder", "major_brand", "minor_version", "compatible_brands"})
"""Tags that say nothing of what is shown; a timecode, at the source's rate, stops writers of MP4."""
_BT709, _UNSPECIFIED, _BT601 = 1, 2, 5
_BT2020, _BT2020_CONSTANT = 9, 10  # by its two luminances
_WIDE_GAMUTS = (9, 11, 12)  # BT.2020, and P3 by its two white points
_HIGH_RANGES = (16, 18)  # PQ and HLG
_TOO_FAST = 1000  # frames a second: where Matroska tells no rate, it is the codec's clock that is given
_MILLISECOND = Fraction(1, 1000)
_ALPHA_MODES = {"alpha_mode", "ALPHA_MODE"}  # WebM's and Matroska's mark of transparency
EXACT = 0x2 | 0x40000
"""What libswscale is asked for between RGB and YCbCr: it rounds down without, and darkens by a level."""
_EXACT_8 = EXACT | 0x2000  # with its chroma interpolated; of 16 bits that comes out wrong
WHITE = 255 << 8
"""What libswscale takes for white of limited YCbCr, where its RGB has 16 bits."""
_FULL = 2  # of YCbCr's range
_VPX = {"vp8": "libvpx", "vp9": "libvpx-vp9", "libvpx": "libvpx", "libvpx-vp9": "libvpx-vp9"}


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

    @property
    def beyond_srgb(self) -> tuple[int, int] | None:
        """Primaries and transfer, if told, where they are of a wide gamut or a high dynamic range."""
        told = self.primaries, self.transfer
        wide = self.primaries in _WIDE_GAMUTS or self.transfer in _HIGH_RANGES
        return told if wide and _UNSPECIFIED not in told else None


class VideoReader:
    """A video that is read frame by frame, upright.

    Args:
        source: a file, or a webcam: ``"webcam"``, ``"webcam:1"``, its number, or its device.
        start: seconds from the video's beginning at which it starts here; the output's time 0.
        end: seconds at which it ends; None is its end.
        max_pixels: largest width × height.
        deep: keep more than 8 bits where the source has them.

    Attributes:
        name: of the source, for messages.
        live: whether it is a webcam.
        time_base: seconds that one tick is.
        rate: frames per second, on average.
        size: ``(height, width)`` upright.
        deep: whether frames are read with more than 8 bits, in 16.
        look: see `Look`.
        interlaced: whether its first frame is made of two half pictures.
        origin: ticks of the source at the output's time 0.
        ends: whether an end was asked for.

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
        deep: bool = False,
    ) -> None:
        self.name = source
        self._device = device_of(source)
        self.live = self._device is not None
        self._container = self._open()
        stream = self._stream = _pictures_of(self._container)
        self.time_base = stream.time_base or _MILLISECOND
        rates = (stream.average_rate, stream.guessed_rate)
        self.rate = next((rate for rate in rates if rate and rate < _TOO_FAST), Fraction(25))
        if stream.width * stream.height > max_pixels:
            raise InputError(
                f"{source} is {stream.width}×{stream.height}, more than {max_pixels:,} pixels: "
                "make it smaller, or raise the cap (max_pixels=, --max-pixels)"
            )
        self._decoded = self._decode()
        try:
            first = next(self._decoded)
        except StopIteration:
            raise InputError(f"{source} holds no frame that can be decoded: is it whole?") from None
        self._decoded = itertools.chain([first], self._decoded)
        self._turn = turn_of(first)
        self.deep = deep and max(part.bits for part in first.format.components) > 8
        self._stored = first.width, first.height
        height, width = self._turn(np.empty((first.height, first.width, 0), np.uint8)).shape[:2]
        self.size = height, width
        self.look = self._look_of(first)
        self.interlaced = first.interlaced_frame
        zero = (first.pts or 0) if self.live else self._beginning()
        self.origin = zero + self.ticks(start)
        self._end = None if end is None else zero + self.ticks(end)
        self._zero = zero
        self.ends = end is not None
        self._last: int | None = None  # ticks of the source at which the last frame read begins
        self._until = 0  # and those at which the frames read end
        self._check_samples()

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
        if (pictures := self._duration_of_pictures()) is not None:
            return pictures
        if self._container.duration:
            return self.ticks(Fraction(self._container.duration, av.time_base))
        return None

    def _duration_of_pictures(self) -> int | None:
        if self._stream.duration:
            return self._stream.duration + (self._stream.start_time or 0) - self._zero
        # Matroska tells that of each track by a name; that of the whole file may be the sound's.
        track = re.fullmatch(r"(\d+):(\d\d):(\d\d\.\d+)", self._stream.metadata.get("DURATION", ""))
        if track is None:
            return None
        hours, minutes, seconds = map(Fraction, track.groups())
        return self.ticks((hours * 60 + minutes) * 60 + seconds) - self._zero

    def lasting(self, time: int) -> int:
        """Ticks that the frame at this tick is shown, as the file tells of the last one, else the mean."""
        usual = max(1, self.ticks(1 / self.rate))
        if self._last is None or self._last != time + self.origin:
            return usual
        ends = [self._until if self._until > self._last else self._last + usual]
        if (told := self._duration_of_pictures()) is not None and self._zero + told > self._last:
            ends.append(self._zero + told)
        if self._end is not None:
            ends.append(self._end)
        return min(ends) - self._last

    def frames(self, after: int | None = None) -> Iterator[tuple[int, Pixels]]:
        """The frames in the order in which they are shown.

        Args:
            after: only those later than this, in ticks of the output.

        Yields:
            Ticks since the output's time 0, each later than the one before, and RGB ``(H, W, 3)``, or RGBA
            ``(H, W, 4)`` where something is transparent.

        Warns:
            VideoWarning: the file tells that it is longer; what there is comes first.

        Raises:
            InputError: the file is damaged, its clock jumps back, or an MP4 or MOV file ends before its time.
        """
        least = self.origin if after is None else self.origin + after + 1
        previous, last = None, None
        for frame in self._from(least):
            pts = self._time_of(frame, last)
            self._check_clock(pts, last)
            last = pts
            if self._end is not None and pts >= self._end:
                return
            # Where frames are reordered, what tells the last one's duration may stand beside another.
            self._last, self._until = pts, max(self._until, pts + frame.duration)
            if pts < least:
                continue
            # Two frames at one time, which broken files have, cannot be written.
            time = pts - self.origin if previous is None else max(pts - self.origin, previous + 1)
            previous = time
            yield time, self._turn(pixels_of(frame, *self._stored, deep=self.deep))
        self._check_end()
        if previous is None and after is None:
            raise InputError(f"{self.name} ends before {_clock(self.origin * self.time_base)}: start earlier")

    @property
    def tags(self) -> dict[str, str]:
        """What the file tells of itself: title, artist and the like."""
        told = self._container.metadata.items()
        return {name: value for name, value in told if name.lower() not in _OF_THE_FILE}

    def beside(self) -> av.container.InputContainer | None:
        """The file opened once more, to read its audio and subtitles; None where there are none."""
        if self.live:
            return None
        container = self._open()
        if sound_of(container) or container.streams.subtitles:
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
            container = av.open(url_of(self.name))
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
            for frame in self._decoder_frames():
                last = frame.time
                yield frame
        except FFmpegError as error:
            where = "" if last is None else f" after {_clock(Fraction(last))}"
            raise InputError(
                f"{self.name} is damaged{where} ({error.strerror}): repair it, or end before (end, --to)"
            ) from None

    def _decoder_frames(self) -> Iterator[av.VideoFrame]:
        # FFmpeg's own decoder of VP8 and VP9 sees no transparency.
        seeing = _VPX.get(self._stream.codec_context.name)
        decoder: Any = None
        if seeing in av.codecs_available and _ALPHA_MODES & set(self._stream.metadata):
            decoder = av.CodecContext.create(seeing, "r")
        broadcast = self._container.format.flags & _DISCONTINUOUS  # in which a broken packet shows something
        for packet in self._packets():
            if packet.is_corrupt and not broadcast:  # as the last is of a file that is cut short
                continue
            yield from packet.decode() if decoder is None else decoder.decode(packet if packet.size else None)

    def _packets(self) -> Iterator[av.Packet[Any]]:
        """The file's packets; a webcam's when it has one, for which AVFoundation's reader does not wait."""
        since = time.monotonic()
        while True:
            patient = self.live and time.monotonic() - since < _PATIENCE
            with contextlib.suppress(*([BlockingIOError] if patient else [])):
                for packet in self._container.demux(self._stream):
                    since = time.monotonic()
                    yield packet
                return
            time.sleep(0.005)

    def _from(self, least: int) -> Iterator[av.VideoFrame]:
        """Decoded frames, those from ``least`` on among them, if possible without all that come before."""
        if self.live or least <= self._zero:
            return self._decoded
        frames = self._begun()
        with contextlib.suppress(FFmpegError):
            self._container.seek(least, stream=self._stream)
            first = next(frames, None)
            if first is not None and first.pts is not None and first.pts <= least:
                return itertools.chain([first], frames)
        return self._begun()

    def _begun(self) -> Iterator[av.VideoFrame]:
        """Decoded frames from the beginning of the file, opened anew."""
        self._container.close()
        self._container = self._open()
        self._stream = _pictures_of(self._container)
        return self._decode()

    def _time_of(self, frame: av.VideoFrame, last: int | None) -> int:
        if frame.pts is not None:
            return frame.pts
        return self._zero if last is None else last + max(1, self.ticks(1 / self.rate))

    def _check_clock(self, pts: int, last: int | None) -> None:
        """Refuse a jump back in time, as where recordings were joined: nothing tells the times after it."""
        if last is None or self.live or (last - pts) * self.time_base <= 1:
            return
        here = _clock((last - self._zero) * self.time_base)
        raise InputError(
            f"{self.name} jumps back in time after {here}, as recordings do that were put end to end: "
            "write it anew (as with ffmpeg -i IN -c copy OUT.mkv), or end before (end, --to)"
        )

    def _beginning(self) -> int:
        """The ticks that are the video's time 0: those of its first packet where clocks run from anywhere."""
        if self._container.format.flags & _DISCONTINUOUS and self._container.start_time:
            return self.ticks(Fraction(self._container.start_time, av.time_base))
        return 0

    def _check_samples(self) -> None:
        """Refuse a MOV or MP4 file that is cut short behind its table of samples."""
        lost = self._first_lost() if self._stream.frames else None  # in fragments there are none yet
        if lost is None:
            return
        before, sample = lost
        if self._end is None or self._end > sample:
            raise InputError(self._damaged_after(before))

    def _first_lost(self) -> tuple[int, int] | None:
        """Ticks of the last sample of a MOV or MP4 file that is there, and of the first that is not.

        None where all are there.
        """
        if "mov" not in self._container.format.name:
            return None
        size, before = self._container.size, self._zero
        for sample in self._stream.index_entries:
            if sample.pos + sample.size > size:
                return before, sample.timestamp
            before = sample.timestamp
        return None

    def _damaged_after(self, last: int) -> str:
        # Rounded down: a frame that is there is what ends the reading where this time is given as the end.
        here = Fraction(math.floor((last - self._zero) * self.time_base * 1000), 1000)
        whole = "" if self.duration is None else f" of {_clock(self.duration * self.time_base)}"
        told = f"{self.name} ends after {_clock(here)}{whole}"
        return f"{told}, it is damaged: get it whole, or end before (end, --to)"

    def _check_end(self) -> None:
        """Refuse, or tell of, a file that has less than it tells to have."""
        whole = self.duration
        if self.live or self._last is None or whole is None:
            return
        wanted = whole if self._end is None else min(whole, self._end - self._zero)
        missing = wanted - (self._last + self.lasting(self._last - self.origin) - self._zero)
        # Where the file is all there, its duration may be that of the sound, or a frame's that lasts.
        unsure = max(Fraction(1), 3 / self.rate, whole * self.time_base / 20)
        if missing * self.time_base <= (1 / (2 * self.rate) if self._is_cut_short() else unsure):
            return
        # In fragments are recordings of which the beginning is to be had when they are interrupted.
        if "mov" in self._container.format.name and self._stream.frames:
            raise InputError(self._damaged_after(self._last))
        last, end = (_clock(ticks * self.time_base) for ticks in (self._last - self._zero, whole))
        warn(
            f"{self.name} ends after {last} of {end}: it may be damaged, what is there was taken",
            VideoWarning,
        )

    def _is_cut_short(self) -> bool:
        """Whether the file has fewer bytes than it tells; only MOV, MP4, Matroska and WebM are looked at."""
        if "matroska" not in self._container.format.name:
            return self._first_lost() is not None
        with Path(self.name).open("rb") as file:
            told = _end_of_segment(file.read(1024))
        return told is not None and told > self._container.size

    def _look_of(self, frame: av.VideoFrame) -> Look:
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        turned = self.size != (frame.height, frame.width)
        return Look(
            matrix=_matrix(frame),
            primaries=self._stream.codec_context.color_primaries,
            transfer=self._stream.codec_context.color_trc,
            aspect=1 / aspect if turned else aspect,
        )


def _end_of_segment(head: bytes) -> int | None:
    """Bytes of a Matroska file, by its beginning: two elements of a name, a size and a content (RFC 8794).

    None where it does not tell, as of a recording that was never ended.
    """
    place = 0
    for _ in ("header", "segment"):
        place += 4
        if len(head) < place + 8 or not head[place]:
            return None
        length = 9 - head[place].bit_length()
        most = (1 << 7 * length) - 1  # which stands for a size that is not known
        size = int.from_bytes(head[place : place + length], "big") & most
        if size == most:
            return None
        place += length + size
    return place


def url_of(path: str | os.PathLike[str]) -> str:
    """A file's name as FFmpeg takes it: in ``take:1.mov`` it would see a protocol."""
    return f"file:{os.fspath(path)}"


def _pictures_of(container: av.container.InputContainer) -> av.VideoStream:
    """The stream that players show: not a cover beside it."""
    best = container.streams.best("video")
    assert isinstance(best, av.VideoStream)
    return best


def sound_of(container: av.container.InputContainer) -> list[av.AudioStream]:
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
    if asked := _ASKED.get(reader):
        with contextlib.suppress(FFmpegError, ValueError):
            return av.open(name, format=reader, options=asked)
    try:
        return av.open(name, format=reader)
    except (FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{source} cannot be opened as a webcam ({reason}): plug one in, or name another, as webcam:1"
        ) from None


def turn_of(frame: av.VideoFrame) -> Callable[[Pixels], Pixels]:
    """A function that turns frames ``(H, W, C)`` upright, by the display matrix of the first one."""
    matrix = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
    if matrix is None:
        return lambda pixels: pixels
    # x' = a·x + c·y and y' = b·x + d·y, of which quarter turns and mirrors are kept.
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
    swapped = abs(int(a)) + abs(int(d)) < abs(int(b)) + abs(int(c))
    columns, rows = (c, b) if swapped else (a, d)

    def upright(pixels: Pixels) -> Pixels:
        turned: Any = pixels.swapaxes(0, 1) if swapped else pixels
        turned = turned[:: -1 if rows < 0 else 1, :: -1 if columns < 0 else 1]
        whole: Pixels = np.ascontiguousarray(turned)
        return whole

    return upright


def _matrix(frame: av.VideoFrame) -> int:
    """The matrix of a frame's YCbCr; where it tells none, by its height, as players do."""
    if frame.colorspace in (_BT709, 4, _BT601, 6, 7, 9):
        return frame.colorspace
    if frame.colorspace == _BT2020_CONSTANT:  # which libswscale takes for the other, and PyAV does not know
        return _BT2020
    return _BT709 if frame.height >= 720 else _BT601


def pixels_of(frame: av.VideoFrame, width: int, height: int, *, deep: bool = False) -> Pixels:
    """A frame as RGB ``(height, width, 3)`` in 8 or 16 bits, or as RGBA where something is transparent.

    Recorded calls change their size on the way.
    """
    rgb, bits = frame.format.is_rgb, min(16, frame.format.components[0].bits)
    matrix = None if rgb else _matrix(frame)
    colours = [part for part in frame.format.components if not part.is_alpha]
    has_alpha = len(colours) < len(frame.format.components)
    full = frame.color_range == _FULL or len(colours) == 1  # as grey always is
    # Alpha and full ranges of more bits are taken for wider than they are on their way to 8.
    wide = deep or (not rgb and bits > 8 and (has_alpha or full))
    form = ("rgba64le" if has_alpha else "rgb48le") if wide else ("rgba" if has_alpha else "rgb24")
    flags = EXACT if wide else _EXACT_8
    pixels: Any = frame.reformat(width, height, form, src_colorspace=matrix, interpolation=flags).to_ndarray()
    pixels = pixels.astype(np.uint16 if wide else np.uint8, copy=False)
    if wide and not rgb:
        most = ((1 << bits) - 1) << (16 - bits)
        pixels[..., :3] = _stretched(pixels[..., :3], most if full else WHITE)
        pixels[..., 3:] = _stretched(pixels[..., 3:], most)
    if has_alpha and pixels[..., 3].min() == np.iinfo(pixels.dtype).max:
        pixels = pixels[..., :3]
    return in_bits(pixels, np.uint16 if deep else np.uint8)


def _stretched(values: Pixels, most: int) -> Pixels:
    """16 bits of which ``most`` stands for 1, as 16 bits of which all ones do."""
    held = np.minimum(values, most).astype(np.uint32)
    stretched: Pixels = ((held * 0xFFFF + most // 2) // most).astype(np.uint16)
    return stretched


def _clock(seconds: Fraction | float) -> str:
    """Seconds as ``--from`` and ``--to`` take them."""
    return f"{float(seconds):.3f}".rstrip("0").rstrip(".") + " s"
