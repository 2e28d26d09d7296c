"""A run's folder: which run it holds, and what a run that begins there would replace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.util import register_after_fork
from pathlib import Path

from decoupe.errors import ConfigError, InputError, OutputError
from decoupe.inference.media import lock, replacing
from decoupe.training.fields import from_yaml
from decoupe.training.recipe import Recipe
from decoupe.training.report import writing
from decoupe.training.state import foreign, saved_about, saved_step

LAST, BEST = "last.safetensors", "best.safetensors"
"""The averaged weights of the last validation, and of the best one."""
FIXED = (
    *("family", "model", "start", "backbone", "batch_size", "sets", "held_out", "seed", "split_seed"),
    *("lora", "stages", "dynamic"),
)
"""What of a recipe must stay as it is when a run goes on."""


def check_folder(
    out: Path, recipe: Recipe, *, steps: int, data: Mapping[str, int], held_out: Mapping[str, int]
) -> None:
    """Refuse a folder in which a run can neither go on nor begin.

    Args:
        out: the folder, which need not exist.
        recipe: complete.
        steps: of the whole run.
        data: pictures by set, trained on.
        held_out: those that it is judged by.

    Raises:
        ConfigError: it holds another run, or one that is over.
        OutputError: it holds what a run would replace.
    """
    about = saved_about(out)
    if about is None or foreign(out):
        _check_free(out, recipe)
        return
    step, file = about["step"], out / "recipe.yaml"
    if file.exists():
        begun, now = from_yaml(file.read_text(encoding="utf-8"), str(file)), recipe.plain()
        changed = [name for name in now if begun.get(name) != now[name] and name != "about"]
        if fixed := [name for name in FIXED if name in changed]:
            raise ConfigError(
                f"{out} holds a run with another {' and '.join(fixed)}, at step {step}: "
                "go on with that recipe, or name another folder with --out"
            )
        if changed and (step >= steps or recipe.gives_up(about.get("worse", 0))):
            raise ConfigError(
                f"{out} holds a run with another {' and '.join(changed)}, which is over at step "
                f"{step}: give it more epochs, steps or patience, or name another folder with --out"
            )
    for kind, verb, sets in (("data", "on", data), ("held_out", "judged by", held_out)):
        was = about.get(kind)
        if was is not None and list(was.items()) != list(sets.items()):
            raise ConfigError(
                f"{out} holds a run {verb} {_listed(was)}, at step {step}, this is {verb} {_listed(sets)}: "
                "go on with the same data in their order, or name another folder with --out"
            )


def _check_free(out: Path, recipe: Recipe) -> None:
    """Refuse a folder in which a run that begins would replace what it did not write."""
    file, log = out / "recipe.yaml", out / "log.jsonl"
    if made := [name for name in (BEST, LAST) if (out / name).exists()]:
        raise ConfigError(
            f"{out} holds {made[0]} of a run that cannot go on, without its state: "
            "name another folder with --out, or remove it"
        )
    if foreign(out):
        raise OutputError(f"{out / 'state'} is no run's and would be removed: name another folder with --out")
    same = file.exists() and file.read_text(encoding="utf-8") == recipe.yaml()
    if log.exists() and not same:
        raise OutputError(
            f"{log} is of another recipe and would be emptied: name another folder with --out, or remove it"
        )
    # A run that ended before its first report leaves one, beside what it had opened for TensorBoard.
    if file.exists() and not (same or (out / "tensorboard").exists()):
        raise OutputError(
            f"{file} is of another recipe and would be replaced: name another folder with --out"
        )


def _listed(sets: Mapping[str, int]) -> str:
    return " and ".join(f"{count} pictures of {name}" for name, count in sets.items()) or "no pictures"


@contextmanager
def held(out: Path, step: int | None) -> Iterator[None]:
    """Keep other processes from training in a folder until the block ends; some disks know no locks.

    Args:
        out: the folder, which need not exist.
        step: of the state that was read there; None for none.

    Raises:
        OutputError: another process trains there, or has since the state was read; or it cannot be written.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("ab")
    with file:
        # Processes that prepare samples outlive a run that is killed, and would hold it for some seconds.
        register_after_fork(file, lambda inherited: inherited.close())
        if lock(file) == "another's":
            raise OutputError(
                f"another process trains in {out}: wait for it, or name another folder with --out"
            )
        if saved_step(out) != step:
            raise OutputError(
                f"{out} has changed since it was read: run the same command to go on from there"
            )
        yield


@contextmanager
def needing_all(out: Path) -> Iterator[None]:
    """Tell with what is wrong with a picture that a run which has begun goes on with all of its own."""
    try:
        yield
    except InputError as error:
        if (step := saved_step(out)) is None:
            raise
        raise InputError(
            f"{error}; the run in {out} is at step {step} and goes on with the same pictures only: "
            "to leave one out, name another folder with --out"
        ) from error


def write_recipe(out: Path, recipe: Recipe) -> None:
    """Tell in the folder, which is there, what is run in it from now on.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing(out / "recipe.yaml") as temporary:
        temporary.write_text(recipe.yaml(), encoding="utf-8")
