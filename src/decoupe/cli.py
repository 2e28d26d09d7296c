"""The command line: one short function per command.

Pictures and paths go to standard output, everything said about them to standard error. Exit status 0: done;
1: some inputs failed, each named in one line, the rest done; 2: wrong usage, nothing done. Rich is imported
where something is drawn, so that ``decoupe cut photo.jpg`` starts quickly.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

import decoupe
from decoupe import (
    catalogue_commands,
    evaluation_commands,
    export_command,
    serve_command,
    training_commands,
    video_command,
)
from decoupe.bench_command import bench
from decoupe.console import hush_downloads, told
from decoupe.cut_command import cut
from decoupe.errors import InputError
from decoupe.inference.preprocess import MAX_PIXELS
from decoupe.options import (
    AsJson,
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
    parse_size,
)
from decoupe.plan import make_plan
from decoupe.running import Telling, Worked, do
from decoupe.runtimes import find_spec
from decoupe.segment_files import check_form, check_targets, segment_files

if TYPE_CHECKING:
    from decoupe.inference.predictor import Segmenter

app = typer.Typer(
    help="Cut the subject out of any picture, down to the hair.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The ``decoupe`` command."""
    app()


app.command()(cut)
app.command()(video_command.video)
app.command()(catalogue_commands.models)
app.command()(catalogue_commands.get)
app.command()(bench)
app.add_typer(catalogue_commands.cache_app, name="cache")
app.command()(serve_command.serve)
app.command()(serve_command.ui)
app.command()(training_commands.train)
app.command()(training_commands.calibrate)
app.command()(export_command.export)
app.add_typer(training_commands.data_app, name="data")
app.add_typer(evaluation_commands.eval_app, name="eval")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"decoupe {decoupe.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Cut the subject out of any picture, down to the hair."""


SegmentsOut = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--out",
        metavar="OUT",
        help="Picture, .json, folder, or - for JSON on standard output; else PHOTO.segments.png and .json.",
    ),
]
Reading = Annotated[
    str | None,
    typer.Option(metavar="READING", help="panoptic, instances or semantic: how pixels become segments."),
]
Form = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="overlay and labels: a picture, and polygons as JSON; coco and coco-panoptic: COCO's files.",
    ),
]
Score = Annotated[
    float | None, typer.Option(min=0, max=1, metavar="S", help="Least score of a segment, 0 to 1.")
]


@app.command()
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
    memory: Memory = None,
    overwrite: Overwrite = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    log: Log = None,
    as_json: JsonLines = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say what is where in pictures: a picture with labels, and the segments as JSON beside it."""
    with told():
        hush_downloads(quiet)
        find_spec(model)
        network_size = parse_size(size)
        form, kind = check_form(form, reading)
        if score is not None and kind == "semantic":
            raise InputError(
                "--score chooses segments, the semantic reading names every pixel: leave one out"
            )
        plan = make_plan(inputs, out, word="segments", overwrite=overwrite, text=True)
        check_targets(plan, form, overwrite)

        def open_model() -> Segmenter:
            from decoupe.inference.predictor import open_segmenter
            from decoupe.inference.segments import Thresholds

            segmenter = open_segmenter(
                model, device=device, dtype=precision, size=network_size, memory=memory, trust=trust
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

        do(plan, open_model, work, done="segmented", telling=Telling(quiet, verbose, as_json, log))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check what works here: versions, devices, cache, extras, the default model."""
    from decoupe import doctor as checks

    with told():
        made = []
        for check in checks.examine():
            made.append(check)
            if not as_json:
                typer.echo(f"{'  ' if check.ok else '! '}{check.name:<{checks.WIDTH}} {check.finding}")
        if as_json:
            typer.echo(json.dumps([dataclasses.asdict(check) for check in made]))
        if not all(check.ok for check in made):
            raise typer.Exit(1)
