"""The routes of remove.bg and rembg: clients written for them work once they have this server's address.

remove.bg's ``POST /v1.0/removebg`` and rembg's ``POST /api/remove``, by their public documentation. Nothing
is fetched from addresses, and what this server cannot do is refused, not left out in silence.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from decoupe.arrays import Box
from decoupe.commands.cut_files import Wanted
from decoupe.errors import InputError, unknown
from decoupe.inference.backgrounds import Background
from decoupe.inference.compositing import shadow_of, straight
from decoupe.inference.framing import subject_box
from decoupe.inference.media import encode
from decoupe.inference.results import Matte
from decoupe.inference.subject import check_box
from decoupe.server.forms import Form
from decoupe.server.jobs import MEDIA_TYPES, Answer, Cut, Job, background_picture
from decoupe.server.options import Known, chosen_model
from decoupe.server.problems import ProblemError

FILE = {"type": "string", "format": "binary"}

_SIZES = {
    "preview": 250_000,
    "small": 250_000,
    "regular": 250_000,
    "medium": 1_500_000,
    "hd": 4_000_000,
    "full": 25_000_000,
    "4k": 25_000_000,
    "auto": 25_000_000,
    "50MP": 50_000_000,
}
"""The most pixels of the answer, by the names that remove.bg has for them."""

_TYPES = (
    "auto",
    "person",
    "product",
    "car",
    "car_interior",
    "car_part",
    "animal",
    "graphic",
    "graphics",
    "transportation",
    "other",
)
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

PARAMETERS: dict[str, dict[str, Any]] = {
    "image_file": FILE,
    "image_file_b64": {"type": "string", "description": "The file's bytes in base64, instead."},
    "size": {"enum": list(_SIZES)},
    "type": {"enum": list(_TYPES), "description": "A hint, which is given back."},
    "type_level": {"enum": ["none", "1", "2", "latest"], "description": "Accepted, and without effect."},
    "format": {"enum": ["auto", "png", "jpg", "webp", "zip"]},
    "roi": {"type": "string", "description": "Left, top, right, bottom: 0% 0% 100% 100%."},
    "crop": {"type": "boolean"},
    "crop_margin": {"type": "string", "description": "One, two or four lengths: 10%, or 30px 10px."},
    "scale": {"type": "string", "description": "original, or 10% to 100%."},
    "position": {"type": "string", "description": "original, center, or one or two percentages."},
    "channels": {"enum": ["rgba", "alpha"]},
    "add_shadow": {"type": "boolean"},
    "shadow_type": {"enum": ["none", "drop"]},
    "shadow_opacity": {"type": "integer", "minimum": 0, "maximum": 100},
    "semitransparency": {"enum": [True]},
    "bg_color": {"type": "string", "description": "81d4fa, fff, 81d4fa77 or green."},
    "bg_image_file": FILE,
}
"""What clients of remove.bg may send, as the OpenAPI document tells it."""

_ADDRESSES = ("image_url", "bg_image_url")
_SHADOW = 50  # percent, where a shadow is asked for and not how dark

Length = tuple[float, bool]
"""A number, and whether it is a share (percent) of something, else pixels."""


def prefers_json(accept: str) -> bool:
    """Whether a client's Accept header puts JSON above pictures; axios puts it first, and beside ``*/*``."""
    weights: dict[str, float] = {}
    for one in accept.lower().split(","):
        kind, _, options = one.partition(";")
        weight = re.search(r"\bq=([01](?:\.\d*)?)", options)
        weights[kind.strip()] = float(weight[1]) if weight else 1.0
    pictures = (weights[kind] for kind in weights if kind.startswith("image/") or kind == "*/*")
    return weights.get("application/json", 0) > max(pictures, default=0)


