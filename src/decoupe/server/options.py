"""The options of a request: those of the command line, under the same names and with the same meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from decoupe.commands import cut_options
from decoupe.commands.cut_files import wanted
from decoupe.commands.options import parse_sides
from decoupe.commands.segment_files import check_form
from decoupe.errors import DecoupeError, InputError, unknown
from decoupe.inference.backgrounds import named_colour
from decoupe.server.forms import Form
from decoupe.server.jobs import Cut, Looks, Segmentation
from decoupe.server.problems import ProblemError, of_options
from decoupe.weights.registry import DEFAULT_MODEL, DEFAULT_SEGMENT_MODEL

_BOX = r"^ *\d{1,9} *(, *\d{1,9} *){3}$"
_POINT = r"^ *\d{1,9} *, *\d{1,9} *$"
_SIZE = r"^\d{1,5}([xX×]\d{1,5})?$"
_FARTHEST = 100
"""Most pixels of grow, shrink and feather: the wider, the more passes over the whole picture."""
_MEANT = {
    _BOX: "X0,Y0,X1,Y1 in whole pixels: such as 40,60,320,400",
    _POINT: "X,Y in whole pixels: such as 180,220",
    _SIZE: "N or WxH: such as 512 or 640x480",
}  # what a pattern tells to nobody

Known = Mapping[str, list[str]]
"""The names of the models that a server has loaded, by their task: ``matte`` and ``segment``."""

_SUCH_AS = {"matte": f"such as -m {DEFAULT_MODEL}", "segment": f"such as -m {DEFAULT_SEGMENT_MODEL}"}


def _named_format(text: str) -> str:
    """A format as the command line takes it: in any case, as an ending, by the longer or shorter name."""
    name = text.lower().removeprefix(".")
    return {"jpeg": "jpg", "tif": "tiff"}.get(name, name)


class CutOptions(BaseModel):
    """The options of ``POST /v1/cut``."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[
        str | None, Field(description="A matte model of /v1/models; by default the first of them.")
    ] = None
    over: Annotated[
        str | None,
        Field(
            description="Put the subject over a colour, such as white or #1e90ff, or blur; or send a picture."
        ),
    ] = None
    matte: Annotated[bool, Field(description="Give the matte: white is the subject.")] = False
    overlay: Annotated[bool, Field(description="Give the photograph with its subject tinted red.")] = False
    side_by_side: Annotated[bool, Field(description="Give the photograph, and the subject to its right.")] = (
        False
    )
    what: Annotated[
        list[str] | None, Field(description="Cut what has this label, such as dog; needs a segment model.")
    ] = None
    box: Annotated[
        str | None,
        Field(
            pattern=_BOX,
            description="Cut what is in this box, in pixels: X0,Y0,X1,Y1.",
            examples=["40,60,320,400"],
        ),
    ] = None
    point: Annotated[
        str | None, Field(pattern=_POINT, description="Cut what is at this pixel: X,Y.", examples=["180,220"])
    ] = None
    threshold: Annotated[
        float | None, Field(ge=0, le=1, description="Make the edge hard: alpha of at least this is subject.")
    ] = None
    keep_largest: Annotated[bool, Field(description="Keep only the largest connected part.")] = False
    fill_holes: Annotated[bool, Field(description="Fill holes: keep what the subject encloses.")] = False
    grow: Annotated[
        int, Field(ge=0, le=_FARTHEST, description="Make the subject this many pixels larger.")
    ] = 0
    shrink: Annotated[int, Field(ge=0, le=_FARTHEST, description="Make it this many pixels smaller.")] = 0
    feather: Annotated[
        float, Field(ge=0, le=_FARTHEST, description="Soften its edge by this many pixels.")
    ] = 0
    invert: Annotated[bool, Field(description="Cut the background instead.")] = False
    crop: Annotated[bool, Field(description="Keep only the part with the subject.")] = False
    margin: Annotated[
        str | None, Field(max_length=12, description="Room around the subject, with crop: such as 20 or 5%.")
    ] = None
    aspect: Annotated[str | None, Field(max_length=24, description="Shape of the crop, such as 1:1.")] = None
    shadow: Annotated[float, Field(ge=0, le=1, description="A soft shadow below the subject.")] = 0
    keep_hidden: Annotated[bool, Field(description="Keep the photograph's colours in transparent parts.")] = (
        False
    )
    format: Annotated[
        Literal["png", "webp", "tiff", "avif", "jpg"],
        BeforeValidator(_named_format),
        Field(description="Of the answer; jpg is never transparent."),
    ] = "png"
    quality: Annotated[int | None, Field(ge=1, le=100, description="Quality of WebP, AVIF and JPEG.")] = None
    metadata: Annotated[bool, Field(description="Keep EXIF and resolution.")] = True
    minmax: Annotated[bool, Field(description="Stretch the matte to the full range, 0 to 1.")] = False
    guided: Annotated[
        bool | None,
        Field(description="Enlarge the matte along outlines, with lost hairs; by default as the model says."),
    ] = None
    size: Annotated[
        str | None,
        Field(
            pattern=_SIZE,
            description="Size at which the model sees the picture, N or WxH, in the range that it knows.",
            examples=["512"],
        ),
    ] = None


_SHARED = sorted(CutOptions.model_fields.keys() & {field.name for field in fields(cut_options.CutOptions)})
"""Options of the command line that a request has under the same name, of the same type."""


