"""``decoupe train``, ``data`` and ``calibrate``: a short function each. PyTorch is imported when one runs."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from decoupe.commands.console import drawn, hush_downloads, imported, progress_bar, say, told
from decoupe.commands.options import AsJson, Overwrite, Quiet, among, known_models
from decoupe.commands.plan import check_output
from decoupe.errors import DeviceError, InputError, OutputError
from decoupe.inference.media import encode, image_format, write_bytes

Data = Annotated[
    list[Path], typer.Option("--data", metavar="DIR", help="A set's folder; several are joined.")
]
Val = Annotated[
    list[Path] | None,
    typer.Option("--val", metavar="DIR", help="A set to validate on; else part of the data is held out."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: batch_size=8; dots reach inside."),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="MODEL",
        help="Checkpoint to begin from: a name, a file or a hub id.",
        autocompletion=known_models,
    ),
]
Backgrounds = Annotated[Path | None, typer.Option(metavar="DIR", help="Photographs to set subjects on.")]
Sets = Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of sets.")]


def known_recipes(beginning: str) -> list[str]:
    """Names of recipes, where PyTorch is installed, which takes a second to load."""
    with contextlib.suppress(ImportError):
        from decoupe.training.recipes import RECIPES

        return among(RECIPES)(beginning)
    return []


data_app = typer.Typer(
    help="Look at training data before you pay for a GPU.", no_args_is_help=True, rich_markup_mode=None
)


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="Name of a recipe (see --list), or a .yaml file.",
            autocompletion=known_recipes,
        ),
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option("--data", metavar="DIR", help="A set's folder; several are joined.")
    ] = None,
    val: Val = None,
    settings: Set = None,
    start: From = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Folder of the run; else runs/RECIPE.")
    ] = None,
    backgrounds: Backgrounds = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="Processes that prepare samples.")] = 2,
    minutes: Annotated[
        float | None, typer.Option(min=0, metavar="M", help="Stop after M minutes; the same command goes on.")
    ] = None,
    show: Annotated[bool, typer.Option("--print", help="Only print the recipe, as YAML.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Only list the recipes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print how it ended as a line of JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a model, or go on where training stopped. The same command does both."""
    with told():
        hush_downloads(quiet)
        recipes = _training("recipes")
        if as_json and (listed or show):
            raise InputError("--json tells how a run ended: leave it out with --list and --print")
        if listed:
            for name, one in recipes.RECIPES.items():
                typer.echo(f"{name:<28} {one.about}")
            return
        if recipe is None:
            raise InputError("which recipe? decoupe train --list names them")
        for folder in () if show else (*(data or ()), *(val or ())):  # before a checkpoint is fetched
            _check_set(folder)
        chosen = recipes.read_recipe(recipe, settings or (), start=start)
        if show:
            typer.echo(chosen.yaml(), nl=False)
            return
        if not data:
            raise InputError("training needs data: --data DIR, a folder with im/ and gt/")
        out = out or Path("runs") / Path(recipe).stem
        if out.exists() and not out.is_dir():
            raise OutputError(f"{out} is a file: name a folder for the run with -o")
        _run(chosen, data, val or [], out, backgrounds, device, workers, minutes, as_json, quiet)


def _check_set(folder: Path) -> None:
    """Refuse, at first glance, what holds nothing to train on."""
    from decoupe.datasets.segment_sets import is_segment_set
    from decoupe.datasets.sets import is_matte_set, pairing

    if not folder.exists():
        raise InputError(f"{folder} does not exist: expected a folder of pairs, or a .tar")
    if not (is_matte_set(folder) or is_segment_set(folder)):
        pairing(folder)  # which says what is missing