@dataclass(frozen=True)
class RemoveBg(Job):
    """A picture to be cut as remove.bg does.

    Attributes:
        pixels: most pixels of the answer.
        form: ``auto``, ``png``, ``jpg``, ``webp`` or ``zip``.
        kind: what the client says that the subject is.
        roi: the only part in which the subject is looked for: left, top, right, bottom.
        crop: whether empty parts are cropped off.
        margin: around the subject when they are: top, right, bottom, left, shares being of the subject.
        scale: of the subject's longer side to the picture's, as a share; None leaves its size.
        position: of the subject, as shares across and down; None leaves it where it is.
        alpha: whether the matte alone is wanted.
        shadow: how dark a shadow is, 0 to 1.
        colour: what the subject is put over, (r, g, b, a).
        as_json: whether the answer is JSON with the file in it.
    """

    pixels: int = _SIZES["preview"]
    form: str = "auto"
    kind: str = "auto"
    roi: tuple[Length, Length, Length, Length] | None = None
    crop: bool = False
    margin: tuple[Length, Length, Length, Length] = ((0, False),) * 4
    scale: float | None = None
    position: tuple[float, float] | None = None
    alpha: bool = False
    shadow: float = 0
    colour: tuple[int, int, int, int] | None = None
    as_json: bool = False

    def choice(self, size: tuple[int, int]) -> dict[str, Any]:
        """The region of interest as a box."""
        if self.roi is None:
            return {}
        height, width = size
        box = tuple(map(_pixels, self.roi, (width, height, width, height)))
        try:
            return {"box": check_box(box, size)}
        except InputError:
            raise ProblemError(
                400,
                f"roi is {','.join(map(str, box))} in pixels, expected left, top, right, bottom with "
                f"left < right and top < bottom, inside the picture of {width}×{height}",
                code="invalid_parameter",
            ) from None

    def answer(self, matte: Matte) -> Answer:
        """The file, and where in it the subject is."""
        box = subject_box(matte.alpha)
        if not any(box):
            raise ProblemError(400, "Could not identify foreground in image.", code="unknown_foreground")
        cutout = matte.cutout()
        told = dict(cutout.info)
        image, box = self._framed(cutout, box)
        if self.shadow:  # where the subject stands now
            pixels = np.asarray(image)
            alpha = pixels[..., 3].astype(np.float32) / np.float32(255)
            shade = shadow_of(alpha, self.shadow)
            image = Image.fromarray(straight(pixels[..., :3], alpha, shade=shade))
        image, box = _reduced(image, box, self.pixels)
        image = image.getchannel("A") if self.alpha else self._over(image, matte.icc_profile)
        image.info.update(told)
        left, top, right, bottom = box
        place = {"left": left, "top": top, "width": right - left, "height": bottom - top}
        headers = {f"X-Foreground-{name.title()}": str(value) for name, value in place.items()}
        headers |= {
            "X-Type": "other" if self.kind == "auto" else self.kind,
            "X-Width": str(image.width),
            "X-Height": str(image.height),
            "X-Credits-Charged": "0",
        }
        body, suffix = self._encoded(image)
        if not self.as_json:
            return Answer(body, MEDIA_TYPES[suffix], headers)
        told_place = {f"foreground_{name}": value for name, value in place.items()}
        data = {"data": {"result_b64": base64.b64encode(body).decode(), **told_place}}
        return Answer(json.dumps(data).encode(), MEDIA_TYPES[".json"], headers)

    def _framed(self, image: Image.Image, box: Box) -> tuple[Image.Image, Box]:
        """The cut-out cropped, and its subject scaled and moved; where it then is."""
        if self.crop:
            left, top, right, bottom = box
            wide, high = right - left, bottom - top
            above, after, below, before = map(_pixels, self.margin, (high, wide, high, wide))
            image = image.crop((left - before, top - above, right + after, bottom + below))
            box = (before, above, before + wide, above + high)
        if self.scale is None and self.position is None:
            return image, box
        subject = image.crop(box)
        if self.scale is not None:
            ratio = self.scale * min(image.width / subject.width, image.height / subject.height)
            sides = (max(1, round(subject.width * ratio)), max(1, round(subject.height * ratio)))
            subject = subject.resize(sides, Image.Resampling.LANCZOS)
        across, down = self.position or (0.5, 0.5)
        left = round((image.width - subject.width) * across)
        top = round((image.height - subject.height) * down)
        canvas = Image.new("RGBA", image.size)
        canvas.paste(subject, (left, top))
        return canvas, (left, top, left + subject.width, top + subject.height)

    def _over(self, image: Image.Image, profile: bytes | None) -> Image.Image:
        """The cut-out over its background, where it has one; RGB where it is opaque, or has to be."""
        below = None
        if self.background is not None:
            ground = background_picture(self.background, "bg_image_file")
            below = _ground(ground, image.size, profile)
        elif self.colour is not None:
            one = _ground(self.colour[:3], (1, 1), profile)  # as every other pixel
            below = one.resize(image.size, Image.Resampling.NEAREST)
            below.putalpha(self.colour[3])
        elif self.form == "jpg":
            below = Image.new("RGBA", image.size, "white")
        if below is not None:
            image = Image.alpha_composite(below, image)
        opaque = image.getchannel("A").getextrema()[0] == 255
        return image.convert("RGB") if opaque or self.form == "jpg" else image

    def _encoded(self, image: Image.Image) -> tuple[bytes, str]:
        if self.form == "zip":
            return _zipped(image), ".zip"
        opaque = image.mode == "RGB"
        suffix = f".{self.form}" if self.form != "auto" else ".jpg" if opaque else ".png"
        return encode(image, suffix), suffix


