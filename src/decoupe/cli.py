"""The command line: one short function per command.

Pictures and paths go to standard output, everything said about them to standard error. Exit status 0: done;
1: some inputs failed, each named in one line, the rest done; 2: wrong usage, nothing done. Rich is imported
where something is drawn, so that ``decoupe cut photo.jpg`` starts quickly.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

import decoupe
from decoupe.errors import DecoupeError, DownloadError, InputError, OutputError
from decoupe.inference.media import encode, write_bytes
from decoupe.inference.preprocess import MAX_PIXELS, Size
from decoupe.plan import Plan, check_formats, make_plan
from decoupe.runtimes import find_spec

if TYPE_CHECKING:
    from decoupe.inference.predictor import Predictor
    from decoupe.inference.results import Background, Matte

Render = Callable[["Matte", str], bytes]
"""What is written of a matte, as the bytes of a file with the given ending."""

app = typer.Typer(
    help="Cut the subject out of any picture, down to the hair.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
NetworkSize = Annotated[
    str | None, typer.Option(metavar="N|WxH|native", help="Size at which the model sees the picture.")
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")]
Precision = Annotated[str, typer.Option(metavar="DTYPE", help="auto, float32, bfloat16 or float16.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
MaxPixels = Annotated[int, typer.Option(min=1, metavar="N", help="Largest width × height to open.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Name the model and each output.")]


def main() -> None:
    """The ``decoupe`` command."""
    app()


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
    size: NetworkSize = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Cut the subject out of pictures; a folder gives a folder, and a second run does what is left."""
    with _told():
        find_spec(model)  # an unknown name is told before anything else
        network_size = _parse_size(size)
        render = _renderer(over, matte, max_pixels)
        plan = make_plan(inputs, out, word="matte" if matte else "cut", overwrite=overwrite)
        check_formats(plan, flat=matte or over is not None)
        for problem in plan.problems:
            _say(problem)
        failed = len(plan.problems)
        if plan.jobs:
            if quiet:
                os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
            predictor = decoupe.load(model, device=device, dtype=precision, size=network_size)
            for line in (predictor.describe(), *predictor.runtime.notes) if verbose else ():
                _say(line)
            failed += _run(plan, predictor, render, max_pixels, quiet, verbose)
        elif plan.skipped and not quiet:
            outdated = f", {plan.outdated} of them older than their pictures" if plan.outdated else ""
            _say(f"{plan.skipped} there already{outdated}: --overwrite does them again")
        if failed:
            raise typer.Exit(1)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Tell everything about one.")] = None,
) -> None:
    """List the models: what each is for, at which sizes, under which licence, and which are here."""
    with _told():
        _describe_model(name) if name is not None else _list_models()


@app.command()
def get(name: Annotated[str, typer.Argument(metavar="NAME", help="See `decoupe models`.")]) -> None:
    """Download a model and verify it; its path is printed."""
    from decoupe.weights import download, registry

    with _told():
        typer.echo(download.fetch(registry.spec(name)))


@app.command()
def doctor() -> None:
    """Check what works here: versions, devices, cache, extras, the default model."""
    from decoupe import doctor as checks

    with _told():
        healthy = True
        for check in checks.examine():
            healthy &= check.ok
            typer.echo(f"{'  ' if check.ok else '! '}{check.name:<{checks.WIDTH}} {check.finding}")
        if not healthy:
            raise typer.Exit(1)


def _renderer(over: str | None, matte: bool, max_pixels: int) -> Render:
    """What the options ask for; a background that cannot be used is refused before the first picture."""
    if matte and over is not None:
        raise InputError("--matte and --over exclude each other: give one of them")
    if matte:
        return lambda result, suffix: encode(result.mask(), suffix)
    if over is None:
        return lambda result, suffix: result.encode(suffix)
    import numpy as np

    from decoupe.inference.preprocess import read_image
    from decoupe.inference.results import Matte

    background: Background = read_image(over, max_pixels) if Path(over).is_file() else over
    Matte(np.zeros((1, 1), np.float32), np.zeros((1, 1, 3), np.uint8)).over(background)
    return lambda result, suffix: encode(result.over(background), suffix)


def _parse_size(text: str | None) -> Size | None:
    if text is None:
        return None
    if text == "native":
        return "native"
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise InputError(f"--size is {text!r}, expected N, WxH or native: such as 1024 or 1440x960")
    width, height = int(sides[0]), int(sides[-1])
    return height, width