def _run(
    recipe: Any,
    data: list[Path],
    val: list[Path],
    out: Path,
    backgrounds: Path | None,
    device: str,
    workers: int,
    minutes: float | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train, and tell how it ended."""
    import torch

    loop = _training("loop")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not quiet:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        logging.getLogger().setLevel(logging.WARNING)
        logging.getLogger("decoupe").setLevel(logging.INFO)
    trainer = loop.train(
        recipe,
        data,
        val,
        out,
        device=device,
        workers=workers,
        backgrounds=backgrounds,
        bar=drawn(quiet),
        tell=(lambda line: None) if quiet else say,
    )
    main = trainer.accelerator.is_main_process
    if main and not quiet:
        count, held_out = sum(trainer.task.repeats), sum(trainer.task.held_out.values())
        say(
            f"{out}: step {trainer.progress.step} of {trainer.steps}, {count} pictures an epoch, "
            f"{held_out} held out, {trainer.accelerator.num_processes} × {trainer.device}"
        )
    try:
        ending = trainer.run(minutes=float("inf") if minutes is None else minutes)
    except (loop.Diverged, DeviceError, OutputError, InputError) as error:
        say(str(error))
        if main and as_json:
            typer.echo(json.dumps({"folder": str(out), "error": str(error)}))
        raise typer.Exit(1) from None
    steps, score = trainer.steps, trainer.progress.best
    trainer.close()
    if main:
        _tell(ending, recipe, out, steps, score, as_json, quiet)


def _tell(
    ending: Any, recipe: Any, out: Path, steps: int, score: float | None, as_json: bool, quiet: bool
) -> None:
    """Say how a run ended, and what is to be typed next.

    Raises:
        typer.Exit: a signal ended it.
    """
    interrupted = ending.why == "interrupted"
    best = out / ("last.safetensors" if score is None else "best.safetensors")
    if as_json:
        about = {"folder": str(out), "ended": ending.why, "step": ending.step, "steps": steps, "score": score}
        typer.echo(json.dumps({**about, "weights": str(best) if best.exists() else None}))
    if interrupted:
        say(f"stopped at step {ending.step} of {steps}; saved in {out}: the same command goes on from there")
        if ending.signal:
            raise typer.Exit(128 + ending.signal)
        return
    early = f", no better for {recipe.patience} validations" if ending.why == "stopped early" else ""
    if not quiet:
        command = "segment" if recipe.family == "maskformer" else "cut"
        say(f"done at step {ending.step}{early}: decoupe {command} -m {best} photo.jpg")
    if not as_json:
        typer.echo(best)


def calibrate(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="Recipe that the model was trained by.", autocompletion=known_recipes
        ),
    ],
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A name in the catalogue, a file, a hub id.", autocompletion=known_models
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")],
    data: Data,
    most: Annotated[int, typer.Option(min=1, metavar="N", help="Pairs to look at, evenly chosen.")] = 200,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Fit a model's alpha to pairs that it was trained on. Two numbers scale and shift its logits."""
    with told():
        if out.suffix != ".safetensors":
            raise InputError(f"{out} ends in {out.suffix or 'nothing'}, expected .safetensors: rename it")
        check_output(out, overwrite)
        import decoupe
        from decoupe.weights import load_model
        from decoupe.weights.checkpoint import licence_of, save_model

        calibration = _training("calibration")
        chosen = _training("recipes").read_recipe(recipe)
        loaded = load_model(model)
        calibration.calibrate(loaded.model, calibration.Calibration(1, 0))  # told now that it cannot be
        if "recipe" in loaded.extra:
            chosen = calibration.as_trained(chosen, loaded.extra["recipe"])
        else:
            say(f"{model} does not tell which pairs its run held out: those of {recipe} are left alone")
        pairs = calibration.chosen_pairs(chosen, data, most=most)
        with progress_bar(len(pairs), drawn=drawn(False)) as advance:
            pictures = calibration.seen(decoupe.load(model), chosen, pairs, advance)
        found = calibration.fit(pictures)
        calibration.calibrate(loaded.model, found)
        save_model(
            loaded.model,
            out,
            family=loaded.family,
            preprocessing=loaded.preprocessing,
            licence=licence_of(model, loaded),
            extra={name: value for name, value in loaded.extra.items() if name != "scores"},  # others now
        )
        if calibration.is_at_edge(found):
            say(
                f"scale {found.scale:g} and shift {found.shift:g} are at the edge of what is tried: "
                "a model so far off gains more by longer training"
            )
        if as_json:
            about = {"source": model, "target": str(out), "scale": found.scale, "shift": found.shift}
            typer.echo(json.dumps(about))
            return
        say(f"logits are scaled by {found.scale:g} and shifted by {found.shift:g}")
        typer.echo(out)


@data_app.command()
def check(
    folders: Sets,
    val: Val = None,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes that read.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with training data, and where: pairs, sizes, masks, files, duplicates."""
    with told():
        report = _training("check").check(folders, val or (), workers=workers)
        for line in [json.dumps(report.about())] if as_json else report.lines():
            typer.echo(line)
        if not report.ok:
            raise typer.Exit(1)


@data_app.command()
def preview(
    folders: Sets,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The picture to write.")] = Path(
        "preview.png"
    ),
    recipe: Annotated[
        str,
        typer.Option(
            metavar="RECIPE", help="Recipe whose augmentation is shown.", autocompletion=known_recipes
        ),
    ] = "birefnet-general",
    settings: Set = None,
    count: Annotated[int, typer.Option(min=1, max=200, metavar="N", help="Samples to show.")] = 24,
    backgrounds: Backgrounds = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a contact sheet of augmented samples, as the recipe's training would see them."""
    with told():
        check_output(out, overwrite)
        image_format(out.suffix)  # told now, not after the samples are drawn
        chosen = _training("recipes").read_recipe(recipe, settings or ())
        for note in _training("tasks").check_backgrounds(chosen, backgrounds):
            say(note)
        sheet = _training("preview").preview(chosen, folders, count=count, backgrounds=backgrounds)
        write_bytes(encode(sheet, out.suffix), out)
        typer.echo(out)


def _training(part: str) -> Any:
    """A module of `decoupe.training`."""
    return imported(f"decoupe.training.{part}", "decoupe train", "train")
