"""What a run tells while it goes: a progress bar, a log file, TensorBoard, pictures."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from decoupe.errors import DecoupeError, OutputError

log = logging.getLogger("decoupe.training")


class Report:
    """The record of a run, kept by its main process.

    It appends to ``log.jsonl``, one line a report: step, epoch, learning rate, mean loss terms, pictures a
    second, share of the time spent waiting for data, memory, scores; the same goes to ``tensorboard/``.
    Pictures go to ``samples/``.

    Args:
        out: folder of the run.
        steps: of the whole run.
        start: step at which it begins or goes on.
        device: of the network.
        mean: of a number over all processes.
        active: False on the processes that only compute.
        bar: draw a progress bar on standard error; otherwise reports are logged as text.
    """

    def __init__(
        self,
        out: Path,
        *,
        steps: int,
        start: int,
        device: torch.device,
        mean: Callable[[Tensor], Tensor],
        active: bool,
        bar: bool,
    ) -> None:
        self.out, self.device, self.mean, self.active = out, device, mean, active
        self.totals: dict[str, Tensor] = {}
        self.since, self.began = start, time.perf_counter()
        self.waited, self.pictures = 0.0, 0
        self.writer = (
            SummaryWriter(str(out / "tensorboard"), purge_step=start + 1 if start else 0) if active else None
        )
        if active:
            forget(out / "log.jsonl", start)
        self.bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            disable=not (active and bar),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task("", total=steps, completed=start, told="")

    def __enter__(self) -> Report:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if self.writer:
            self.writer.close()

    def add(self, terms: Mapping[str, Tensor], *, pictures: int, waited: float) -> None:
        """Enter a step: its weighted loss terms without gradients, its pictures, the seconds it waited."""
        for name, value in terms.items():
            self.totals[name] = self.totals.get(name, 0) + value
        self.pictures += pictures
        self.waited += waited
        self.bar.advance(self.task)

    def write(self, step: int, about: Mapping[str, Any]) -> None:
        """Report the means since the last time, with ``about``."""
        seconds, steps = time.perf_counter() - self.began, step - self.since
        means = {name: float(self.mean(total)) / steps for name, total in self.totals.items()}
        line: dict[str, Any] = {"step": step, **about}
        if means:
            line |= {"loss": sum(means.values()), **means}
            line |= {"pictures_per_second": self.pictures / seconds, "waiting": self.waited / seconds}
            line |= {"gigabytes": peak_gigabytes(self.device)}
            told = f"loss {line['loss']:.4g}, {line['pictures_per_second']:.1f}/s, {line['gigabytes']:.1f} GB"
            self.bar.update(self.task, told=told)
        self.resume(step)
        self._record(step, {key: _rounded(value) for key, value in line.items()})

    def scores(self, step: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Report a validation: scores by set."""
        rounded = {name: {key: _rounded(value) for key, value in one.items()} for name, one in scores.items()}
        self._record(step, {"step": step, "validation": rounded})

    def picture(self, step: int, picture: Image.Image) -> None:
        """Keep what the model makes of some held-out pictures."""
        if self.active and self.writer:
            folder = self.out / "samples"
            folder.mkdir(exist_ok=True)
            file = folder / f"step-{step:07}.png"
            temporary = file.with_suffix(".part")
            picture.save(temporary, "png")
            temporary.replace(file)
            self.writer.add_image("samples", np.asarray(picture), step, dataformats="HWC")

    def resume(self, step: int) -> None:
        """Measure from now: what happened since the last report is not training."""
        self.totals, self.pictures, self.waited = {}, 0, 0.0
        self.since, self.began = step, time.perf_counter()

    def _record(self, step: int, line: Mapping[str, Any]) -> None:
        if not self.active or not self.writer:
            return
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in _flat(line):
            self.writer.add_scalar(name, value, step)
        if self.bar.disable:
            log.info("%s", _told(line))
        elif "validation" in line:  # the bar shows the rest
            self.bar.console.print(_told(line), highlight=False, markup=False)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError that names the folder of the run."""
    try:
        yield
    except DecoupeError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write in {folder} ({error.strerror or error}): make room and run the same command again"
        ) from error


def forget(file: Path, step: int) -> None:
    """Take from a log what a killed run had written after ``step``, and what a crash has torn."""
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    kept = [line for line in lines if line.endswith(b"\n") and 0 <= _step_of(line) <= step]
    if kept != lines:
        temporary = file.with_suffix(".part")
        temporary.write_bytes(b"".join(kept))
        temporary.replace(file)


def _step_of(line: bytes) -> int:
    """The step that a line of the log is about; −1 where it is none."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return -1


def peak_gigabytes(device: torch.device) -> float:
    """The most memory, 10^9 bytes, that this process has held: on the GPU, or altogether."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e9
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _flat(line: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """The numbers of a report with their names, ``validation/SET/S`` for nested ones."""
    found = []
    for key, value in line.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and key != "step":
            found.append((prefix + key, float(value)))
    return found


def _told(line: Mapping[str, Any]) -> str:
    """A report as one line for people."""
    if "validation" not in line:
        return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in line.items())
    sets = (
        f"{name} " + " ".join(f"{key} {value:.4f}" for key, value in scores.items())
        for name, scores in line["validation"].items()
    )
    return f"step {line['step']}, validation: {'; '.join(sets) or 'nothing is held out'}"
