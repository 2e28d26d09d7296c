"""``python -m decoupe.training pocket --data SET … --out runs/pocket``: run a recipe, or go on with it."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from decoupe.errors import ConfigError, DecoupeError, unknown
from decoupe.training.loop import Trainer, gather
from decoupe.training.recipes import RECIPES


def train(
    recipe: Annotated[str, typer.Argument(help="name of the recipe")],
    data: Annotated[list[Path], typer.Option(help="folder of a set, with im/ and gt/; may be repeated")],
    out: Annotated[Path, typer.Option(help="folder of the run; a run already there is continued")],
    steps: Annotated[int | None, typer.Option(help="optimiser steps, instead of the recipe's")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads of the network")] = None,
) -> None:
    """Run a training recipe, or go on with it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if recipe not in RECIPES:
        raise ConfigError(unknown("recipe", recipe, RECIPES))
    chosen = RECIPES[recipe] if steps is None else dataclasses.replace(RECIPES[recipe], steps=steps)
    if threads is not None:
        torch.set_num_threads(threads)
    Trainer(chosen, gather(data, chosen), out, device=device).run()


if __name__ == "__main__":
    try:
        typer.run(train)
    except DecoupeError as error:
        sys.exit(f"decoupe: {error}")
