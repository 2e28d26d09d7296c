"""What ``decoupe cut`` writes of a matte: the cut-out, or another picture made of it, edited and framed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from decoupe.commands.cut_options import CutOptions
from decoupe.commands.options import parse_edits
from decoupe.commands.plan import check_formats
from decoupe.errors import InputError, OutputError, unknown
from decoupe.inference.matting import Matting, check_pymatting
from decoupe.inference.media import SUFFIXES, check_quality, encode, encode_layers, image_format
from decoupe.inference.metadata import NO_METADATA

if TYPE_CHECKING:
    from decoupe.inference.backgrounds import Background
    from decoupe.inference.results import Matte


_DEEP = (".png", ".tif", ".tiff")  # formats of grey with 16 bits


@dataclass(frozen=True)
class Wanted:
    """What the options of ``decoupe cut`` ask for.

    Attributes:
        kind: ``"cut"``, ``"over"``, ``"matte"``, ``"overlay"``, ``"side-by-side"`` or ``"layers"``.
        background: of ``"over"``: a colour, an image that has been read, or ``"blur"``.
        matting: of the matte's edge, as `Matting` names it; None leaves it as it is.
        edits: changes of the matte, as `Edits` names them.
        crop: whether only the part with the subject is kept.
        margin: around it, as `Matte.crop` takes it.
        aspect: of it, likewise.
        shadow: how dark a shadow is, 0 to 1.
        keep_hidden: whether transparent parts keep their colours.
        quality: of lossy formats.
        metadata: whether EXIF and resolution are kept.
        suffix: the ending of outputs that are not named as files.
    """

    kind: str = "cut"
    background: Background | None = None
    matting: Mapping[str, Any] | None = None
    edits: Mapping[str, Any] = field(default_factory=dict)
    crop: bool = False
    margin: float = 0
    aspect: tuple[float, float] | None = None
    shadow: float = 0
    keep_hidden: bool = False
    quality: int | None = None
    metadata: bool = True
    suffix: str = ".png"

    @property
    def word(self) -> str:
        """What the names of outputs that nobody named contain: ``photo.cut.png``."""
        return "cut" if self.kind == "over" else self.kind

    def bytes_of(self, matte: Matte, target: Path | None) -> bytes:
        """The bytes of the output file; ``target`` None is standard output."""
        suffix = self.suffix if target is None else target.suffix
        matte = self.changed(matte)
        if self.kind in ("cut", "over"):
            return matte.encode(
                suffix,
                over=self.background,
                shadow=self.shadow,
                keep_hidden=self.keep_hidden,
                quality=self.quality,
            )
        if self.kind == "layers":
            return encode_layers(matte.layers())
        if self.kind == "matte" and matte.image.dtype == np.uint16 and suffix.lower() in _DEEP:
            return encode(matte.mask(bits=16), suffix)
        return encode(self.image_of(matte), suffix, quality=self.quality)

    def changed(self, matte: Matte) -> Matte:
        """The matte refined, edited and framed."""
        if not self.metadata:
            matte = replace(matte, metadata=NO_METADATA)
        if self.matting is not None:
            matte = matte.refined(**self.matting)
        if self.edits:
            matte = matte.edited(**self.edits)
        return matte.crop(self.margin, self.aspect) if self.crop else matte

    def image_of(self, matte: Matte) -> Image.Image:
        """The picture that is made of a matte, with 8 bits a channel."""
        if self.kind == "cut":
            return matte.cutout(shadow=self.shadow, keep_hidden=self.keep_hidden)
        if self.kind == "over":
            assert self.background is not None  # Wanted is made by `wanted`
            return matte.over(self.background, shadow=self.shadow)
        if self.kind == "matte":
            return matte.mask()
        return matte.overlay() if self.kind == "overlay" else matte.side_by_side()

    def check(self, outputs: Iterable[Path | None]) -> None:
        """Refuse, before the first picture is read, outputs that could not be written as wanted.

        Args:
            outputs: files, of whatever the plan is; None is standard output.

        Raises:
            InputError: a quality of a format that has none.
            OutputError: a format that cannot hold the picture.
        """
        check_formats(outputs, flat=self.kind != "cut")
        for target in outputs:
            suffix = self.suffix if target is None else target.suffix
            if self.kind == "layers" and image_format(suffix) != "TIFF":
                raise OutputError(f"{target or suffix} holds no layers: end it in .tif")
            if self.quality is not None:
                check_quality(suffix, self.quality)


def describe(matte: Matte) -> dict[str, Any]:
    """What there is to tell of a matte: sizes in pixels, the subject's share and its box."""
    from decoupe.inference.framing import subject_box

    height, width = matte.alpha.shape
    box = subject_box(matte.alpha)
    share = round(float(matte.alpha.mean()), 4)
    return {"width": width, "height": height, "subject": share, "box": list(box) if any(box) else None}


