"""The command line: one short function per command.

Pictures and paths go to standard output, everything said about them to standard error. Exit status 0: done;
1: some inputs failed, each named in one line, the rest done; 2: wrong usage, nothing done. Rich is imported
where something is drawn, so that ``decoupe cut photo.jpg`` starts quickly.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

import decoupe
from decoupe import catalogue_commands, evaluation_commands, serve_command, training_commands
from decoupe.console import Files, printable, recorder, run, say, told
from decoupe.cut_files import describe, read_background, wanted
from decoupe.errors import DecoupeError, InputError
from decoupe.inference.preprocess import MAX_PIXELS, Size
from decoupe.plan import Plan, make_plan
from decoupe.runtimes import find_spec
from decoupe.segment_files import check_form, check_targets, segment_files
from decoupe.watching import arrivals

if TYPE_CHECKING:
    from decoupe.inference.predictor import Predictor, Segmenter

app = typer.Typer(
    help="Cut the subject out of any picture, down to the hair.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Worked = tuple[Files, Callable[[], dict[str, Any]]]
"""What is written of a picture, and what tells of it."""


# Options of `cut`.
Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT...", help="Pictures, folders, or - for standard input.")
]
Out = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--out",
        metavar="OUT",
        help="File, folder, or - for standard output; else PHOTO.cut.png or FOLDER-cut beside the input.",
    ),
]
SegmentsOut = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--out",
        metavar="OUT",
        help="Picture, .json, folder, or - for JSON on standard output; else PHOTO.segments.png and .json.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        metavar="MODEL",
        help="Name (see `decoupe models`), .onnx, .safetensors or .pth file.",
    ),
]
Over = Annotated[
    str | None,
    typer.Option(metavar="COLOUR|IMAGE|blur", help="Put the subject over a colour, an image or a blur."),
]
MatteOnly = Annotated[bool, typer.Option("--matte", help="Write the matte: white is the subject.")]
Overlay = Annotated[bool, typer.Option("--overlay", help="Write the photograph with its subject tinted red.")]
SideBySide = Annotated[
    bool, typer.Option("--side-by-side", help="Write the photograph, and the subject to its right.")
]
Threshold = Annotated[
    float | None, typer.Option(metavar="T", help="Make the edge hard: alpha from T, 0 to 1, is the subject.")
]
KeepLargest = Annotated[bool, typer.Option("--keep-largest", help="Keep the largest connected part alone.")]
FillHoles = Annotated[bool, typer.Option("--fill-holes", help="Keep what the subject encloses.")]
Grow = Annotated[int, typer.Option(min=0, metavar="N", help="Make the subject N pixels larger on all sides.")]
Shrink = Annotated[int, typer.Option(min=0, metavar="N", help="Make it N pixels smaller.")]
Feather = Annotated[float, typer.Option(metavar="S", help="Soften its edge by S pixels.")]
Invert = Annotated[bool, typer.Option("--invert", help="Cut the background instead.")]
Crop = Annotated[bool, typer.Option("--crop", help="Keep only the part with the subject.")]
Margin = Annotated[str | None, typer.Option(metavar="N|N%", help="Room around it, with --crop.")]
Aspect = Annotated[str | None, typer.Option(metavar="W:H", help="Shape of that part, as 1:1.")]
Shadow = Annotated[float, typer.Option(metavar="S", help="A soft shadow below the subject, 0 to 1.")]
KeepHidden = Annotated[
    bool, typer.Option("--keep-hidden", help="Keep the photograph's colours in transparent parts.")
]
Quality = Annotated[int | None, typer.Option(metavar="Q", help="Of WebP, AVIF and JPEG: 1 to 100.")]
Metadata = Annotated[
    bool,
    typer.Option(
        "--metadata/--no-metadata", help="Keep EXIF and resolution, such as where a photograph was taken."
    ),
]
Ending = Annotated[
    str | None,
    typer.Option(
        "--format", metavar="FORMAT", help="Of outputs not named as files: png, webp, tiff, avif or jpg."
    ),
]
NetworkSize = Annotated[
    str | None, typer.Option(metavar="N|WxH|native", help="Size at which the model sees the picture.")
]
What = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LABEL", help="Cut what has this label, as dog; several times for several; or list."
    ),
]
InBox = Annotated[
    str | None, typer.Option("--box", metavar="X0,Y0,X1,Y1", help="Cut what is in this box, in pixels.")
]
AtPoint = Annotated[str | None, typer.Option("--point", metavar="X,Y", help="Cut what is at this pixel.")]
SegmentModel = Annotated[
    str | None, typer.Option("--segments", metavar="MODEL", help="The model that finds what --what names.")
]
Guided = Annotated[
    bool | None,
    typer.Option(
        "--guided/--no-guided",
        help="Enlarge mattes along the photographs' outlines, or plainly; else as the model says.",
    ),
]
MinMax = Annotated[bool, typer.Option("--minmax", help="Stretch each matte to its least and largest value.")]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")]
Precision = Annotated[str, typer.Option(metavar="DTYPE", help="auto, float32, bfloat16 or float16.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
Watch = Annotated[bool, typer.Option("--watch", help="Go on with what arrives in the folders, until Ctrl-C.")]
MaxPixels = Annotated[int, typer.Option(min=1, metavar="N", help="Largest width × height to open.")]
Log = Annotated[
    Path | None,
    typer.Option("--log", metavar="FILE", help="Add a line of JSON about each picture to this file."),
]
JsonLines = Annotated[
    bool, typer.Option("--json", help="Print a line of JSON about each picture on standard output.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Name the model and each output.")]


def main() -> None:
    """The ``decoupe`` command."""
    app()


app.command()(catalogue_commands.models)
app.command()(catalogue_commands.get)
app.add_typer(catalogue_commands.cache_app, name="cache")
app.command()(training_commands.train)
app.command()(training_commands.calibrate)
app.command()(training_commands.export)
app.add_typer(training_commands.data_app, name="data")
app.add_typer(evaluation_commands.eval_app, name="eval")
app.command()(serve_command.serve)
app.command()(serve_command.ui)


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


@app.command()
def cut(
    inputs: Inputs,
    out: Out = None,
    model: Model = None,
    over: Over = None,
    matte: MatteOnly = False,
    overlay: Overlay = False,
    side_by_side: SideBySide = False,
    what: What = None,
    box: InBox = None,
    point: AtPoint = None,
    segments: SegmentModel = None,
    threshold: Threshold = None,
    keep_largest: KeepLargest = False,
    fill_holes: FillHoles = False,
    grow: Grow = 0,
    shrink: Shrink = 0,
    feather: Feather = 0,
    invert: Invert = False,
    crop: Crop = False,
    margin: Margin = None,
    aspect: Aspect = None,
    shadow: Shadow = 0,
    keep_hidden: KeepHidden = False,
    form: Ending = None,
    quality: Quality = None,
    metadata: Metadata = True,
    minmax: MinMax = False,
    guided: Guided = None,
    size: NetworkSize = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    watch: Watch = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    log: Log = None,
    as_json: JsonLines = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Cut the subject out of pictures; a folder gives a folder, and a second run does what is left."""
    with told():
        if what is not None and what == ["list"]:
            if out or model or over or matte or box or point or size or minmax or guided is not None:
                raise InputError("--what list cuts nothing: leave the options of cutting out")
            raise typer.Exit(_list_labels(inputs, segments, device, precision, max_pixels))
        for name in (model, segments):  # an unknown name is told before anything else
            find_spec(name)
        if segments is not None and what is None:
            raise InputError("--segments names the model that finds what --what names: add --what LABEL")
        choice: dict[str, Any] = {
            "what": what,
            "box": _numbers("--box", box, 4, "X0,Y0,X1,Y1"),
            "point": _numbers("--point", point, 2, "X,Y"),
        }
        network_size = _parse_size(size)
        if grow and shrink:
            raise InputError("--grow and --shrink undo each other: give one of them")
        output = wanted(
            over=None if over is None else read_background(over, max_pixels),
            flags={"matte": matte, "overlay": overlay, "side-by-side": side_by_side},
            edits={
                "threshold": threshold,
                "keep_largest": keep_largest,
                "fill_holes": fill_holes,
                "grow": grow - shrink,
                "feather": feather,
                "invert": invert,
            },
            crop=crop,
            margin=margin,
            aspect=aspect,
            shadow=shadow,
            keep_hidden=keep_hidden,
            quality=quality,
            metadata=metadata,
            form=form,
            out=out,
        )
        look = functools.partial(
            make_plan,
            inputs,
            out,
            word=output.word,
            overwrite=overwrite,
            suffix=output.suffix,
            waiting=watch,
        )
        if watch and not all(Path(name).is_dir() for name in inputs):
            raise InputError("--watch waits for pictures to arrive in folders: name folders only")
        plan = look()
        output.check(plan)

        def open_model() -> Predictor:
            from decoupe.inference.predictor import open_predictor

            predictor = open_predictor(
                model,
                device=device,
                dtype=precision,
                size=network_size,
                minmax=minmax,
                guided=guided,
                segments=segments,
            )
            # An unknown label is told once, not for each picture.
            for label in what or ():
                predictor.segmenter.vocabulary.find(label)
            return predictor

        def work(predictor: Predictor, source: Path | BinaryIO, target: Path | None) -> Worked:
            matte = predictor(source, max_pixels=max_pixels, **choice)
            return [(output.bytes_of(matte, target), target)], functools.partial(describe, matte)

        _do(
            plan,
            open_model,
            work,
            done="cut",
            quiet=quiet,
            verbose=verbose,
            as_json=as_json,
            log=log,
            look=look if watch else None,
        )


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
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    log: Log = None,
    as_json: JsonLines = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say what is where in pictures: a picture with labels, and the segments as JSON beside it."""
    with told():
        find_spec(model)
        network_size = _parse_size(size)
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

            segmenter = open_segmenter(model, device=device, dtype=precision, size=network_size)
            if score is not None:
                segmenter.thresholds = Thresholds(score=score, instance=score)
            return segmenter

        def work(segmenter: Segmenter, source: Path | BinaryIO, target: Path | None) -> Worked:
            found = segmenter(source, max_pixels=max_pixels)

            def about() -> dict[str, Any]:
                height, width = found.image.shape[:2]
                return {"width": width, "height": height, "segments": len(found.read(kind))}

            return segment_files(found, form, kind, target, segmenter.runtime.name), about

        _do(plan, open_model, work, done="segmented", quiet=quiet, verbose=verbose, as_json=as_json, log=log)


@app.command()
def doctor(as_json: catalogue_commands.AsJson = False) -> None:
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


def _do(
    plan: Plan,
    open_model: Callable[[], Any],
    work: Callable[[Any, Path | BinaryIO, Path | None], Worked],
    *,
    done: str,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    log: Path | None,
    look: Callable[[], Plan] | None = None,
) -> None:
    """Tell the plan's problems, do its jobs; with ``look``, go on with what arrives until Ctrl-C.

    The model is opened where there is something to do.
    """
    if as_json and any(job.target is None for job in plan.jobs):
        raise InputError("--json is printed where the picture would go: name an output with -o")
    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

    @functools.cache
    def opened() -> Any:
        model = open_model()
        for line in (model.describe(), *model.runtime.notes) if verbose else ():
            say(line)
        return model

    failed = 0
    record = recorder(log, as_json)
    for part in [plan] if look is None else arrivals(look):
        for problem in part.problems:
            say(problem)
            if record is not None:
                record({"error": problem})
        failed += len(part.problems)
        if part.jobs:
            model = opened()
            failed += run(
                part,
                functools.partial(work, model),
                done=done,
                chosen=f"{model.runtime.name} on {model.device} in {model.dtype}",
                quiet=quiet,
                verbose=verbose,
                record=record,
            )
        elif part.skipped and not quiet:
            outdated = f", {part.outdated} of them older than their pictures" if part.outdated else ""
            say(f"{part.skipped} there already{outdated}: --overwrite does them again")
    if failed:
        raise typer.Exit(1)


def _list_labels(inputs: list[str], model: str | None, device: str, dtype: str, max_pixels: int) -> int:
    """Print what the segment model sees in each picture; the exit status."""
    from collections import Counter

    from decoupe.inference.media import find_images
    from decoupe.inference.predictor import open_segmenter
    from decoupe.weights.labels import plain

    find_spec(model)
    if "" in inputs or "-" in inputs:
        raise InputError("--what list takes files and folders: name them")
    pictures: list[Path] = []
    for name in inputs:
        found = find_images(Path(name)) if Path(name).is_dir() else [Path(name)]
        if not found:
            raise InputError(f"{name} holds no pictures: name another folder, or the files")
        pictures += found
    segmenter = open_segmenter(model, device=device, dtype=dtype)
    status = 0
    for picture in pictures:
        try:
            segments = segmenter(picture, max_pixels=max_pixels).panoptic
        except DecoupeError as error:
            say(str(error))
            status = 1
            continue
        counts = Counter(plain(segment.label) for segment in segments).most_common()
        labels = ", ".join(label if count == 1 else f"{count} {label}" for label, count in counts)
        typer.echo(printable(f"{picture}: {labels or 'nothing'}"))
    return status


def _numbers(option: str, text: str | None, count: int, form: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != count or not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise InputError(f"{option} is {text!r}, expected {form} in whole pixels")
    return tuple(int(part) for part in parts)


def _parse_size(text: str | None) -> Size | None:
    if text is None:
        return None
    if text == "native":
        return "native"
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) > 2 or not all(side.isdecimal() and len(side) < 10 for side in sides):
        raise InputError(f"--size is {text!r}, expected N, WxH or native: such as 1024 or 1440x960")
    width, height = int(sides[0]), int(sides[-1])
    return height, width