def _run(
    plan: Plan, predictor: Predictor, render: Render, max_pixels: int, quiet: bool, verbose: bool
) -> int:
    """Do the plan's jobs; how many failed."""
    failed = 0
    chosen = f"{predictor.runtime.name} on {predictor.device} in {predictor.dtype}"
    drawn = len(plan.jobs) > 1 and not quiet and sys.stderr is not None and sys.stderr.isatty()
    with _progress(len(plan.jobs), drawn) as advance, warnings.catch_warnings():
        warnings.simplefilter("always", decoupe.SizeWarning)
        warnings.showwarning = lambda message, *_: None if quiet else _say(str(message))
        for job in plan.jobs:
            try:
                source = _opened(sys.stdin, "input").buffer if job.source is None else job.source
                result = predictor(source, max_pixels=max_pixels)
                data = render(result, job.target.suffix if job.target is not None else ".png")
                _write(data, job.target, plan.several)
                if job.target is not None and (verbose or not (quiet or plan.several)):
                    _say(f"wrote {job.target} ({chosen})")
            except DecoupeError as error:
                failed += 1
                told = str(error)
                named = str(job.source) in told or str(job.target) in told
                _say(told if named or not plan.several else f"{job.source}: {told}")
            advance()
    if plan.several and not quiet:
        counts = {
            "cut": len(plan.jobs) - failed,
            "there already": plan.skipped,
            "of them older than their pictures": plan.outdated,
            "failed": failed + len(plan.problems),
        }
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        _say(f"{told}; {chosen}")
    return failed


def _write(data: bytes, target: Path | None, make_folders: bool) -> None:
    if target is None:
        stream = _opened(sys.stdout, "output").buffer
        stream.write(data)
        stream.flush()
        return
    if make_folders:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot make the folder {target.parent} ({error.strerror}): name another with -o"
            ) from error
    write_bytes(data, target)


def _opened(stream: TextIO | None, name: str) -> TextIO:
    """A standard stream, which is None where the process was started without it."""
    if stream is None:
        raise InputError(f"standard {name} is closed: name a file instead of -")
    return stream


@contextlib.contextmanager
def _progress(total: int, drawn: bool) -> Iterator[Callable[[], None]]:
    """A bar on standard error with the rate and the time left; yields what to call after each picture."""
    if not drawn:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(elapsed_when_finished=True))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total, rate="")
        begun = time.perf_counter()

        def advance() -> None:
            done = progress.tasks[task].completed + 1
            progress.update(task, advance=1, rate=f"{done / (time.perf_counter() - begun):.1f}/s")

        yield advance


def _list_models() -> None:
    from rich.console import Console
    from rich.table import Table

    from decoupe.weights.registry import catalogue

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("name", "for", "size", "sides", "MB", "licence", "commercial", "here"):
        table.add_column(title, justify="right" if title == "MB" else "left", no_wrap=title != "for")
    for row in catalogue():
        height, width = row.size
        sides = f"{row.size_range[0]}–{row.size_range[1]}"
        licence = row.licence.partition(" (")[0]
        facts = ("yes" if fact else "no" for fact in (row.commercial, row.downloaded))
        table.add_row(row.name, row.task, f"{width}×{height}", sides, f"{row.megabytes:.0f}", licence, *facts)
    # A pipe has no width to fit into.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _describe_model(name: str) -> None:
    from decoupe.weights import download, registry

    spec = registry.spec(name)
    height, width = spec.preprocessing.size
    least, largest = spec.preprocessing.size_range
    path = download.cached_path(spec)
    facts = {
        "name": spec.name,
        "for": spec.task,
        "family": f"{spec.family}, backbone {spec.backbone}" if spec.backbone else spec.family,
        "size": f"{width}×{height}, works from {least} to {largest} pixels a side",
        "pictures": "stretched" if spec.preprocessing.fit == "stretch" else "keep their aspect ratio",
        "licence": spec.licence + ("" if spec.commercial else "; not for commercial use"),
        "file": f"{spec.file}, {spec.megabytes:.0f} MB",
        "from": f"https://huggingface.co/{spec.repo}/tree/{spec.revision}" if spec.repo else "the package",
        "sha256": spec.sha256 or "as the hub announces it",
        "here": path or f"no: decoupe get {spec.name}",
    }
    for key, value in facts.items():
        typer.echo(f"{key:<9} {value}")


def _say(line: str) -> None:
    # File names may hold line breaks, and sequences that terminals obey.
    printable = (mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in line)
    typer.echo(f"decoupe: {''.join(printable)}", err=True)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What decoupe raises, as one line and an exit status; Ctrl-C and a closed pipe end quietly."""
    try:
        yield
    except DecoupeError as error:
        _say(str(error))
        raise typer.Exit(1 if isinstance(error, DownloadError) else 2) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            # What is left in the buffer has nowhere to go: without this the interpreter complains as it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(141) from None
    except OSError as error:
        _say(f"{error.filename or 'standard output'}: {error.strerror}" if error.strerror else str(error))
        raise typer.Exit(1) from None
