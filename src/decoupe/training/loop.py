"""The training loop: one for all families, on Accelerate, resumable to the bit.

What it writes into its folder, each file but the log under a temporary name first:

    recipe.yaml           what is run, complete
    state/                everything needed to go on: weights, average, optimiser, random states, step
    last.safetensors      the averaged weights of the last validation, ready for ``decoupe.load``
    best.safetensors      those of the best one
    log.jsonl             losses, speed and scores, appended; the same in tensorboard/
    samples/              what the model makes of some held-out pictures, after each validation
    .lock                 empty, locked by the process that trains
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_start_method
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from decoupe.errors import ConfigError, DecoupeError, DeviceError, InputError, OutputError
from decoupe.evaluation.pictures import contact_sheet
from decoupe.runtimes.checkpoints import is_out_of_memory
from decoupe.training.checkpointing import checkpoint_activations
from decoupe.training.criteria import BiRefNetCriterion
from decoupe.training.data import Batches, Told, dynamic_size, normalised
from decoupe.training.ema import Average
from decoupe.training.folder import BEST, LAST, check_folder, held, needing_all, write_recipe
from decoupe.training.lora import add_lora, merged_state
from decoupe.training.norms import folded_norms, unfold_norms
from decoupe.training.recipe import Recipe
from decoupe.training.report import Report, writing
from decoupe.training.start import backbone_of, begin, match_classes, parameter_groups, pretrain
from decoupe.training.state import Progress, State, saved_step, whole_state
from decoupe.training.tasks import MatteTask, Task, check_backgrounds, evaluating, task_of
from decoupe.weights.checkpoint import save_model

SAMPLES = 6
"""Held-out pictures that are shown after each validation."""
UNFOLDED_BY = 64
"""Training pictures that give an exported model's norms their statistics."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Diverged(DecoupeError):  # noqa: N818 - it is what happened, as in the log
    """The loss is not a number any more; the message names the step and the pictures."""


Why: TypeAlias = Literal["finished", "stopped early", "interrupted"]


class Ending(NamedTuple):
    """How `Trainer.run` ended.

    Attributes:
        why: all steps done; no better for so long that it stopped; or told to stop, to go on later.
        step: optimiser steps done.
        signal: number of the signal that told it to stop; 0 for none.
    """

    why: Why
    step: int
    signal: int = 0


def check_device(recipe: Recipe, device: str) -> None:
    """Raise DeviceError for a device that is none to train on, or not here; or a precision that it lacks."""
    if device not in ("cpu", "cuda"):
        raise DeviceError(
            f"device {device!r} is none to train on: give auto, cpu or cuda; of several GPUs, "
            "CUDA_VISIBLE_DEVICES=1 before the command chooses the second"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"device {device!r} is not available: train with --device cpu, or install PyTorch with CUDA"
        )
    if recipe.precision == "float16" and device == "cpu":
        raise DeviceError("float16 trains on CUDA only: --set precision=bfloat16, or float32")


def accelerator_for(recipe: Recipe, device: str) -> Accelerator:
    """The processes and devices of a run, as ``accelerate launch`` or ``torchrun`` made them, or this one."""
    criterion, model = recipe.criterion, recipe.model
    # Parts that cost nothing: gradient heads without a loss or without side heads, on whose outputs their
    # label is made; the classifier, wherever no picture of a batch has a class.
    partly = isinstance(criterion, BiRefNetCriterion) and (
        not criterion.gradient
        or not getattr(model, "side_outputs", True)
        or bool(getattr(model, "classes", 0))
    )
    unused = DistributedDataParallelKwargs(find_unused_parameters=partly)
    # Mixed precision is the loop's own: autocast surrounds training's forward passes, not validation's.
    return Accelerator(cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[unused])


