"""The options of ``decoupe cut``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from decoupe.commands.options import (
    Compile,
    Device,
    Feather,
    FillHoles,
    Grow,
    Inputs,
    InputSize,
    Invert,
    JsonLines,
    KeepLargest,
    Log,
    MaxPixels,
    Mean,
    Memory,
    Model,
    NetworkSize,
    Overwrite,
    Precision,
    Quiet,
    Shrink,
    Std,
    Threshold,
    Trust,
    Verbose,
    among,
    known_models,
)
from decoupe.inference.matting import Matting
from decoupe.inference.pictures import MAX_PIXELS

SECTIONS = {
    "out": "Output",
    "what": "Subject",
    "threshold": "Matte",
    "matting": "Soft edges",
    "crop": "Crop",
    "model": "Model",
    "overwrite": "Run",
    "log": "Messages",
}
"""Titles of the help's sections, by the first option of each."""


@dataclass(frozen=True)
class CutOptions:
    """What a command line asks of ``decoupe cut``, as it was written."""

    inputs: Inputs
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help="File, folder, or - for standard output; by default PHOTO.cut.png or FOLDER-cut.",
        ),
    ] = None
    over: Annotated[
        str | None,
        typer.Option(metavar="COLOUR|IMAGE|blur", help="Put the subject over a colour, an image or a blur."),
    ] = None
    matte: Annotated[bool, typer.Option("--matte", help="Write the matte: white is the subject.")] = False
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Write the photograph, its subject tinted red.")
    ] = False
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Write the photograph, and the subject to its right.")
    ] = False
    layers: Annotated[
        bool, typer.Option("--layers", help="Write a TIFF of two pages: the subject, and the photograph.")
    ] = False
    shadow: Annotated[float, typer.Option(metavar="S", help="A soft shadow below the subject, 0 to 1.")] = 0
    keep_hidden: Annotated[
        bool, typer.Option("--keep-hidden", help="Keep the photograph's colours in transparent parts.")
    ] = False
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="For outputs not named as files: png, webp, tiff, avif or jpg.",
            autocompletion=among(("png", "webp", "tiff", "avif", "jpg")),
        ),
    ] = None
    quality: Annotated[int | None, typer.Option(metavar="Q", help="Of WebP, AVIF and JPEG: 1 to 100.")] = None
    metadata: Annotated[
        bool,
        typer.Option(
            "--metadata/--no-metadata", help="Keep resolution and EXIF, such as where a photograph was taken."
        ),
    ] = True
    what: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL", help="Cut what has this label, such as dog (repeatable); list names them."
        ),
    ] = None
    box: Annotated[
        str | None, typer.Option("--box", metavar="X0,Y0,X1,Y1", help="Cut what is in this box, in pixels.")
    ] = None
    point: Annotated[
        str | None, typer.Option("--point", metavar="X,Y", help="Cut what is at this pixel.")
    ] = None
    segments: Annotated[
        str | None,
        typer.Option(
            "--segments",
            metavar="MODEL",
            help="Model that finds what --what names.",
            autocompletion=known_models,
        ),
    ] = None
    threshold: Threshold = None
    keep_largest: KeepLargest = False
    fill_holes: FillHoles = False
    grow: Grow = 0
    shrink: Shrink = 0
    feather: Feather = 0
    invert: Invert = False
    matting: Annotated[
        bool, typer.Option("--matting", help="Solve the soft edge anew from the colours, for fur and hair.")
    ] = False
    matting_erode: Annotated[
        str, typer.Option(metavar="N|N%", help="With --matting: how far inside the subject the edge begins.")
    ] = "1%"
    matting_dilate: Annotated[
        str, typer.Option(metavar="N|N%", help="How far outside it ends; more for loose hair, such as 10%.")
    ] = "2%"
    matting_foreground: Annotated[
        float, typer.Option(metavar="T", help="With --matting: alpha from which a pixel is surely subject.")
    ] = Matting.foreground
    matting_background: Annotated[
        float, typer.Option(metavar="T", help="Alpha up to which a pixel is surely background.")
    ] = Matting.background
    crop: Annotated[bool, typer.Option("--crop", help="Keep only the part with the subject.")] = False
    margin: Annotated[str | None, typer.Option(metavar="N|N%", help="Room around it, with --crop.")] = None
    aspect: Annotated[str | None, typer.Option(metavar="W:H", help="Shape of the crop, such as 1:1.")] = None
    model: Model = None
    size: NetworkSize = None
    guided: Annotated[
        bool | None,
        typer.Option(
            "--guided/--no-guided",
            help="Enlarge mattes along outlines, with lost hairs; by default as the model says.",
        ),
    ] = None
    minmax: Annotated[
        bool, typer.Option("--minmax", help="Stretch each matte to the full range, 0 to 1.")
    ] = False
    device: Device = "auto"
    precision: Precision = "auto"
    compile: Compile = False
    memory: Memory = None
    trust: Trust = False
    input_size: InputSize = None
    mean: Mean = None
    std: Std = None
    overwrite: Overwrite = False
    watch: Annotated[bool, typer.Option("--watch", help="Keep cutting what arrives in the folders.")] = False
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Pictures worked on at a time; by default up to 4."),
    ] = None
    raw: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="Standard input is RGB frames of this size, 3 bytes a pixel."),
    ] = None
    max_pixels: MaxPixels = MAX_PIXELS
    log: Log = None
    as_json: JsonLines = False
    quiet: Quiet = False
    verbose: Verbose = False
