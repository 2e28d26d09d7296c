"""Options that commands share, each with the help that a user reads; a command's options as a dataclass."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from decoupe.errors import ConfigError, InputError
from decoupe.inference.edits import FARTHEST, Edits
from decoupe.inference.preprocess import Size
from decoupe.runtimes import DTYPES
from decoupe.weights.own import own_models
from decoupe.weights.registry import CATALOGUE, IMAGENET_MEAN, IMAGENET_STD, Preprocessing

Options = TypeVar("Options")
Three = tuple[float, float, float]


def taking(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """A function of one dataclass as a command whose arguments and options are the dataclass's fields."""

    def decorate(function: Callable[[Options], None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            function(options(**given))

        hints = get_type_hints(options, include_extras=True)
        fields = inspect.signature(options).parameters.values()
        parameters = [field.replace(annotation=hints[field.name]) for field in fields]
        # Typer reads a function's parameters from these.
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = hints
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        return command

    return decorate


def in_sections(sections: Mapping[str, str]) -> type[TyperCommand]:
    """The kind of a command whose help lists its options in sections.

    Args:
        sections: their titles, by the name of the first parameter of each; what comes before is "Options".
    """

    class InSections(TyperCommand):
        def format_options(self, ctx: Any, formatter: Any) -> None:
            title, lists = "Options", dict[str, list[tuple[str, str]]]()
            for param in self.get_params(ctx):
                title = sections.get(param.name or "", title)
                record = param.get_help_record(ctx)
                if record is not None:
                    place = "Arguments" if param.param_type_name == "argument" else title
                    lists.setdefault(place, []).append(record)
            for place, records in lists.items():
                with formatter.section(place):
                    formatter.write_dl(records)

    return InSections


def known_models(beginning: str) -> list[str]:
    """Names of models for a shell to complete; uses no network."""
    own: Iterable[str] = ()
    with contextlib.suppress(ConfigError):  # a command says what is wrong, in a prompt there is no room
        own = own_models()
    return [name for name in (*CATALOGUE, *own) if name.startswith(beginning)]


def among(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Names for a shell to complete, likewise."""

    def known(beginning: str) -> list[str]:
        return [name for name in names if name.startswith(beginning)]

    return known


def parse_numbers(option: str, text: str | None, count: int, form: str) -> tuple[int, ...] | None:
    """Whole pixels such as ``10,20``.

    Raises:
        InputError: something else.
    """
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != count or not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise InputError(f"{option} is {text!r}, expected {form} in whole pixels")
    return tuple(int(part) for part in parts)


def parse_size(text: str | None) -> Size | None:
    """A network size: ``1024``, ``1440x960`` (width first) or ``native``.

    Raises:
        InputError: something else.
    """
    if text is None:
        return None
    if text == "native":
        return "native"
    sides = parse_sides(text)
    if sides is None:
        raise InputError(f"--size is {text!r}, expected N, WxH or native: such as 1024 or 1440x960")
    return sides


def parse_sides(text: str) -> tuple[int, int] | None:
    """``(height, width)`` of ``1440x960``, width first, or of ``1024`` for both; else None."""
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) > 2 or not all(side.isdecimal() and len(side) < 10 for side in sides):
        return None
    return int(sides[-1]), int(sides[0])


def parse_feeding(size: str | None, mean: str | None, std: str | None) -> Preprocessing | None:
    """The preprocessing that ``--input-size``, ``--mean`` and ``--std`` ask for; None without them.

    Raises:
        InputError: one that is not understood, or numbers without a size.
    """
    if size is None:
        if mean is None and std is None:
            return None
        raise InputError("--mean and --std go with a size: add --input-size N, the side of the model's input")
    sides = parse_sides(size)
    if sides is None or min(sides) < 1:
        raise InputError(f"--input-size is {size!r}, expected N or WxH: such as 320 or 640x480")
    values = _three("--mean", mean, IMAGENET_MEAN), _three("--std", std, IMAGENET_STD)
    if min(values[1]) <= 0:
        raise InputError(f"--std is {std!r}, expected numbers above 0")
    return Preprocessing(sides, "stretch", (1, 4 * max(sides)), 1, *values)


def _three(option: str, text: str | None, default: Three) -> Three:
    """Three numbers such as ``0.5,0.5,0.5``, or one for all."""
    if text is None:
        return default
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        raise InputError(f"{option} is {text!r}, expected three numbers: such as 0.485,0.456,0.406")
    red, green, blue = numbers * (3 // len(numbers))
    return red, green, blue


def parse_edits(options: Any) -> dict[str, Any]:
    """The changes of the matte that a command's options ask for, as `Edits` names them.

    Raises:
        InputError: values out of range, or that undo each other.
    """
    for option in ("grow", "shrink"):
        if (pixels := getattr(options, option)) > FARTHEST:
            raise InputError(f"--{option} is {pixels}, expected at most {FARTHEST} pixels")
    if options.grow and options.shrink:
        raise InputError("--grow and --shrink undo each other: give one of them")
    asked = {edit.name: getattr(options, edit.name) for edit in fields(Edits)}
    asked["grow"] = options.grow - options.shrink
    changes = {name: value for name, value in asked.items() if value != getattr(Edits(), name)}
    Edits(**changes)
    return changes


Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT", help="Pictures, folders, patterns, or - for standard input.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        metavar="MODEL",
        help="Name (see `decoupe models`), .onnx, .xml, .pt2, .safetensors or .pth file.",
        autocompletion=known_models,
    ),
]
NetworkSize = Annotated[
    str | None, typer.Option(metavar="N|WxH|native", help="Size at which the model sees the picture.")
]
Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:1 or mps.",
        autocompletion=among(("auto", "cpu", "cuda", "mps")),
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="DTYPE",
        help="auto, float32, bfloat16 or float16.",
        autocompletion=among(("auto", *DTYPES)),
    ),
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile the model, which takes minutes; faster from then on, on CUDA."),
]
Memory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Most memory to use, such as 4GB; by default most of what is free."),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Open a .pt2 file, which can run any code that its maker put in.")
]
InputSize = Annotated[
    str | None,
    typer.Option(metavar="N|WxH", help="Input size of a file that decoupe did not write."),
]
Mean = Annotated[
    str | None, typer.Option(metavar="R,G,B", help="Mean to subtract from its input, which is 0 to 1.")
]
Std = Annotated[str | None, typer.Option(metavar="R,G,B", help="Standard deviation to divide by.")]
Threshold = Annotated[
    float | None, typer.Option(metavar="T", help="Make the edge hard: alpha from T, 0 to 1, is subject.")
]
KeepLargest = Annotated[bool, typer.Option("--keep-largest", help="Keep only the largest connected part.")]
FillHoles = Annotated[bool, typer.Option("--fill-holes", help="Fill holes: keep what the subject encloses.")]
Grow = Annotated[int, typer.Option(min=0, metavar="N", help="Make the subject N pixels larger all around.")]
Shrink = Annotated[int, typer.Option(min=0, metavar="N", help="Make it N pixels smaller.")]
Feather = Annotated[float, typer.Option(metavar="S", help="Soften its edge by S pixels.")]
Invert = Annotated[bool, typer.Option("--invert", help="Cut the background instead.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
MaxPixels = Annotated[int, typer.Option(min=1, metavar="N", help="Largest width × height to open.")]
Log = Annotated[
    Path | None,
    typer.Option("--log", metavar="FILE", help="Add a line of JSON about each picture to this file."),
]
JsonLines = Annotated[
    bool, typer.Option("--json", help="Print a line of JSON about each picture on standard output.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print only errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Name the model and each output.")]