def remove_bg_job(form: Form, known: Known, *, as_json: bool) -> RemoveBg:
    """What a client of remove.bg asks for.

    Raises:
        ProblemError: in remove.bg's words where it has them.
    """
    fields = {name: values[-1] for name, values in form.fields.items()}
    for name in (*fields, *form.files):
        if name not in (*PARAMETERS, *_ADDRESSES):
            raise ProblemError(400, unknown("parameter", name[:40], PARAMETERS), code="unknown_parameter")
    _check_kinds(form, PARAMETERS)
    if any(name in fields for name in _ADDRESSES):
        raise ProblemError(
            400, "This server fetches nothing: send the file instead of its address", code="invalid_image_url"
        )
    image = _source(form.files.get("image_file"), fields.get("image_file_b64"))
    scale = fields.get("scale", "original")
    asked = RemoveBg(
        image=image,
        model=chosen_model(None, known, "matte"),
        pixels=_SIZES[_one_of(fields, "size", "preview")],
        form=_one_of(fields, "format", "auto"),
        kind=_one_of(fields, "type", "auto"),
        roi=_lengths(fields, "roi", (4,)),
        crop=_flag(fields, "crop"),
        margin=_margins(fields),
        scale=None if scale == "original" else _share("scale", scale, 0.1),
        position=_position(fields, scale),
        alpha=_one_of(fields, "channels", "rgba") == "alpha",
        shadow=_shadow(fields),
        colour=_colour(fields),
        background=form.files.get("bg_image_file"),
        as_json=as_json,
    )
    _one_of(fields, "type_level", "1")
    ground = asked.colour is not None or asked.background is not None
    refused = {
        "semitransparency=false is not supported: leave it out": (
            not _flag(fields, "semitransparency", default=True)
        ),
        "bg_color and bg_image_file exclude each other: give one": (
            asked.colour is not None and asked.background is not None
        ),
        "channels=alpha has no background: leave bg_color and bg_image_file out": asked.alpha and ground,
        "format=zip has alpha.png already: leave channels=alpha out": asked.alpha and asked.form == "zip",
    }
    for line, so in refused.items():
        if so:
            raise ProblemError(400, line, code="invalid_parameter")
    return asked


# Alpha matting changes nothing: soft alpha and the subject's own colours are always given here.
REMBG_PARAMETERS: dict[str, dict[str, Any]] = {
    "file": FILE,
    "model": {"type": "string"},
    "a": {"type": "boolean", "description": "Accepted: alpha is soft and colours are estimated."},
    **{name: {"type": "integer", "description": "Accepted, without effect."} for name in ("af", "ab", "ae")},
    "om": {"type": "boolean", "description": "The mask alone."},
    "ppm": {"type": "boolean", "description": "A hard mask."},
    "bgc": {"type": "string", "description": "R,G,B,A of a background."},
}
"""What clients of rembg may send, likewise."""


