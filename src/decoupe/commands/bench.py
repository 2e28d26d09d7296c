"""``decoupe bench``: how long models take on this machine."""

from __future__ import annotations

import dataclasses
import json
import platform
import statistics
import time
from typing import Annotated

import numpy as np
import typer

from decoupe.commands.console import hush_downloads, say, told
from decoupe.commands.options import AsJson, Compile, Device, Precision, Quiet, known_models
from decoupe.commands.running import said_warnings
from decoupe.errors import DecoupeError, DownloadError, OutputError
from decoupe.inference.media import write_bytes
from decoupe.runtimes import find_spec
from decoupe.weights.registry import catalogue
from decoupe.weights.timings import Timing, timings_file, with_timing

PICTURE = 800, 1200
"""``(height, width)`` of the picture that is measured with."""


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL...]",
            help="Names or files; by default every model that is here.",
            autocompletion=known_models,
        ),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    compile: Compile = False,  # noqa: A002 - named as the option
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Pictures; the median counts.")] = 3,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure the seconds that models take here. `decoupe models` shows those of the default options."""
    with told():
        by_default = (device, precision, compile) == ("auto", "auto", False)
        hush_downloads(quiet)
        for name in names or ():  # an unknown one is told before anything else
            find_spec(name)
        measured: list[Timing] = []
        failed: list[DecoupeError] = []
        for name in names or [row.name for row in catalogue() if row.downloaded]:
            try:
                with said_warnings(quiet):
                    measured.append(_measured(name, device, precision, compile, repeats))
            except DecoupeError as error:
                say(str(error))
                failed.append(error)
                continue
            last = measured[-1]
            if not as_json:
                typer.echo(f"{name:<32} {last.seconds:>8.3f} s  {last.device} in {last.dtype}")
            if by_default:  # as they will take without options, which `decoupe models` does not tell
                _remember(last)
        if as_json:
            typer.echo(json.dumps([dataclasses.asdict(one) for one in measured]))
        if failed:
            misused = not measured and not any(isinstance(error, DownloadError) for error in failed)
            raise typer.Exit(2 if misused else 1)


def _measured(name: str, device: str, precision: str, compiled: bool, repeats: int) -> Timing:
    """The median seconds of a model, after a picture that is not counted.

    Raises:
        DecoupeError: the model cannot be opened, or cannot compute.
    """
    from decoupe.inference.predictor import load

    opened = load(name, device=device, dtype=precision, compile=compiled)
    # Steps of grey: no picture is needed, and nothing depends on what is on it.
    height, width = PICTURE
    picture = np.linspace(0, 255, height * width * 3).astype(np.uint8).reshape(height, width, 3)
    seconds = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        opened(picture)
        seconds.append(time.perf_counter() - begun)
    median = round(statistics.median(seconds[1:]), 4)
    return Timing(name, median, opened.device, opened.dtype, platform.node())


def _remember(timing: Timing) -> None:
    """Keep it for `decoupe models`; where that cannot be, it was measured and told all the same."""
    try:
        timings_file().parent.mkdir(parents=True, exist_ok=True)
        write_bytes(with_timing(timing), timings_file())
    except (OSError, OutputError) as error:
        reason = getattr(error, "strerror", None) or error
        say(f"not remembered for `decoupe models`: {timings_file().parent} cannot be written ({reason})")
