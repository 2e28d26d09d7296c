"""How videos are written: codecs and containers, and sequences of PNG files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from decoupe.errors import OutputError, unknown
from decoupe.inference.video.reader import av

_LONGEST_NAME = 255  # bytes, on the file systems in use
_NUMBER = "%(?:0[1-9][0-9]?)?d"  # in a pattern; with spaces before the digits, files would not be found again


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
    "h264": Codec(
        "libx264",
        None,
        "yuv420p",
        # libswscale puts the colour of four pixels amidst them; players look further left unless told.
        {"crf": "16", "preset": "medium", "x264-params": "chromaloc=1"},
        delay=2,
    ),
    "h265": Codec(
        "libx265",
        None,
        "yuv420p",
        {"crf": "18", "preset": "medium", "x265-params": "log-level=error:chromaloc=1"},
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
    def square(self) -> bool:
        """Whether nothing tells what shape pixels have: players take them for squares.

        PyAV cannot have a Matroska file tell it, and these codecs do not.
        """
        return self.codec is None or self.word in ("vp9", "ffv1")

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


def size_in(form: Form, size: tuple[int, int]) -> tuple[int, int]:
    """``(height, width)`` of frames of ``size`` as they are written: even where the codec needs it."""
    height, width = size
    if form.codec is None or form.transparent or "420" not in form.codec.flat:
        return height, width
    return height + height % 2, width + width % 2