def rembg_job(form: Form, known: Known) -> Cut:
    """What a client of rembg asks for; ``u2net``, which its clients name by default, is the server's default.

    Raises:
        ProblemError: what rembg's server has and this one does not; no picture.
    """
    fields = {name: values[-1] for name, values in form.fields.items()}
    if "url" in fields:
        raise ProblemError(400, "this server fetches nothing: send the picture as the file 'file'")
    for name in (*fields, *form.files):
        if name not in (*REMBG_PARAMETERS, "extras"):
            raise ProblemError(400, unknown("option", name[:40], REMBG_PARAMETERS), code="unknown_option")
    _check_kinds(form, REMBG_PARAMETERS)
    if "extras" in fields:
        raise ProblemError(400, "extras belong to models that this server does not have: leave them out")
    image = form.files.get("file")
    if not image:
        raise ProblemError(400, "there is no picture: send it as the file 'file'")
    asked = fields.get("model")
    model = chosen_model(None if asked == "u2net" else asked, known, "matte")
    for name in ("af", "ab", "ae"):
        if not re.fullmatch(r"\d{1,3}", fields.get(name, "0")):
            raise ProblemError(400, f"{name} is {fields[name][:20]!r}, expected a whole number")
    _flag(fields, "a")
    edits = {"threshold": 0.5} if _flag(fields, "ppm") else {}
    if _flag(fields, "om"):
        return Cut(image, model, Wanted(kind="matte", edits=edits))
    if "bgc" not in fields:
        return Cut(image, model, Wanted(edits=edits))
    parts = fields["bgc"].split(",")
    if len(parts) != 4 or not all(re.fullmatch(r"\s*\d{1,3}\s*", part) and int(part) < 256 for part in parts):
        raise ProblemError(400, f"bgc is {fields['bgc'][:30]!r}, expected R,G,B,A of 0 to 255")
    red, green, blue, opacity = map(int, parts)
    if opacity == 0:
        return Cut(image, model, Wanted(edits=edits))
    if opacity < 255:
        raise ProblemError(400, f"bgc has the opacity {opacity}, expected 255, or 0 for none")
    return Cut(image, model, Wanted(kind="over", background=(red, green, blue), edits=edits))


def _check_kinds(form: Form, parameters: Mapping[str, dict[str, Any]]) -> None:
    """Refuse files where text belongs, and text where a file does: neither would be looked at."""
    for name in form.files:
        if parameters.get(name) is not FILE:
            raise ProblemError(400, f"{name} is sent as a file, expected text", code="invalid_parameter")
    for name in form.fields:
        if parameters.get(name) is FILE:
            raise ProblemError(400, f"{name} is sent as text, expected a file", code="invalid_parameter")


def _source(file: bytes | None, encoded: str | None) -> bytes:
    if file is not None and encoded is not None:
        raise ProblemError(400, "Multiple image sources given: give one", code="multiple_sources")
    if encoded is not None:
        # Many encoders break lines.
        text = encoded.rpartition("base64,")[2].replace("\r", "").replace("\n", "")
        try:
            file = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ProblemError(
                400, "image_file_b64 is not base64: encode the file's bytes", code="invalid_file"
            ) from None
    if not file:
        raise ProblemError(400, "No image given: send image_file or image_file_b64", code="missing_source")
    return file


def _wrong(name: str, value: str, expected: str) -> ProblemError:
    return ProblemError(400, f"{name} is {value[:40]!r}, expected {expected}", code="invalid_parameter")


def _one_of(fields: Mapping[str, str], name: str, default: str) -> str:
    value, known = fields.get(name, default), PARAMETERS[name]["enum"]
    if value not in known:
        raise _wrong(name, value, f"one of {', '.join(known)}")
    return value


def _flag(fields: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    value = fields.get(name)
    if value is None:
        return default
    if value.lower() not in (*_TRUE, *_FALSE):
        raise _wrong(name, value, "true or false")
    return value.lower() in _TRUE


def _share(name: str, value: str, least: float = 0.0) -> float:
    """A percentage as a share."""
    found = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)\s*%", value.strip())
    if not found or not least <= float(found[1]) / 100 <= 1:
        raise _wrong(name, value, f"a percentage from {least:.0%} to 100%")
    return float(found[1]) / 100


