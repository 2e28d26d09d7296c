"""What ``decoupe cut`` writes of a matte: the cut-out, or another picture made of it, edited and framed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decoupe.errors import InputError, OutputError, unknown
from decoupe.inference.edits import Edits
from decoupe.inference.media import SUFFIXES, check_quality, encode
from decoupe.inference.preprocess import NO_METADATA
from decoupe.plan import Plan, check_formats

if TYPE_CHECKING:
    from decoupe.inference.results import Background, Matte


@dataclass(frozen=True)
class Wanted:
    """What the options of ``decoupe cut`` ask for.

    Attributes:
        kind: ``"cut"``, ``"over"``, ``"matte"``, ``"overlay"`` or ``"side-by-side"``; also what outputs are
            called that nobody named.
        background: of ``"over"``: a colour, an image that has been read, or ``"blur"``.
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
        """What outputs are called that nobody named: ``photo.cut.png``."""
        return "cut" if self.kind == "over" else self.kind

    def bytes_of(self, matte: Matte, target: Path | None) -> bytes:
        """The bytes of the output file; ``target`` None is standard output."""
        suffix = self.suffix if target is None else target.suffix
        if not self.metadata:
            matte = replace(matte, metadata=NO_METADATA)
        if self.edits:
            matte = matte.edited(**self.edits)
        if self.crop:
            matte = matte.crop(self.margin, self.aspect)
        if self.kind == "cut":
            return matte.encode(
                suffix, shadow=self.shadow, keep_hidden=self.keep_hidden, quality=self.quality
            )
        if self.kind == "over":
            assert self.background is not None  # Wanted is made by `wanted`
            image = matte.over(self.background, shadow=self.shadow)
        else:
            make = {"matte": matte.mask, "overlay": matte.overlay, "side-by-side": matte.side_by_side}
            image = make[self.kind]()
        return encode(image, suffix, quality=self.quality)

    def check(self, plan: Plan) -> None:
        """Refuse, before the first picture is read, outputs that could not be written so.

        Raises:
            InputError: a quality of a format that has none.
            OutputError: a format that cannot hold the picture.
        """
        check_formats(plan, flat=self.kind != "cut")
        if self.quality is not None:
            for job in plan.jobs:
                check_quality(self.suffix if job.target is None else job.target.suffix, self.quality)


def describe(matte: Matte) -> dict[str, Any]:
    """What there is to tell of a matte: sizes in pixels, the subject's share and its box."""
    from decoupe.inference.framing import subject_box

    height, width = matte.alpha.shape
    box = subject_box(matte.alpha)
    share = round(float(matte.alpha.mean()), 4)
    return {"width": width, "height": height, "subject": share, "box": list(box) if any(box) else None}


def wanted(
    *,
    over: Background | None,
    flags: Mapping[str, bool],
    edits: Mapping[str, Any],
    crop: bool,
    margin: str | None,
    aspect: str | None,
    shadow: float,
    keep_hidden: bool,
    quality: int | None,
    metadata: bool,
    form: str | None,
    out: str | None,
) -> Wanted:
    """The options of a command line, where they go together.

    Args:
        over: of ``--over``, as `read_background` gives it.
        flags: ``matte``, ``overlay`` and ``side-by-side``, as given.
        edits: as `Edits` names them.
        crop: of ``--crop``.
        margin: of ``--margin``, as ``20`` or ``5%``.
        aspect: of ``--aspect``, as ``4:5``.
        shadow: of ``--shadow``.
        keep_hidden: of ``--keep-hidden``.
        quality: of ``--quality``.
        metadata: of ``--metadata``.
        form: of ``--format``, as ``webp``.
        out: of ``--out``.

    Raises:
        InputError: options that exclude each other, or that cannot be used.
        OutputError: an unknown format.
    """
    kinds = [name for name, given in {**flags, "over": over is not None}.items() if given]
    if len(kinds) > 1:
        raise InputError(f"--{kinds[0]} and --{kinds[1]} exclude each other: give one of them")
    kind = kinds[0] if kinds else "cut"
    if shadow and kind not in ("cut", "over"):
        raise InputError(f"--shadow lies below a subject, and --{kind} shows none: leave one of them out")
    if not 0 <= shadow <= 1:
        raise InputError(f"--shadow is {shadow}, expected a number from 0 to 1")
    if keep_hidden and kind != "cut":
        raise InputError(f"--keep-hidden is for transparent parts, and --{kind} has none: leave it out")
    if (margin is not None or aspect is not None) and not crop:
        raise InputError("--margin and --aspect are of the part that --crop keeps: add --crop")
    changes = {name: value for name, value in edits.items() if value != getattr(Edits(), name)}
    Edits(**changes)
    return Wanted(
        kind=kind,
        background=over,
        edits=changes,
        crop=crop,
        margin=_margin(margin),
        aspect=_aspect(aspect),
        shadow=shadow,
        keep_hidden=keep_hidden,
        quality=quality,
        metadata=metadata,
        suffix=_suffix(form, out),
    )


def read_background(over: str, max_pixels: int) -> Background:
    """What ``--over`` names; one that cannot be used is refused before the first picture.

    Raises:
        InputError: neither a colour nor ``"blur"`` nor a picture of at most ``max_pixels`` that can be read.
    """
    import numpy as np

    from decoupe.inference.preprocess import read_image
    from decoupe.inference.results import Matte

    background: Background = read_image(over, max_pixels) if Path(over).is_file() else over
    Matte(np.zeros((1, 1), np.float32), np.zeros((1, 1, 3), np.uint8)).over(background)
    return background


def _margin(text: str | None) -> float:
    number = _number((text or "0").removesuffix("%"))
    if number is None or number < 0 or ((text or "").endswith("%") and number >= 100):
        raise InputError(f"--margin is {text!r}, expected pixels or a share: such as 20 or 5%")
    return number / 100 if (text or "").endswith("%") else round(number)


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


def _suffix(form: str | None, out: str | None) -> str:
    if form is None:
        return ".png"
    suffix = f".{form.lower().removeprefix('.')}"
    if suffix not in SUFFIXES:
        raise OutputError(unknown("format", form, [known[1:] for known in SUFFIXES]))
    if out is not None and Path(out).suffix.lower() in SUFFIXES and Path(out).suffix.lower() != suffix:
        raise InputError(f"--format is {form}, and -o names {Path(out).name}: leave one of them out")
    return suffix
