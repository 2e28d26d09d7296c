"""``decoupe segment``: what is where in pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from decoupe.commands.console import hush_downloads, told
from decoupe.commands.options import (
    Compile,
    Device,
    Inputs,
    JsonLines,
    Log,
    MaxPixels,
    Memory,
    Model,
    NetworkSize,
    Overwrite,
    Precision,
    Quiet,
    Trust,
    Verbose,
    among,
    parse_size,
)
from decoupe.commands.plan import make_plan
from decoupe.commands.running import Telling, Worked, do
from decoupe.commands.segment_files import FORMS, check_form, check_targets, segment_files
from decoupe.errors import InputError
from decoupe.inference.pictures import MAX_PIXELS
from decoupe.inference.segments import READINGS
from decoupe.runtimes import find_spec

if TYPE_CHECKING:
    from decoupe.inference.predictor import Segmenter

SegmentsOut = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--out",
        metavar="OUT",
        help="Picture, .json, folder, or - for JSON on standard output; by default PHOTO.segments.png.",
    ),
]
Reading = Annotated[
    str | None,
    typer.Option(
        metavar="READING",
        help="panoptic, instances or semantic: how pixels become segments.",
        autocompletion=among(READINGS),
    ),
]
Form = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="overlay and labels: a picture, and polygons as JSON; coco and coco-panoptic: COCO's files.",
        autocompletion=among(FORMS),
    ),
]
Score = Annotated[
    float | None, typer.Option(min=0, max=1, metavar="S", help="Least score of a segment, 0 to 1.")
]


def segment(
    inputs: Inputs,
    out: SegmentsOut = None,
    model: Model = None,
    reading: Reading = None,
    form: Form = "overlay",
    score: Score = None,
    size: NetworkSize = None,
    trust: Trust = False,
    device: Device = "auto",
    precision: Precision = "auto",
    compile: Compile = False,  # noqa: A002 - named as the option
    memory: Memory = None,
    overwrite: Overwrite = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    log: Log = None,
    as_json: JsonLines = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say what is where in pictures, as a picture with labels and the segments as JSON."""
    with told():
        telling = Telling(quiet, verbose, as_json, log)
        hush_downloads(quiet)
        find_spec(model)
        network_size = parse_size(size)
        form, kind = check_form(form, reading)
        if score is not None and kind == "semantic":
            raise InputError(
                "--score chooses segments, the semantic reading names every pixel: leave one out"
            )
        plan = make_plan(inputs, out, word="segments", overwrite=overwrite, text=True, log=log)
        check_targets(plan, form, overwrite, log)

        def open_model() -> Segmenter:
            from decoupe.inference.predictor import open_segmenter
            from decoupe.inference.segments import Thresholds

            segmenter = open_segmenter(
                model,
                device=device,
                dtype=precision,
                size=network_size,
                compile=compile,
                memory=memory,
                trust=trust,
            )
            if score is not None:
                segmenter.thresholds = Thresholds(score=score, instance=score)
            return segmenter

        def work(segmenter: Segmenter, source: Path | BinaryIO, target: Path | None) -> Worked:
            found = segmenter(source, max_pixels=max_pixels)

            def about() -> dict[str, Any]:
                height, width = found.image.shape[:2]
                return {"width": width, "height": height, "segments": len(found.read(kind))}

            return segment_files(found, form, kind, target, segmenter.runtime.name), about

        do(plan, open_model, work, done="segmented", telling=telling)
