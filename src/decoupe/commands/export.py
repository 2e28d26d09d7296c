"""``decoupe export``: a model as one file that runs without PyTorch."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decoupe.commands.console import imported, say, told
from decoupe.commands.options import Overwrite, among, known_models
from decoupe.commands.plan import check_output
from decoupe.commands.running import said_warnings
from decoupe.errors import InputError, OutputError
from decoupe.weights.registry import SEGMENT_FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from decoupe.export.parity import Parity


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A name in the catalogue, a file, a hub id.", autocompletion=known_models
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The file to write: .onnx, .xml for OpenVINO, or .pt2.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name to store; by default the file's.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="NAME", help="Licence to store; by default the model's.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in half precision.")] = False,
    deform: Annotated[
        str,
        typer.Option(
            metavar="FORM",
            help="Deformable convolutions: onnx for DeformConv, or gather.",
            autocompletion=among(("onnx", "gather")),
        ),
    ] = "onnx",
    pixels: Annotated[
        bool,
        typer.Option(
            "--with-preprocessing", help="Take uint8 pictures of any size, and give alpha at that size."
        ),
    ] = False,
    int8: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Quantise to 8 bits, calibrated on the photographs of this folder."),
    ] = None,
    most_lost: Annotated[
        float | None,
        typer.Option(metavar="X", help="Most that --int8 may change the S-measure or alpha; default 0.005."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Keep a file whose numbers differ.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a model as one file that runs without PyTorch. It is checked against PyTorch first."""
    with told():
        _check_options(out, half, deform, pixels, int8, most_lost)
        for file in _written(out):
            check_output(file, overwrite)
            if file.exists() and Path(model).exists() and file.samefile(model):
                raise OutputError(f"{file} is the model that is read: name another output")
        imported("decoupe.export", "decoupe export", "export")
        from decoupe import __version__
        from decoupe.export import check_deform, export_onnx, once
        from decoupe.export.openvino_file import export_openvino
        from decoupe.export.program_file import export_program
        from decoupe.weights import load_model
        from decoupe.weights.checkpoint import licence_of

        # Before a download, and work that takes minutes.
        check_deform(deform)
        if int8 is not None:
            from decoupe.export.quantization import parts_of

            parts_of(int8)
        loaded = load_model(model)
        if int8 is not None and loaded.family in SEGMENT_FAMILIES:
            raise InputError(f"{model} gives segments, --int8 is for models that give mattes: leave it out")
        stored = {
            "name": name or out.stem,
            "family": loaded.family,
            "licence": licence_of(model, loaded) if licence is None else licence,
            "version": __version__,
        }
        options: dict[str, Any] = {
            # Ranges of activations are taken from one look: that is what the file will do.
            "preprocessing": loaded.preprocessing if int8 is None else once(loaded.preprocessing),
            "metadata": stored,
            "vocabulary": loaded.vocabulary,
            "force": force,
        }
        kind = out.suffix.lower()
        if kind == ".pt2":
            report = export_program(loaded.model, out, **options)
        elif kind == ".xml":
            report = export_openvino(loaded.model, out, half_weights=half, **options)
        else:
            most = 0.005 if most_lost is None else most_lost
            options |= {"half_weights": half, "deform": deform, "pixels": pixels}

            def write(path: Path) -> list[Parity]:
                return export_onnx(loaded.model, path, **options)

            report = write(out) if int8 is None else _in_8_bits(write, out, int8, most)
        tell(report)
        typer.echo(out)


def _written(out: Path) -> tuple[Path, ...]:
    """The files of an export."""
    return (out, out.with_suffix(".bin")) if out.suffix.lower() == ".xml" else (out,)


def _check_options(
    out: Path, half: bool, deform: str, pixels: bool, int8: Path | None, most_lost: float | None
) -> None:
    """Raise InputError for options that the kind of file does not have, or that exclude each other."""
    kind = out.suffix.lower()
    if kind not in (".onnx", ".xml", ".pt2"):
        raise InputError(f"{out} ends in {out.suffix or 'nothing'}, expected .onnx, .xml or .pt2: rename it")
    if kind != ".onnx" and (pixels or int8 is not None or deform != "onnx"):
        raise InputError("--with-preprocessing, --int8 and --deform are for .onnx files alone")
    if kind == ".pt2" and half:
        raise InputError("--half is for .onnx and .xml files: leave it out")
    if int8 is not None and (half or pixels):
        raise InputError("--int8 excludes --half and --with-preprocessing: leave them out")
    if int8 is not None and not int8.is_dir():
        raise InputError(f"--int8 {int8} is not a folder: name one that holds photographs")
    if int8 is None and most_lost is not None:
        raise InputError("--most-lost goes with --int8: add --int8, or leave --most-lost out")
    if most_lost is not None and not 0 <= most_lost <= 1:
        raise InputError(f"--most-lost is {most_lost}, expected a number from 0 to 1")


def _in_8_bits(
    write: Callable[[Path], list[Parity]], out: Path, photographs: Path, most: float
) -> list[Parity]:
    """Quantise a temporary file in floats; how far that one is from PyTorch."""
    from decoupe.export.quantization import quantise

    with tempfile.TemporaryDirectory() as folder, said_warnings():
        floats = Path(folder, out.name)
        report = write(floats)
        effect = quantise(floats, out, photographs, most=most)
    told = f"in 8 bits, on {effect.pictures} photographs: alpha differs by {effect.alpha:.4f} on average"
    if effect.before is not None and effect.after is not None:
        told += "".join(
            f", {name} {effect.before[name]:.4f} → {effect.after[name]:.4f}" for name in effect.before
        )
    say(told)
    return report


def tell(report: Iterable[Parity]) -> None:
    """A line for each shape that was compared, and the verdict."""
    from decoupe.export.parity import PARITY

    rows = list(report)
    for row in rows:
        what = "with weights in half precision it " if row.rounded else ""
        say(
            f"{'×'.join(map(str, row.shape))}: {what}differs from PyTorch in float64 "
            f"by {row.largest:.1e} of the spread at most, {row.mean:.1e} on average"
        )
    verdict = "equal" if all(row.agrees for row in rows) else "not equal, kept by --force"
    line = f"{verdict}: at most {PARITY:g} of the spread is right"
    if any(row.rounded for row in rows):
        line = f"before the weights were rounded {line}; what rounding changes is told and not judged"
    say(line)
