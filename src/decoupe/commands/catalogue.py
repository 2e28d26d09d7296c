"""``decoupe models``, ``get`` and ``cache``: which models there are, which are here, and what they take."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decoupe.commands.console import hush_downloads, say, told
from decoupe.commands.options import AsJson, Quiet, among, known_models
from decoupe.errors import InputError
from decoupe.weights.registry import SUITED

if TYPE_CHECKING:
    from decoupe.weights.registry import CatalogueRow, ModelSpec

cache_app = typer.Typer(
    help="List and delete downloaded models.", no_args_is_help=True, rich_markup_mode=None
)


def models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Describe one model.", autocompletion=known_models),
    ] = None,
    need: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="NEED",
            help="Only models that suit a need, the best first: hair, products, …",
            autocompletion=among(SUITED),
        ),
    ] = None,
    commercial: Annotated[
        bool, typer.Option("--commercial", help="Only models whose licence allows commercial use.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the models. What each is for, at which sizes, under which licence, and which are here."""
    from decoupe.weights import registry
    from decoupe.weights.own import own_models

    with told():
        if name is not None:
            if commercial or need is not None:
                raise InputError("--for and --commercial choose among all models: leave the name out")
            _tell_one(name, as_json)
            return
        rows = registry.catalogue() if need is None else registry.suited(need)
        rows = [row for row in rows if row.commercial or not commercial]
        mine = own_models() if need is None and not commercial else {}  # of which neither is known
        if as_json:
            told_of = [_about_own(own, file) for own, file in mine.items()]
            typer.echo(json.dumps([*map(dataclasses.asdict, rows), *told_of]))
        else:
            _table(rows)
            for own, file in mine.items():
                typer.echo(f"{own}  your own: {file}{'' if file.exists() else ', which does not exist'}")


def get(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="See `decoupe models`.", autocompletion=known_models)
    ],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Download a model and verify it. Its path is printed."""
    from decoupe.weights import download, located

    with told():
        hush_downloads(quiet)
        path = found if isinstance(found := located(name), Path) else download.fetch(found)
        if Path(name).exists() and not quiet:
            say(f"{name} is here already: give it where a model's name goes")
        typer.echo(json.dumps({"name": name, "path": str(path)}) if as_json else path)


@cache_app.command("list")
def list_cache(as_json: AsJson = False) -> None:
    """List the downloaded models, what each takes, and where it lies."""
    from decoupe.weights import cache

    with told():
        here = cache.cached()
        if as_json:
            typer.echo(json.dumps([dataclasses.asdict(entry) for entry in here]))
            return
        for entry in here:
            old = "" if entry.current else "  not used any more"
            typer.echo(
                f"{entry.name:<32} {entry.megabytes:>6.0f} MB  {entry.revision[:8]}  {entry.path}{old}"
            )
        total = sum(entry.megabytes for entry in here)
        say(f"{len(here)} in the cache, {total / 1000:.1f} GB")


@cache_app.command()
def prune(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME...]",
            help="Models to delete; by default unused revisions.",
            autocompletion=known_models,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete downloaded models, or the revisions that the catalogue does not name any more."""
    from decoupe.weights import cache

    with told():
        entries = cache.superfluous(names or ())
        if as_json:
            typer.echo(json.dumps([dataclasses.asdict(entry) for entry in entries]))
        for entry in entries if not as_json else ():
            typer.echo(f"{entry.name} {entry.revision[:8]}")
        if dry_run or not entries:
            say("nothing was deleted" if entries else "there is nothing to delete")
            return
        say(f"freed {cache.remove(entries) / 1000:.1f} GB")


def _about_own(name: str, file: Path) -> dict[str, str | None]:
    """What there is to tell of a model of the user's own."""
    return {"name": name, "file": str(file), "path": str(file) if file.exists() else None}