def wanted(options: CutOptions, background: Background | None) -> Wanted:
    """What the options ask for, where they go together.

    Args:
        options: of the command line; ``over`` is not read here.
        background: what ``over`` names, as `read_background` gives it.

    Raises:
        InputError: options that exclude each other, or that cannot be used.
        OutputError: an unknown format.
    """
    kind = _kind(options, background)
    if options.shadow and kind not in ("cut", "over"):
        raise InputError(f"--shadow goes with the cut-out and --over, not --{kind}: leave one of them out")
    if not 0 <= options.shadow <= 1:
        raise InputError(f"--shadow is {options.shadow}, expected a number from 0 to 1")
    if options.keep_hidden and kind == "layers":
        raise InputError("--layers keeps the whole photograph below the cut-out: leave --keep-hidden out")
    if options.keep_hidden and kind != "cut":
        raise InputError(f"--keep-hidden is for transparent parts, and --{kind} has none: leave it out")
    if options.keep_hidden and options.shadow:
        raise InputError("--shadow covers the colours that --keep-hidden keeps: choose one of them")
    if (options.margin is not None or options.aspect is not None) and not options.crop:
        raise InputError("--margin and --aspect go with --crop: add --crop")
    return Wanted(
        kind=kind,
        background=background,
        matting=_matting(options),
        edits=parse_edits(options),
        crop=options.crop,
        margin=_length("--margin", options.margin or "0"),
        aspect=_aspect(options.aspect),
        shadow=options.shadow,
        keep_hidden=options.keep_hidden,
        quality=options.quality,
        metadata=options.metadata,
        suffix=_suffix(options.form, options.out, kind),
    )


def _kind(options: CutOptions, background: Background | None) -> str:
    given = {
        "matte": options.matte,
        "overlay": options.overlay,
        "side-by-side": options.side_by_side,
        "layers": options.layers,
        "over": background is not None,
    }
    kinds = [name for name, asked in given.items() if asked]
    if len(kinds) > 1:
        raise InputError(f"--{kinds[0]} and --{kinds[1]} exclude each other: give one of them")
    return kinds[0] if kinds else "cut"


def _matting(options: CutOptions) -> dict[str, float] | None:
    names = [f.name for f in fields(CutOptions) if f.name.startswith("matting_")]
    changed = [name for name in names if getattr(options, name) != getattr(CutOptions, name)]
    if changed and not options.matting:
        raise InputError(f"--{changed[0].replace('_', '-')} goes with --matting: add --matting")
    if not options.matting:
        return None
    check_pymatting()
    asked = {
        "foreground": options.matting_foreground,
        "background": options.matting_background,
        "erode": _length("--matting-erode", options.matting_erode),
        "dilate": _length("--matting-dilate", options.matting_dilate),
    }
    Matting(**asked)
    return asked


def read_background(over: str, max_pixels: int) -> Background:
    """What ``--over`` names; one that cannot be used is refused before the first picture.

    Raises:
        InputError: neither a colour nor ``"blur"`` nor a picture of at most ``max_pixels`` that can be read.
    """
    from decoupe.inference.pictures import read_image
    from decoupe.inference.results import Matte

    try:
        file = Path(over).is_file()
    except OSError:  # too long for a path
        file = False
    background: Background = read_image(over, max_pixels) if file else over
    Matte(np.zeros((1, 1), np.float32), np.zeros((1, 1, 3), np.uint8)).over(background)
    return background


def _length(option: str, text: str) -> float:
    """Whole pixels, or a share below 1 of the subject's longer side."""
    number = _number(text.removesuffix("%"))
    share = text.endswith("%")
    # 0.08 is meant as a share, and would be no pixel.
    if number is None or number < 0 or (number >= 100 if share else 0 < number < 1):
        raise InputError(f"{option} is {text!r}, expected pixels or a share: such as 20 or 5%")
    return number / 100 if share else round(number)


def _aspect(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    sides = [_number(side) for side in text.replace("x", ":").split(":")]
    if len(sides) == 2 and sides[0] and sides[1] and min(sides[0], sides[1]) > 0:
        return sides[0], sides[1]
    raise InputError(f"--aspect is {text!r}, expected WIDTH:HEIGHT, such as 1:1 or 4:5")


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e9 else None


def _suffix(form: str | None, out: str | None, kind: str) -> str:
    if form is None:
        return ".tif" if kind == "layers" else ".png"
    suffix = f".{form.lower().removeprefix('.')}"
    if suffix not in SUFFIXES:
        raise OutputError(unknown("format", form, [known[1:] for known in SUFFIXES]))
    named = Path(out or "").suffix.lower()
    if named in SUFFIXES and image_format(named) != image_format(suffix):
        raise InputError(f"--format is {form}, and -o names {out}: leave one of them out")
    return suffix