class Trainer:
    """One run of a recipe.

    Args:
        recipe: what to run, complete as `decoupe.training.start.begin` gives it.
        model: the network at the beginning of the run.
        task: its data and what they cost.
        out: folder of the run; a state in it is continued.
        accelerator: of the processes.
        licence: of what the model begins from, kept with its weights.
        labels: names of the rows of its class head, likewise, for those who begin from them.
        workers: processes that prepare samples, beside each that computes.
        bar: draw a progress bar.

    Raises:
        ConfigError: the folder holds another run, or one that is over; a batch that cannot be shared out; or
            patience without a validation to wait for.
        OutputError: the folder holds what the run would replace.
        InputError: there is nothing to train.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        task: Task,
        out: Path,
        *,
        accelerator: Accelerator,
        licence: str = "",
        labels: Sequence[str] = (),
        workers: int = 2,
        bar: bool = False,
    ) -> None:
        self.recipe, self.task, self.out, self.accelerator = recipe, task, out, accelerator
        self.licence, self.labels, self.workers, self.bar = licence, labels, workers, bar
        self.device = accelerator.device
        self.pieces = accelerator.num_processes * recipe.accumulate
        check_batch(recipe, self.pieces, model, together=self._processes_together)
        if recipe.patience is not None and not task.held_out:
            raise ConfigError(
                f"patience={recipe.patience} waits for a better validation, and nothing is held out: "
                "give --val, hold more out (--set held_out=0.2), or --set patience=null"
            )
        self.epoch_size = sum(task.repeats)
        self.steps = recipe.steps or math.ceil((recipe.epochs or 0) * self.epoch_size / recipe.batch_size)
        check_folder(out, recipe, steps=self.steps, data=task.sets, held_out=task.held_out)
        torch.manual_seed(recipe.seed + accelerator.process_index)  # each process has dropout of its own
        self.network = self._prepared(model)
        groups = parameter_groups(self.network, recipe)
        if not groups:
            raise InputError("every parameter is frozen: there is nothing to train")
        kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
        optimizer = kinds[recipe.optimizer.name](groups, fused=True)
        self.model, self.optimizer = accelerator.prepare(self.network, optimizer)
        self.forward = torch.compile(self.model) if recipe.compile else self.model
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "float16")
        average = Average(self.model, recipe.ema)
        self.progress = Progress()
        self.state = State(
            out,
            accelerator,
            self.model,
            self.optimizer,
            self.scaler,
            average,
            self.progress,
            data=task.sets,
            held_out=task.held_out,
        )
        self.state.restore()
        self.stopping = 0

    @property
    def average(self) -> Average:
        """The running average of the weights."""
        return self.state.average

    def run(
        self,
        *,
        until: int | None = None,
        report_every: int = 50,
        save_minutes: float = 5,
        minutes: float = math.inf,
    ) -> Ending:
        """Train to the recipe's last step, or until told to stop; the state is saved whichever way it ends.

        SIGINT and SIGTERM end it after the step at hand.

        Args:
            until: stop after this step.
            report_every: steps between reports.
            save_minutes: between saved states.
            minutes: stop after so long.

        Raises:
            Diverged: the loss is not finite; the last saved state is intact.
            DeviceError: out of memory, or a process that prepares samples was ended, as for want of it; the
                message says what to lower.
            OutputError: another process trains in the folder, or has since the state was read; or the state
                cannot be written, and the former one is intact.
            InputError: a picture cannot be read: a held-out one before the first step, others before their
                batch, of which the state is saved.
        """
        last = min(self.steps, until or self.steps)
        if self._stuck or self.progress.step >= last:  # before all pictures are decoded
            return self._ending("stopped early" if self._stuck else "finished")
        with (
            writing(self.out),
            self._alone(),
            needing_all(self.out),
            self._reading() as batches,
            self._report() as report,
            self._signals(),
            self._saving_before_bad_data(),
            warnings.catch_warnings(),
        ):
            # Of weights with one input channel, channels last, in several processes: leave it.
            warnings.filterwarnings("ignore", "Grad strides do not match", UserWarning)
            return self._ending(self._steps_to(last, batches, report, report_every, save_minutes, minutes))

    def _steps_to(
        self,
        last: int,
        batches: Iterator[Any],
        report: Report,
        report_every: int,
        save_minutes: float,
        minutes: float,
    ) -> Why:
        """Steps, reports, validations and saved states, until ``last`` or whatever ends the run before."""
        progress = self.progress
        began = saved = time.monotonic()
        took: float | None = None  # the last validation, in seconds
        # Killed between a state and the validation that it was saved for.
        if progress.step and self._is_due(progress.step) and progress.validated < progress.step:
            self.validate(report)
            report.resume(progress.step)
        why: Why = "finished"
        while progress.step < last and why == "finished":
            self.optimize(batches, report)
            step, now = progress.step, time.monotonic()
            if step % report_every == 0 or step == self.steps:
                report.write(step, self.whereabouts())
            if self._is_due(step):
                # Of the first nobody knows how long it takes; and without a state, the weights that it leaves
                # would be another run's to whoever comes back: see `check_folder`.
                if took is None or self._agree(now - saved + took > 60 * save_minutes):
                    self.state.save()
                    saved = now
                self.validate(report)
                report.resume(step)
                took = time.monotonic() - now
                now += took
            if self._stuck:
                why = "stopped early"
            elif step < self.steps and self._agree(self.stopping or now - began > 60 * minutes):
                why = "interrupted"
            if why != "finished" or step == last or self._agree(now - saved > 60 * save_minutes):
                self.state.save()
                saved = time.monotonic()
        return why

    @property
    def _stuck(self) -> bool:
        """Whether validations have been no better for as long as the recipe's patience lasts."""
        return self.recipe.gives_up(self.progress.worse)

    def _is_due(self, step: int) -> bool:
        """Whether a validation follows a step."""
        every = self.recipe.validate_every or max(1, round(self.epoch_size / self.recipe.batch_size))
        return step % every == 0 or step == self.steps

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """The folder is this run's, with its recipe in it; OutputError on every process where it is not."""
        with contextlib.ExitStack() as stack:
            wrong: DecoupeError | None = None
            if self.accelerator.is_main_process:
                try:
                    stack.enter_context(held(self.out, self.state.kept))
                    write_recipe(self.out, self.recipe)
                except OutputError as error:
                    wrong = error
            self._share(wrong)
            yield

    def _check_held_out(self) -> None:
        """Raise InputError on every process for a held-out picture that cannot be read on any."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        every = [(name, index) for name, count in self.task.held_out.items() for index in range(count)]
        wrong: DecoupeError | None = None
        with ThreadPoolExecutor() as pool:
            try:
                for _ in pool.map(lambda one: self.task.look(*one), every[process::processes]):
                    pass
            except InputError as error:
                wrong = InputError(str(error))  # whose pickle comes back
        self._share(wrong)

    def _share(self, wrong: DecoupeError | None) -> None:
        """Raise on every process what is wrong on any."""
        if found := [one for one in gather_object([wrong]) if one is not None]:
            raise found[0]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Iterator[Any]]:
        """The batches; whatever happens, the processes that read them are gone after.

        Raises:
            InputError: a held-out picture cannot be read, told now and not an hour later.
            DeviceError: the system ended a process that reads; torch tells it at any moment.
        """
        self._check_held_out()
        batches = iter(self.batches())
        try:
            yield batches
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise DeviceError(
                "a process that prepares samples was ended, most likely for want of memory: "
                f"--workers {max(0, self.workers - 1)} needs less; the same command goes on from "
                f"step {self.state.kept or 0}"
            ) from error
        finally:
            # They go with the iterator, which an exception's traceback holds; Python, as it exits, would end
            # them by a signal that they outlive, and wait for ever.
            if isinstance(batches, _MultiProcessingDataLoaderIter):
                batches._shutdown_workers()

    @contextlib.contextmanager
    def _saving_before_bad_data(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            if self.progress.step and self.accelerator.num_processes == 1:  # the others do not come to it
                self.state.save()
            raise

    def close(self) -> None:
        """Leave the group of processes, all together; the trainer cannot be used after."""
        # The threads that communicate let go of their last tensors under Python's lock; one that still does
        # when Python ends aborts the process. They end with the group, and the group with its last holder:
        # the model of several processes.
        accelerator = self.accelerator
        accelerator.wait_for_everyone()
        vars(self).clear()
        if accelerator.num_processes > 1:
            accelerator.free_memory()
        accelerator.end_training()

    def optimize(self, batches: Iterator[Any], report: Report) -> None:
        """One optimiser step: the parts of its batch one after the other."""
        recipe, progress = self.recipe, self.progress
        epochs = recipe.epochs or math.ceil(self.steps * recipe.batch_size / self.epoch_size)
        # The last step's batch may reach beyond the last epoch.
        epoch = min(progress.step * recipe.batch_size // self.epoch_size, epochs - 1)
        criterion = recipe.criterion_at(epoch, epochs)
        rate = recipe.optimizer.learning_rate_at(progress.step, self.steps, recipe.batch_size)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        set_training(self.model, frozen_norms=recipe.freeze_norms)
        step_terms: dict[str, Tensor] = {}
        asked = time.perf_counter()
        parts = [next(batches) for _ in range(recipe.accumulate)]
        for part in parts:
            if isinstance(part, InputError):
                raise part
        waited = time.perf_counter() - asked
        pictures = sum(len(part.images) for part in parts) * self.accelerator.num_processes
        for batch in parts:
            held_back = batch is not parts[-1]
            apart = self.accelerator.no_sync(self.model) if held_back else contextlib.nullcontext()
            with apart, naming_memory(recipe, self.device):
                terms = self.terms(batch, criterion, parts)
                loss = torch.stack(list(terms.values())).sum()
                self._check_finite(loss, terms, batch.names)
                self.accelerator.backward(self.scaler.scale(loss / recipe.accumulate))
            for name, value in terms.items():
                step_terms[name] = step_terms.get(name, 0) + value.detach() / recipe.accumulate
        self.scaler.unscale_(self.optimizer)
        if recipe.optimizer.clip is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), recipe.optimizer.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update()
        progress.step += 1
        report.add(step_terms, pictures=pictures, waited=waited)

    def terms(self, batch: Any, criterion: Any, parts: Sequence[Any]) -> dict[str, Tensor]:
        """The weighted loss terms of one of the parts of a batch; their mean over all is the batch's."""
        image = normalised(batch.images, self.recipe.preprocessing, self.device)  # type: ignore[arg-type]
        dtype = _DTYPES[self.recipe.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            out = self.forward(image)
        terms = self.task.loss(out, batch, image, criterion, parts)
        sums = getattr(criterion, "SUMS", ())  # terms that grow with the batch
        return {name: value * self.pieces if name in sums else value for name, value in terms.items()}

    def batches(self) -> DataLoader[Any]:
        """This process's batches from where the run stands to its end."""
        recipe = self.recipe

        def size_of(step: int) -> tuple[int, int]:
            if recipe.dynamic:
                return dynamic_size(recipe.dynamic, recipe.seed, step)
            return recipe.size_at(step, self.steps)

        sides = [side for stage in recipe.stages for side in stage.size]
        # Twice the input, so that crops and zooms stay sharp.
        keep = self.workers == 0 or get_start_method() == "fork"
        dataset = Told(self.task.dataset(longest=2 * max(*sides, *(recipe.dynamic or ())), keep=keep))
        sampler = Batches(
            self.task.repeats,
            size_of,
            self.steps,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            start=self.progress.step,
            parts=recipe.accumulate,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=dataset.collate,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own: a resumed run must not draw one number more
            worker_init_fn=outlive_signals,
        )

    def validate(self, report: Report) -> dict[str, dict[str, float]]:
        """The scores of the averaged weights on every held-out set; the weights are saved, the best apart."""
        with self.average.swapped():
            scores = self.scores()
            self._show(report)
            self._save_weights(LAST, scores)
            if scores:
                score = sum(map(self.task.worth, scores.values())) / len(scores)
                if self.progress.best is None or score > self.progress.best:
                    self.progress.best, self.progress.worse = score, 0
                    self._save_weights(BEST, scores)
                else:
                    self.progress.worse += 1
        self.progress.validated = self.progress.step
        report.scores(self.progress.step, scores)
        return scores

    def scores(self) -> dict[str, dict[str, float]]:
        """The scores of the weights as they are, by held-out set; processes share the pictures."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        results = {}
        with evaluating(self._predicting) as model:
            for name, count in self.task.held_out.items():
                metric = self.task.metric()
                for turn in range(math.ceil(count / processes)):
                    index = turn * processes + process
                    # A sharded model computes on all processes or none: who has none left takes the last.
                    enter = self.task.judge(model, name, min(index, count - 1))
                    if index < count:
                        enter(metric)
                first, *others = gather_object([metric])
                for other in others:
                    first.merge(other)
                results[name] = first.result()
        return results

    def whereabouts(self) -> dict[str, Any]:
        """Epoch and learning rate, for reports."""
        step, recipe = self.progress.step, self.recipe
        return {
            "epoch": round(step * recipe.batch_size / self.epoch_size, 3),
            "learning_rate": recipe.optimizer.learning_rate_at(step - 1, self.steps, recipe.batch_size),
        }

    def _ending(self, why: Why) -> Ending:
        """How the run ended here; one that was to stop before its last step is not finished."""
        if why == "finished" and self.progress.step < self.steps:
            why = "interrupted"
        return Ending(why, self.progress.step, self.stopping)

    @property
    def _predicting(self) -> nn.Module:
        """The network for validation; what wraps it for gradients is needed where it is sharded only."""
        return self.model if self.state.sharded else self.network

    def _prepared(self, model: nn.Module) -> nn.Module:
        """The network as the recipe trains it."""
        recipe = self.recipe
        sharded = getattr(self.accelerator.state, "fsdp_plugin", None) is not None
        if not sharded:  # FSDP takes contiguous weights only
            model = model.to(memory_format=torch.channels_last)
        if recipe.lora is not None and sharded:
            raise ConfigError("lora needs no sharding: launch without FSDP, or --set lora=null")
        if recipe.lora is not None:
            add_lora(backbone_of(model).requires_grad_(False), recipe.lora)
        if recipe.checkpointing:
            checkpoint_activations(model)
        if self._processes_together > 1 and not recipe.freeze_norms:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return model.to(self.device)

    @property
    def _processes_together(self) -> int:
        """How many processes' pictures a batch norm averages over: torch can on CUDA alone."""
        return self.accelerator.num_processes if self.device.type == "cuda" else 1

    def _report(self) -> Report:
        return Report(
            self.out,
            steps=self.steps,
            start=self.progress.step,
            device=self.device,
            mean=lambda value: self.accelerator.reduce(value, "mean"),
            active=self.accelerator.is_main_process,
            bar=self.bar,
        )

    def _show(self, report: Report) -> None:
        """Draw the first held-out pictures of every set."""
        if not (self.accelerator.is_main_process or self.state.sharded):
            return
        sets = [(name, min(count, SAMPLES)) for name, count in self.task.held_out.items()]
        with evaluating(self._predicting) as model:
            rows = [self.task.row(model, name, index) for name, count in sets for index in range(count)]
        if rows:
            report.picture(self.progress.step, contact_sheet(rows))

    def _save_weights(self, name: str, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Write the weights as they are, ready for ``decoupe.load``."""
        state = merged_state(self.network) if not self.state.sharded else whole_state(self.model)
        if not self.accelerator.is_main_process:
            return
        save_model(
            self.network,
            self.out / name,
            family=self.recipe.family,
            preprocessing=self.recipe.preprocessing,  # type: ignore[arg-type]  # complete
            vocabulary=self.task.vocabulary,
            licence=self.licence,
            extra={
                "step": self.progress.step,
                "recipe": self.recipe.plain(),
                "scores": {key: dict(value) for key, value in scores.items()},
                "labels": list(self.labels),
            },
            state=state,
        )

    def _check_finite(self, loss: Tensor, terms: Mapping[str, Tensor], names: tuple[str, ...]) -> None:
        """Raise Diverged on every process if the loss of any is no number."""
        wrong = not bool(torch.isfinite(loss))
        if self._agree(wrong):
            values = ", ".join(f"{name} {float(value.detach()):.3g}" for name, value in terms.items())
            where = f"of {', '.join(names)} ({values})" if wrong else "on another process"
            raise Diverged(
                f"the loss {where} is not finite at step {self.progress.step}: "
                "look at these pictures, or lower optimizer.learning_rate and go on"
            )

    def _agree(self, here: object) -> bool:
        """Whether any process says so; all of them learn the same."""
        if self.accelerator.num_processes == 1:
            return bool(here)
        flag = torch.tensor(float(bool(here)), device=self.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM are remembered, until the step at hand is done."""

        def remember(number: int, frame: object) -> None:
            del frame
            self.stopping = number

        former: dict[signal.Signals, Any] = {}
        with contextlib.suppress(ValueError):  # not the main thread: nobody can send it signals
            for one in (signal.SIGINT, signal.SIGTERM):
                former[one] = signal.signal(one, remember)
        try:
            yield
        finally:
            for one, handler in former.items():
                signal.signal(one, handler)


def outlive_signals(worker: int) -> None:
    """Ctrl-C and schedulers signal the whole group: who prepares samples stays until the step is done."""
    del worker
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)


def check_batch(recipe: Recipe, pieces: int, model: nn.Module, *, together: int = 1) -> None:
    """Raise ConfigError for a batch that ``pieces`` cannot share; ``together`` of them share their norms."""
    if recipe.batch_size % pieces:
        raise ConfigError(
            f"batch_size {recipe.batch_size} cannot be shared out in {pieces} parts of equal size "
            "(processes × accumulate): choose a multiple"
        )
    has_norms = any(isinstance(module, _BatchNorm) for module in model.modules())
    if recipe.batch_size * together == pieces and has_norms and not recipe.freeze_norms:
        raise ConfigError(
            "batch norm has nothing to average over in one picture: --set batch_size of at least "
            f"{2 * pieces}, or --set freeze_norms=true"
        )


def set_training(model: nn.Module, *, frozen_norms: bool) -> None:
    """Training mode; batch norms that are frozen, or all with ``frozen_norms``, stay in evaluation mode."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and (frozen_norms or not module.weight.requires_grad):
            module.eval()


@contextlib.contextmanager
def naming_memory(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Turn torch's out-of-memory errors into a line that says what to lower."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(
            f"{device} is out of memory at batch_size {recipe.batch_size}: "
            f"--set accumulate={2 * recipe.accumulate} computes it in smaller parts, "
            "--set checkpointing=true needs less for each; or lower the size of the stages"
        ) from error


def train(
    recipe: Recipe,
    folders: list[Path],
    validation: list[Path],
    out: Path,
    *,
    device: str,
    workers: int,
    backgrounds: Path | None = None,
    bar: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Trainer:
    """A trainer from a recipe and folders, ready to run.

    Raises:
        DecoupeError: whatever is wrong with them, before the first step.
    """
    check_device(recipe, device)
    notes = check_backgrounds(recipe, backgrounds)
    begun = begin(recipe)
    recipe, model = begun.recipe, begun.model
    notes += begun.notes
    accelerator = accelerator_for(recipe, device)
    with needing_all(out):
        task = task_of(recipe, folders, validation, backgrounds=backgrounds, device=accelerator.device)
    names = task.vocabulary.names or tuple(task.labels)
    fresh = saved_step(out) is None
    if fresh and isinstance(task, MatteTask) and not recipe.freeze_norms and folded_norms(model):
        with evaluating(model):  # on the CPU still, alike in every process
            unfold_norms(model, task.pictures(UNFOLDED_BY))
    if fresh:  # after the data are found: it may be a download of 800 MB
        notes += pretrain(recipe, model) + match_classes(model, begun.classes, names)
    for note in notes if accelerator.is_main_process else ():
        tell(note)
    return Trainer(
        recipe,
        model,
        task,
        out,
        accelerator=accelerator,
        licence=begun.licence,
        labels=() if task.vocabulary.names else names or begun.classes,
        workers=workers,
        bar=bar,
    )
