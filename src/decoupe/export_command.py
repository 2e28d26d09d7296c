"""``decoupe export``: a model as one file that runs without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decoupe.console import say, told
from decoupe.errors import InputError
from decoupe.options import known_models
from decoupe.weights.registry import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from decoupe.export.parity import Parity


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A name of the catalogue, a file, a hub id.", autocompletion=known_models
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The file to write: .onnx, or .xml for OpenVINO.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name to store; else that of the file.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="NAME", help="Licence to store; else the catalogue's.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in half precision.")] = False,
    deform: Annotated[
        str, typer.Option(metavar="FORM", help="Deformable convolutions: gather, or onnx for DeformConv.")
    ] = "gather",
    pixels: Annotated[
        bool,
        typer.Option(
            "--with-preprocessing", help="Take uint8 pictures of any size, and give alpha at that size."
        ),
    ] = False,
    fuse: Annotated[
        bool, typer.Option("--fuse/--no-fuse", help="Merge layers, or keep weights by their names.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Keep a file whose numbers differ.")] = False,
) -> None:
    """Write a model as one file that runs without PyTorch, checked against PyTorch first."""
    with told():
        if out.suffix not in (".onnx", ".xml"):
            raise InputError(f"{out} ends in {out.suffix or 'nothing'}, expected .onnx or .xml: rename it")
        from decoupe import __version__
        from decoupe.export import export_onnx
        from decoupe.export.openvino_file import export_openvino
        from decoupe.weights import load_model

        loaded = load_model(model)
        known = CATALOGUE[model].licence if model in CATALOGUE else ""
        stored = {
            "name": name or out.stem,
            "family": loaded.family,
            "licence": known if licence is None else licence,
            "version": __version__,
        }
        options: dict[str, Any] = {
            "preprocessing": loaded.preprocessing,
            "metadata": stored,
            "vocabulary": loaded.vocabulary,
            "half_weights": half,
            "fuse": fuse,
            "force": force,
        }
        if out.suffix == ".xml":
            if pixels or deform != "gather":
                raise InputError("--with-preprocessing and --deform are for .onnx files: leave them out")
            report = export_openvino(loaded.model, out, **options)
        else:
            report = export_onnx(loaded.model, out, deform=deform, pixels=pixels, **options)
        tell(report)
        typer.echo(out)


def tell(report: Iterable[Parity]) -> None:
    """A line for each shape that was compared, and the verdict."""
    from decoupe.export.parity import PARITY

    rows = list(report)
    for row in rows:
        what = "with weights in half precision it " if row.rounded else ""
        say(
            f"{'×'.join(map(str, row.shape))}: {what}differs from PyTorch by {row.largest:.1e} of the spread "
            f"at most, {row.mean:.1e} on average"
        )
    verdict = "equal" if all(row.agrees for row in rows) else "not equal, kept by --force"
    say(f"{verdict}: at most {PARITY:g} of the spread is right")