class SegmentOptions(BaseModel):
    """The options of ``POST /v1/segment``."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[
        str | None, Field(description="A segment model of /v1/models; by default the first of them.")
    ] = None
    reading: Annotated[
        Literal["panoptic", "instances", "semantic"] | None, Field(description="How pixels become segments.")
    ] = None
    format: Annotated[
        Literal["overlay", "labels", "coco", "coco-panoptic"],
        Field(description="overlay and labels: polygons as JSON; coco and coco-panoptic: COCO's files."),
    ] = "overlay"
    picture: Annotated[bool, Field(description="Give the format's picture instead of its JSON.")] = False
    score: Annotated[float | None, Field(ge=0, le=1, description="Least score of a segment.")] = None


Options = TypeVar("Options", bound=BaseModel)


def read_options(form: Form, kind: type[Options]) -> Options:
    """The fields of a form as options.

    Raises:
        ProblemError: one that does not exist, is given twice, or has a value that it cannot have.
    """
    values: dict[str, Any] = {}
    for name, given in form.fields.items():
        if name not in kind.model_fields:
            raise ProblemError(400, unknown("option", name[:40], kind.model_fields), code="unknown_option")
        several = name == "what"
        if len(given) > 1 and not several:
            raise ProblemError(400, f"{name} is given {len(given)} times: give it once")
        values[name] = given if several else given[0]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        value, line = str(first["input"])[:60], first["msg"]
        if meant := _MEANT.get(first.get("ctx", {}).get("pattern", "")):
            raise ProblemError(400, f"{first['loc'][0]} is {value!r}, expected {meant}") from None
        raise ProblemError(400, f"{first['loc'][0]} is {value!r}: {line[:1].lower()}{line[1:]}") from None


def cut_job(form: Form, known: Known) -> Cut:
    """What a form asks to be cut.

    Raises:
        ProblemError: options that do not exist, or do not go together; no picture.
    """
    image = _image(form, {"over"})
    options = read_options(form, CutOptions)
    background = form.files.get("over")
    if background is not None and options.over is not None:
        raise ProblemError(400, "over is given as a picture and as a colour: give one of them")
    if options.what is not None and not known["segment"]:
        raise ProblemError(
            400, "what needs a segment model, and this server has none: choose by box or point"
        )
    flat = background is not None or options.over or options.matte or options.overlay or options.side_by_side
    if options.format == "jpg" and not flat:
        raise ProblemError(400, "JPEG has no transparency: choose another format, or add over, such as white")
    over = None if options.over is None else _colour(options.over)
    size = None if options.size is None else parse_sides(options.size)
    try:
        asked = wanted(
            cut_options.CutOptions(
                ["-"], **{name: getattr(options, name) for name in _SHARED}, form=options.format
            ),
            # The worker puts the picture in this place, when it has read it.
            background="white" if background is not None else over,
        )
        asked.check([Path(f"image{asked.suffix}")])
    except DecoupeError as error:
        raise ProblemError(400, of_options(str(error))) from None
    return Cut(
        image=image,
        model=chosen_model(options.model, known, "matte"),
        wanted=asked,
        chosen=_chosen(options),
        background=background,
        looks=Looks(options.minmax, options.guided, size),
    )


def segment_job(form: Form, known: Known) -> Segmentation:
    """What a form asks to be told of segments.

    Raises:
        ProblemError: options that do not exist, or do not go together; no picture; no segment model.
    """
    image = _image(form, set())
    options = read_options(form, SegmentOptions)
    model = chosen_model(options.model, known, "segment")
    try:
        shape, reading = check_form(options.format, options.reading)
    except DecoupeError as error:
        raise ProblemError(400, of_options(str(error))) from None
    if options.score is not None and reading == "semantic":
        raise ProblemError(
            400, "score chooses segments, the semantic reading names every pixel: leave one out"
        )
    if options.picture and shape == "coco":
        raise ProblemError(400, "coco is JSON and has no picture: leave picture out")
    return Segmentation(
        image=image,
        model=model,
        form=shape,
        reading=reading,
        picture=options.picture,
        score=options.score,
    )


def chosen_model(name: str | None, known: Known, task: str) -> str:
    """The loaded model of that name and task; the first of that task where none is named.

    Raises:
        ProblemError: it is not one of them, or there is none.
    """
    names = known[task]
    if not names:
        raise ProblemError(404, f"this server has no {task} model: start it with one, {_SUCH_AS[task]}")
    if name is None:
        return names[0]
    if name not in names:
        raise ProblemError(400, unknown("model", name[:60], names), code="unknown_model")
    return name


def _image(form: Form, others: set[str]) -> bytes:
    """The bytes of the picture to be cut; files beside it may have one of the names ``others``."""
    names = ["image", *sorted(others)]
    for name in form.files:
        if name not in names:
            raise ProblemError(400, unknown("file", name[:40], names))
    image = form.files.get("image")
    if not image:
        raise ProblemError(400, "there is no picture: send it as the body, or as the file 'image' of a form")
    return image


def _colour(text: str) -> Any:
    """A colour as (r, g, b), or blur. Never what is a path: no text of a client reaches the file system."""
    if text == "blur":
        return text
    try:
        colour = named_colour(text[:60])
    except InputError as error:
        raise ProblemError(400, str(error)) from None
    if colour is None:
        raise ProblemError(
            400,
            f"over is {text[:60]!r}, expected a colour such as white or #1e90ff, blur, or a picture's file",
        )
    return colour


def _chosen(options: CutOptions) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    if options.what is not None:
        chosen["what"] = options.what
    for name in ("box", "point"):
        text = getattr(options, name)
        if text is not None:
            chosen[name] = tuple(int(part) for part in text.split(","))
    return chosen