def _lengths(
    fields: Mapping[str, str], name: str, counts: tuple[int, ...]
) -> tuple[Length, Length, Length, Length] | None:
    """As many pixels or percentages as one of ``counts`` says, as the four that CSS makes of them."""
    text = fields.get(name)
    if text is None:
        return None
    found = [re.fullmatch(r"(\d{1,5}(?:\.\d{1,6})?)(px|%)?", part) for part in text.split()]
    if len(found) not in counts or not all(found):
        raise _wrong(name, text, f"{' or '.join(map(str, counts))} lengths such as 30px or 10%")
    lengths = [(float(part[1]), part[2] == "%") for part in found if part]
    if any(share and number > 100 for number, share in lengths):
        raise _wrong(name, text, "percentages of at most 100%")
    first, second, third, fourth = (lengths * 4)[:4]
    return first, second, third, fourth


def _margins(fields: Mapping[str, str]) -> tuple[Length, Length, Length, Length]:
    margin = _lengths(fields, "crop_margin", (1, 2, 4)) or ((0, False),) * 4
    if any(number > (50 if share else 500) for number, share in margin):
        raise _wrong("crop_margin", fields["crop_margin"], "at most 50% or 500px")
    return margin


def _pixels(length: Length, whole: int) -> int:
    number, share = length
    return round(number / 100 * whole if share else number)


def _position(fields: Mapping[str, str], scale: str) -> tuple[float, float] | None:
    text = fields.get("position", "original" if scale == "original" else "center")
    if text in ("original", "center"):
        return None if text == "original" else (0.5, 0.5)
    parts = text.split()
    if len(parts) not in (1, 2):
        raise _wrong("position", text, "original, center, or one or two percentages")
    return _share("position", parts[0]), _share("position", parts[-1])


def _shadow(fields: Mapping[str, str]) -> float:
    kind = _one_of(fields, "shadow_type", "drop" if _flag(fields, "add_shadow") else "none")
    text = fields.get("shadow_opacity", str(_SHADOW))
    if not re.fullmatch(r"\d{1,3}", text) or int(text) > 100:
        raise _wrong("shadow_opacity", text, "a number from 0 to 100")
    return 0 if kind == "none" else int(text) / 100


def _colour(fields: Mapping[str, str]) -> tuple[int, int, int, int] | None:
    text = fields.get("bg_color")
    if text is None:
        return None
    hexadecimal = re.fullmatch(r"#?([0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})", text)
    try:
        colour = ImageColor.getcolor(f"#{hexadecimal[1]}" if hexadecimal else text, "RGBA")
    except ValueError:
        raise _wrong("bg_color", text, "a colour such as 81d4fa, fff, 81d4fa77 or green") from None
    assert isinstance(colour, tuple)  # it is asked for as RGBA
    red, green, blue, opacity = colour
    return red, green, blue, opacity


def _reduced(image: Image.Image, box: Box, pixels: int) -> tuple[Image.Image, Box]:
    """An image of at most so many pixels, and a box in it."""
    scale = math.sqrt(pixels / (image.width * image.height))
    if scale >= 1:
        return image, box
    width, height = size = max(1, math.floor(image.width * scale)), max(1, math.floor(image.height * scale))
    across, down = width / image.width, height / image.height
    left, right = round(box[0] * across), round(box[2] * across)
    top, bottom = round(box[1] * down), round(box[3] * down)
    return image.resize(size, Image.Resampling.BOX), (left, top, right, bottom)


def _ground(background: Background, size: tuple[int, int], profile: bytes | None) -> Image.Image:
    """A background that covers ``size``, its colours in ``profile``, by `Matte.over` of nothing at all."""
    nothing = Matte(np.zeros(size[::-1], np.float32), np.zeros((*size[::-1], 3), np.uint8), profile)
    return nothing.over(background).convert("RGBA")


def _zipped(image: Image.Image) -> bytes:
    """Colours and alpha apart, as remove.bg's clients put them together."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("color.jpg", encode(image.convert("RGB"), ".jpg"))
        alpha = image.getchannel("A") if image.mode == "RGBA" else Image.new("L", image.size, 255)
        archive.writestr("alpha.png", encode(alpha, ".png"))
    return buffer.getvalue()
