"""The state of a run on disk: all that is needed to go on to the bit, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from decoupe.errors import CheckpointError, OutputError
from decoupe.training.ema import Average

_FOLDER, _FORMER, _PARTIAL = "state", "state.former", "state.partial"


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: optimiser steps done.
        validated: step of the last validation; 0 before the first.
        best: the best validation's score; None before the first.
        worse: validations since then.
    """

    step: int = 0
    validated: int = 0
    best: float | None = None
    worse: int = 0


@dataclass
class State:
    """What changes in a run, and where it is kept.

    Attributes:
        out: folder of the run.
        accelerator: of the processes.
        model: as the accelerator gave it; its state is the network's own, so that a run goes on with more or
            fewer processes.
        optimizer: likewise.
        scaler: of the loss in float16.
        average: of the weights.
        progress: where the run stands.
        data: pictures that are trained on, by set.
        held_out: pictures that are validated on, by set.
        kept: step of the state on disk, as it was last read or written; None for none.
    """

    out: Path
    accelerator: Accelerator
    model: nn.Module
    optimizer: Optimizer
    scaler: GradScaler
    average: Average
    progress: Progress
    data: Mapping[str, int]
    held_out: Mapping[str, int]
    kept: int | None = None

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the model only (FSDP)."""
        return any(isinstance(parameter, DTensor) for parameter in self.model.parameters())

    def save(self) -> None:
        """Write the state; a process that is killed meanwhile leaves the former one.

        Raises:
            OutputError: it cannot be written; the former state is kept.
        """
        partial, folder, former = (self.out / name for name in (_PARTIAL, _FOLDER, _FORMER))
        try:
            if self.accelerator.is_main_process:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self._write(partial)
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                settle(partial)
                if folder.exists():
                    shutil.rmtree(former, ignore_errors=True)
                    folder.rename(former)
                partial.rename(folder)
                settle(self.out, deep=False)
                shutil.rmtree(former, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            self.kept = self.progress.step
        except (OSError, RuntimeError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            kept = saved_step(self.out)
            last = f"the state of step {kept} is intact" if kept is not None else "no state was saved before"
            # torch's writer says where its file broke off, not why.
            space = f"the file broke off, and {shutil.disk_usage(self.out).free / 1e6:.0f} MB are free"
            reason = getattr(error, "strerror", None) or space
            raise OutputError(
                f"cannot save step {self.progress.step} in {self.out}: {reason}; {last}: "
                "make room and run the same command again"
            ) from error

    def _write(self, folder: Path) -> None:
        process = self.accelerator.process_index
        torch.save(random_states(), folder / f"random-{process}.pt")
        if self.sharded:
            save_shards(self._shards(), checkpoint_id=folder / "shards")
        elif self.accelerator.is_main_process:
            torch.save(
                {
                    "model": self.accelerator.unwrap_model(self.model).state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "average": self.average.state_dict(),
                },
                folder / "state.pt",
            )
        if self.accelerator.is_main_process:
            about = {
                **vars(self.progress),
                "data": dict(self.data),
                "held_out": dict(self.held_out),
                "updates": self.average.updates,
                "scaler": self.scaler.state_dict(),
                "processes": self.accelerator.num_processes,
            }
            (folder / "progress.json").write_text(json.dumps(about))

    def _shards(self) -> dict[str, Any]:
        """What this process holds of the model, the optimiser and the average."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        mean = {str(i): tensor for i, tensor in enumerate(self.average.mean)}
        return {"model": model, "optimizer": optimizer, "mean": mean}

    def restore(self) -> bool:
        """Go on from the saved state; whether there is one.

        Raises:
            CheckpointError: it cannot be read, or its optimiser is another's.
        """
        folder = saved(self.out)
        if folder is None:
            return False
        groups = self.optimizer.param_groups
        settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        try:
            about = _about(folder)
            if self.sharded:
                state = self._shards()
                load_shards(state, checkpoint_id=folder / "shards")
                set_state_dict(
                    self.model,
                    self.optimizer,
                    model_state_dict=state["model"],
                    optim_state_dict=state["optimizer"],
                )
                self.average.updates = about["updates"]
            else:
                state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
                saved_groups = state["optimizer"]["param_groups"]
                if [len(one["params"]) for one in saved_groups] != [len(one["params"]) for one in groups]:
                    raise CheckpointError(
                        f"{folder} holds a run that trains or decays other parameters together: go on with "
                        "its frozen, optimizer.backbone and optimizer.weight_decay, or name another --out"
                    )
                self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.average.load_state_dict(state["average"])
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(about["scaler"])
            stored = folder / f"random-{self.accelerator.process_index}.pt"
            if stored.exists():  # on more processes than before, the new ones draw their own numbers
                set_random_states(torch.load(stored, weights_only=True))
        except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
            raise CheckpointError(
                f"cannot go on from {folder}: {str(error).splitlines()[0]}; remove it to begin anew"
            ) from error
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)  # the recipe's, which may have changed, not those that were saved
        for name in vars(self.progress):
            setattr(self.progress, name, about[name])
        self.kept = self.progress.step
        return True


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a sharded model, gathered on the main process; every process must ask for it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: Any = get_model_state_dict(model, options=options)
    return dict(state)


def settle(folder: Path, *, deep: bool = True) -> None:
    """Have the disk hold a folder and, if ``deep``, what is in it: a rename alone may outlive the content."""
    windows = sys.platform == "win32"  # where no folder is opened, and what is only read is not written out
    for path in (*(folder.rglob("*") if deep else ()), folder):
        if windows and path.is_dir():
            continue
        descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
        try:
            # Some file systems cannot do it for folders.
            with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def foreign(out: Path) -> bool:
    """Whether a folder of the state's name stands in its place, which a run would remove."""
    return (out / _FOLDER).exists() and not (out / _FOLDER / "progress.json").exists()


def saved(out: Path) -> Path | None:
    """The folder of the newest whole state of a run; None where there is none."""
    return next((out / name for name in (_FOLDER, _FORMER) if (out / name / "progress.json").exists()), None)


def saved_step(out: Path) -> int | None:
    """The step of the newest whole state of a run; None where there is none."""
    about = saved_about(out)
    return None if about is None else int(about["step"])


def saved_about(out: Path) -> dict[str, Any] | None:
    """What the newest whole state of a run tells beside its tensors; None where there is none."""
    folder = saved(out)
    return None if folder is None else _about(folder)


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / "progress.json").read_text())
        int(about["step"])
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder} is damaged ({error}): remove it to begin anew") from None
    return dict(about)


def random_states() -> dict[str, Any]:
    """The state of torch's generators; samples bring their own, so training draws from no others."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def set_random_states(states: Mapping[str, Any]) -> None:
    """Go on drawing where `random_states` was taken."""
    torch.set_rng_state(states["cpu"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
