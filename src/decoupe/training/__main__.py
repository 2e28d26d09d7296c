"""Training from the command line.

python -m decoupe.training run pocket --data SET --data SET --out runs/pocket
python -m decoupe.training export runs/pocket/weights.safetensors pocket.onnx --name pocket --half
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

import decoupe
from decoupe.errors import ConfigError, DecoupeError, unknown
from decoupe.export import export_onnx
from decoupe.training.loop import Trainer, gather
from decoupe.training.recipes import RECIPES
from decoupe.weights import load_model

app = typer.Typer(
    help="Train a model, and export what was trained.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="Name of the recipe.")],
    data: Annotated[list[Path], typer.Option(help="Folder of a set, with im/ and gt/; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; a run already there is continued.")],
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, instead of the recipe's.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads of the network.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that prepare samples.")] = 1,
    validate_every: Annotated[int, typer.Option(help="Steps between validations.")] = 1000,
) -> None:
    """Run a recipe, or go on with it where it was interrupted."""
    if recipe not in RECIPES:
        raise ConfigError(unknown("recipe", recipe, RECIPES))
    chosen = RECIPES[recipe] if steps is None else dataclasses.replace(RECIPES[recipe], steps=steps)
    if threads is not None:
        torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True  # few sizes, each for thousands of steps
    sets = gather(data, chosen)
    Trainer(chosen, sets, out, device=device, workers=workers).run(validate_every=validate_every)


@app.command()
def export(
    weights: Annotated[Path, typer.Argument(help="A weights.safetensors of a run.")],
    out: Annotated[Path, typer.Argument(help="The .onnx file to write.")],
    name: Annotated[str, typer.Option(help="Name to store in the file.")],
    licence: Annotated[str, typer.Option(help="Licence to store in the file.")] = "",
    half: Annotated[bool, typer.Option("--half", help="Store weights in half precision.")] = False,
) -> None:
    """Export trained weights as one ONNX file, checked against PyTorch."""
    loaded = load_model(weights)
    stored = {"name": name, "family": loaded.family, "licence": licence, "version": decoupe.__version__}
    report = export_onnx(
        loaded.model, out, preprocessing=loaded.preprocessing, metadata=stored, half_weights=half
    )
    for row in report:
        typer.echo(
            f"{row.shape}: differs from PyTorch by {row.largest:.1e} at most, {row.mean:.1e} on average"
        )
    typer.echo(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("onnx_ir").setLevel(logging.WARNING)
    try:
        app()
    except DecoupeError as error:
        sys.exit(f"decoupe: {error}")
