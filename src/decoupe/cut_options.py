"""The options of ``decoupe cut``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from decoupe.inference.matting import Matting
from decoupe.inference.preprocess import MAX_PIXELS
from decoupe.options import (
    Compile,
    Device,
    Feather,
    FillHoles,
    Grow,
    Inputs,
    Invert,
    JsonLines,
    KeepLargest,
    Log,
    MaxPixels,
    Memory,
    Model,
    NetworkSize,
    Overwrite,
    Precision,
    Quiet,
    Shrink,
    Threshold,
    Trust,
    Verbose,
)


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
            help="File, folder, or - for standard output; else PHOTO.cut.png or FOLDER-cut beside the input.",
        ),
    ] = None
    model: Model = None
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
    what: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL", help="Cut what has this label, as dog; several times for several; or list."
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
        typer.Option("--segments", metavar="MODEL", help="The model that finds what --what names."),
    ] = None
    matting: Annotated[
        bool, typer.Option("--matting", help="Solve the soft edge anew from the colours: fur and hair.")
    ] = False
    matting_erode: Annotated[
        str, typer.Option(metavar="N|N%", help="How far inside the subject that begins.")
    ] = "1%"
    matting_dilate: Annotated[
        str, typer.Option(metavar="N|N%", help="How far outside it ends; more for loose hair, as 10%.")
    ] = "2%"
    matting_foreground: Annotated[
        float, typer.Option(metavar="T", help="Alpha from which the matte is believed, with --matting.")
    ] = Matting.foreground
    matting_background: Annotated[
        float, typer.Option(metavar="T", help="Alpha up to which it is believed, likewise.")
    ] = Matting.background
    threshold: Threshold = None
    keep_largest: KeepLargest = False
    fill_holes: FillHoles = False
    grow: Grow = 0
    shrink: Shrink = 0
    feather: Feather = 0
    invert: Invert = False
    crop: Annotated[bool, typer.Option("--crop", help="Keep only the part with the subject.")] = False
    margin: Annotated[str | None, typer.Option(metavar="N|N%", help="Room around it, with --crop.")] = None
    aspect: Annotated[str | None, typer.Option(metavar="W:H", help="Shape of that part, as 1:1.")] = None
    shadow: Annotated[float, typer.Option(metavar="S", help="A soft shadow below the subject, 0 to 1.")] = 0
    keep_hidden: Annotated[
        bool, typer.Option("--keep-hidden", help="Keep the photograph's colours in transparent parts.")
    ] = False
    form: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="FORMAT", help="Of outputs not named as files: png, webp, tiff, avif or jpg."
        ),
    ] = None
    quality: Annotated[int | None, typer.Option(metavar="Q", help="Of WebP, AVIF and JPEG: 1 to 100.")] = None
    metadata: Annotated[
        bool,
        typer.Option(
            "--metadata/--no-metadata", help="Keep EXIF and resolution, such as where a photograph was taken."
        ),
    ] = True
    minmax: Annotated[
        bool, typer.Option("--minmax", help="Stretch each matte to its least and largest value.")
    ] = False
    guided: Annotated[
        bool | None,
        typer.Option(
            "--guided/--no-guided",
            help="Enlarge mattes along the photographs' outlines, or plainly; else as the model says.",
        ),
    ] = None
    size: NetworkSize = None
    input_size: Annotated[
        str | None,
        typer.Option(metavar="N|WxH", help="Input of an .onnx file that is not decoupe's, in pixels."),
    ] = None
    mean: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="What is subtracted from its input's 0 to 1.")
    ] = None
    std: Annotated[str | None, typer.Option(metavar="R,G,B", help="What that is divided by.")] = None
    trust: Trust = False
    device: Device = "auto"
    precision: Precision = "auto"
    compile: Compile = False
    memory: Memory = None
    raw: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="Standard input is frames of this size, 3 bytes a pixel: RGB."),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Pictures worked on at a time; else the cores, up to 4."),
    ] = None
    overwrite: Overwrite = False
    watch: Annotated[bool, typer.Option("--watch", help="Go on with what arrives in the folders.")] = False
    max_pixels: MaxPixels = MAX_PIXELS
    log: Log = None
    as_json: JsonLines = False
    quiet: Quiet = False
    verbose: Verbose = False
