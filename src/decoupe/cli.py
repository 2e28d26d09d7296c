"""The command line: one short function per command.

Pictures and paths go to standard output, everything said about them to standard error. Exit status 0: done;
1: some inputs failed, each named in one line, the rest done; 2: wrong usage, nothing done. Rich is imported
where something is drawn, so that ``decoupe cut photo.jpg`` starts quickly.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import decoupe
from decoupe.commands import cut_options
from decoupe.commands import video as video_command
from decoupe.commands.bench import bench
from decoupe.commands.catalogue import cache_app, get, models
from decoupe.commands.console import told, told_status
from decoupe.commands.cut import cut
from decoupe.commands.evaluation import eval_app
from decoupe.commands.export import export
from decoupe.commands.options import AsJson, in_sections
from decoupe.commands.segment import segment
from decoupe.commands.serve import serve, ui
from decoupe.commands.training import calibrate, data_app, train
from decoupe.commands.video import video

OF_REMBG = {
    "i": "decoupe cut PHOTO -o OUT",
    "p": "decoupe cut FOLDER -o OUT",
    "b": "decoupe cut - --raw WxH",
    "s": "decoupe serve",
    "d": "decoupe get NAME",
}
"""What stands for commands of rembg, which many know."""


class _Commands(TyperGroup):
    """The commands; who types one of rembg's, or a picture alone, is told ours."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not ctx.resilient_parsing:  # a shell that completes reads no errors
            self._refuse_others(ctx, args[0])
        return super().resolve_command(ctx, args)

    def _refuse_others(self, ctx: Any, name: str) -> None:
        if name in OF_REMBG:
            ctx.fail(f"{name!r} is a command of rembg: its like here is {OF_REMBG[name]}")
        if name and name not in self.commands and Path(name).exists():
            ctx.fail(f"{name!r} is no command: to cut it, decoupe cut {_quoted(name)}")


app = typer.Typer(
    cls=_Commands,
    help="Cut the subject out of any picture, down to the hair.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The ``decoupe`` command."""
    # What an older encoding of a terminal or pipe has not, such as ×, is written as a question mark.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="replace")
    try:
        app(_words())
    except OSError as error:  # commands tell theirs; this one is of what is printed without one, as the help
        sys.exit(told_status(error))


def _quoted(name: str) -> str:
    """A name as the shell takes it."""
    if sys.platform == "win32":
        import subprocess

        return subprocess.list2cmdline([name])
    return shlex.quote(name)


def _words() -> list[str] | None:
    """What was typed; None leaves it to click, which on Windows puts the files in a pattern's place."""
    if sys.platform == "win32" and sys.argv[1:2] in (["cut"], ["segment"]):  # which read patterns themselves
        # As no shell of Windows does; "-" and a slash at the end stay.
        return [os.path.expanduser(word) for word in sys.argv[1:]]  # noqa: PTH111
    return None


def _version(ctx: typer.Context, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        typer.echo(f"decoupe {decoupe.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Cut the subject out of any picture, down to the hair."""


def doctor(as_json: AsJson = False) -> None:
    """Check what works here. Versions, devices, cache, extras, the default model."""
    from decoupe.commands import doctor as checks

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


SECTIONS: dict[Callable[..., None], dict[str, str]] = {
    cut: cut_options.SECTIONS,
    video: video_command.SECTIONS,
}
# In the order in which the help shows them.
for command in (cut, segment, video, models, get, bench, doctor, serve, ui, train, calibrate, export):
    app.command(cls=in_sections(SECTIONS.get(command, {})))(command)
for name, group in {"cache": cache_app, "data": data_app, "eval": eval_app}.items():
    app.add_typer(group, name=name)