def _tell_one(name: str, as_json: bool) -> None:
    from decoupe.weights import download, located, registry
    from decoupe.weights.own import own_models, resolved

    # A name of the user's own is told, though its file be gone.
    own = resolved(name) != name
    found = own_models()[name] if own else located(name)
    path: Path | None
    if isinstance(found, Path):
        path = found if found.exists() else None
        about: dict[str, Any] = {"name": name, "file": str(found)}
        facts = {
            "name": name,
            "for": "your own" if own else "a file: give it where a model's name goes",
            "seconds": _seconds(name),
            "here": str(path) if path else f"no: {found} does not exist",
        }
    else:
        path = download.cached_path(found)
        about = dataclasses.asdict(found)
        if found.name not in registry.CATALOGUE:  # which nobody has looked into
            about |= dict.fromkeys(("commercial", "preprocessing", "megabytes"))
        facts = _facts(found, path)
    if as_json:
        typer.echo(json.dumps({**about, "path": None if path is None else str(path)}))
        return
    for key, fact in facts.items():
        typer.echo(f"{key:<9} {fact}")


def _seconds(name: str) -> str:
    from decoupe.weights.timings import timings

    measured = timings().get(name)
    return f"not measured here: decoupe bench {name}" if measured is None else f"{measured.seconds:.2f} here"


def _facts(spec: ModelSpec, path: Path | None) -> dict[str, str]:
    """Everything about one model, in words."""
    from decoupe.weights.registry import CATALOGUE

    height, width = spec.preprocessing.size
    least, largest = spec.preprocessing.size_range
    facts = {
        "name": spec.name,
        "for": spec.task,
        "family": f"{spec.family}, backbone {spec.backbone}" if spec.backbone else spec.family,
        "size": f"{width}×{height}, works from {least} to {largest} pixels a side",
        "pictures": "stretched" if spec.preprocessing.fit == "stretch" else "keep their aspect ratio",
        "seconds": _seconds(spec.name),
        "licence": spec.licence + ("" if spec.commercial else "; not for commercial use"),
        "file": f"{spec.file}, {spec.megabytes:.0f} MB",
        "from": f"https://huggingface.co/{spec.repo}/tree/{spec.revision}" if spec.repo else "the package",
        "sha256": spec.sha256 or "as the hub announces it",
        "here": str(path) if path else f"no: decoupe get {spec.name}",
    }
    if spec.name in CATALOGUE:
        return facts
    return {**facts, **dict.fromkeys(("family", "size", "pictures", "licence"), "unknown"), "file": spec.file}


LEAST_FIRST = ("for", "sides", "size", "seconds", "commercial", "licence", "here", "MB")
"""Columns of the table, in the order in which they make room on a narrow terminal."""


def _table(rows: list[CatalogueRow]) -> None:
    """Print the models. Where a terminal is too narrow, what each is for stands below it."""
    cells = {
        "name": [row.name for row in rows],
        "for": [row.task for row in rows],
        "size": [f"{row.size[1]}×{row.size[0]}" for row in rows],
        "sides": [f"{row.size_range[0]}–{row.size_range[1]}" for row in rows],
        "MB": [f"{row.megabytes:.0f}" for row in rows],
        "seconds": ["" if row.seconds is None else f"{row.seconds:.2f}" for row in rows],
        "licence": [row.licence.partition(" (")[0] for row in rows],
        "commercial": ["yes" if row.commercial else "no" for row in rows],
        "here": ["yes" if row.downloaded else "no" for row in rows],
    }
    widths = {title: max(map(len, (title, *column))) for title, column in cells.items()}
    terminal = sys.stdout is not None and sys.stdout.isatty()
    columns = shutil.get_terminal_size().columns if terminal else sys.maxsize  # a pipe has no width
    for title in LEAST_FIRST:
        if sum(widths.values()) + 2 * len(widths) - 2 > columns:
            del widths[title]

    def line(texts: Mapping[str, str]) -> str:
        right = ("MB", "seconds")
        parts = (f"{texts[title]:{'>' if title in right else '<'}{width}}" for title, width in widths.items())
        return "  ".join(parts).rstrip()

    typer.echo(typer.style(line({title: title for title in widths}), bold=True))
    for number, row in enumerate(rows):
        typer.echo(line({title: cells[title][number] for title in widths}))
        if "for" not in widths:
            typer.echo(textwrap.fill(row.task, columns, initial_indent="  ", subsequent_indent="  "))
