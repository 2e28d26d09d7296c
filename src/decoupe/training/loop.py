"""The training loop: one process, resumable, on a CPU deterministic in its recipe.

What it writes into its folder, each file but the log under a temporary name first:

    last.pt               everything needed to go on: model, average, optimiser, random state, step
    weights.safetensors   the averaged weights, ready for ``decoupe.load``
    recipe.json           what was run
    log.jsonl             one line per report: step, size, learning rate, losses, speed, validation; appended
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from decoupe.errors import ConfigError, DecoupeError, InputError
from decoupe.inference.preprocess import from_network, network_size, read_image, to_network
from decoupe.models.birefnet import BiRefNet
from decoupe.training.data import MatteDataset, Pair, Schedule, find_pairs, read_pair, split, spread, to_batch
from decoupe.training.recipes import Recipe
from decoupe.training.validation import FloatArray, score
from decoupe.weights.checkpoint import save_model

log = logging.getLogger("decoupe.training")


class Diverged(DecoupeError):  # noqa: N818 - it is what happened, as in the log
    """The loss is not a number any more; the message names the step."""


@dataclasses.dataclass(frozen=True)
class Sets:
    """Training pairs with their repeats per epoch, and held-out pairs by set."""

    train: tuple[Pair, ...]
    repeats: tuple[int, ...]
    held_out: Mapping[str, tuple[Pair, ...]]


def gather(folders: Sequence[Path], recipe: Recipe) -> Sets:
    """The pairs of several set folders, split as the recipe says.

    Raises:
        InputError: a folder that holds no set, or nothing is left to train on.
    """
    train: list[Pair] = []
    repeats: list[int] = []
    held_out: dict[str, tuple[Pair, ...]] = {}
    for folder in folders:
        kept, out = split(find_pairs(folder), dict(recipe.held_out).get(folder.name, 0), seed=recipe.seed)
        train += kept
        repeats += [dict(recipe.repeats).get(folder.name, 1)] * len(kept)
        if out:
            held_out[folder.name] = (*held_out.get(folder.name, ()), *out)
    if not train:
        raise InputError("every pair is held out: add pairs, or hold out fewer")
    return Sets(tuple(train), tuple(repeats), held_out)


class Trainer:
    """One run of a recipe.

    Args:
        recipe: what to run.
        sets: what to run it on.
        out: folder of the run; a ``last.pt`` in it is continued.
        device: ``"cpu"``, ``"cuda"``.
        workers: processes that prepare samples.
    """

    FIXED = ("model", "batch_size", "repeats", "held_out", "seed")
    """What of a recipe must stay as it is when a run goes on."""

    def __init__(
        self, recipe: Recipe, sets: Sets, out: Path, *, device: str = "cpu", workers: int = 1
    ) -> None:
        self.recipe, self.sets, self.out = recipe, sets, out
        self.device = torch.device(device)
        self.workers = workers
        torch.manual_seed(recipe.seed)
        self.model = BiRefNet(recipe.model).to(memory_format=torch.channels_last).to(self.device)
        ema = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.model, multi_avg_fn=ema, use_buffers=True)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
        self.step = 0
        self.totals: dict[str, Tensor] = {}  # of each loss term since the last report
        self.reported = 0
        out.mkdir(parents=True, exist_ok=True)
        if (out / "last.pt").exists():
            self.restore()

    def run(self, *, report_every: int = 50, save_every: int = 250, validate_every: int = 1000) -> None:
        """Train to the recipe's last step."""
        write_atomically(
            self.out / "recipe.json", json.dumps(dataclasses.asdict(self.recipe), indent=1).encode()
        )
        started = time.monotonic()
        for images, masks in self.batches():
            self.optimize(images, masks)
            if self.step % report_every == 0:
                seconds = time.monotonic() - started
                self.report(
                    {"images_per_second": report_every * len(images) / seconds, "size": images.shape[-1]}
                )
            finished = self.step == self.recipe.steps
            if self.step % validate_every == 0 or finished:
                self.report({"validation": self.validate()})
            if self.step % save_every == 0 or finished:
                self.save()
            if self.step % report_every == 0:
                started = time.monotonic()  # validating and saving are not training

    def batches(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Batches from where the run stands to its end."""
        recipe = self.recipe
        schedule = Schedule(
            self.sets.repeats,
            [recipe.size_at(step) for step in range(recipe.steps)],
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            start=self.step,
        )
        longest = max(stage.size for stage in recipe.stages) * 11 // 10  # crops are enlarged a little
        return DataLoader(
            MatteDataset(self.sets.train, recipe.augmentation, seed=recipe.seed, longest=longest),
            batch_sampler=schedule,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own: a resumed run must not draw one number more
        )

    def optimize(self, images: Tensor, masks: Tensor) -> None:
        """One optimiser step on one uint8 batch."""
        image, truth = to_batch(images, masks, self.device)
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            out = self.model(image)
        terms = self.recipe.criterion(out, image, truth)
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            values = ", ".join(f"{name} {float(value.detach()):.3g}" for name, value in terms.items())
            raise Diverged(
                f"the loss is not finite at step {self.step} ({values}): lower the learning rate and go on"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        self.step += 1
        for name, value in terms.items():
            self.totals[name] = self.totals.get(name, 0.0) + value.detach()

    def validate(self, *, pairs_per_set: int = 100) -> dict[str, dict[str, float]]:
        """The metrics of the averaged weights on held-out pairs of each set."""
        results = {}
        for name, pairs in self.sets.held_out.items():
            decoded = (read_pair(pair) for pair in spread(pairs, pairs_per_set))
            results[name] = score((self.predict(image), truth) for image, truth in decoded)
        return results

    @torch.inference_mode()
    def predict(self, image: NDArray[np.uint8]) -> FloatArray:
        """A photograph ``(H, W, 3)`` -> its alpha ``(H, W)``, as users of the averaged weights get it."""
        picture = read_image(image)
        size = network_size(picture.size, self.recipe.preprocessing)
        pixels = to_network(picture, size, self.recipe.preprocessing)
        batch = torch.from_numpy(pixels)[None].to(self.device)
        logits: Tensor = self.average.module.eval()(batch).logits
        return from_network(logits.sigmoid()[0, 0].cpu().numpy(), picture)

    def report(self, extra: Mapping[str, Any]) -> None:
        """Append one line to the log: where the run stands, mean losses since the last, ``extra``."""
        line: dict[str, Any] = {
            "step": self.step,
            "epoch": round(self.step * self.recipe.batch_size / sum(self.sets.repeats), 2),
            "lr": self.recipe.learning_rate_at(self.step),
        }
        steps = self.step - self.reported
        line |= {name: round(float(total) / steps, 5) for name, total in self.totals.items()}
        line |= extra
        self.totals, self.reported = {}, self.step
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        log.info("%s", line)

    def save(self) -> None:
        """Write ``last.pt`` and the averaged weights, each whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all(),
            "step": self.step,
        }
        temporary = self.out / f"last.pt.{os.getpid()}"
        torch.save(state, temporary)
        temporary.replace(self.out / "last.pt")
        save_model(
            self.average.module,
            self.out / "weights.safetensors",
            family="birefnet",
            preprocessing=self.recipe.preprocessing,
            extra={"step": self.step, "recipe": dataclasses.asdict(self.recipe)},
        )

    def restore(self) -> None:
        """Go on from ``last.pt``; the run may have become longer or slower, not another one.

        Raises:
            ConfigError: the run was begun with another model, split, order or seed.
        """
        begun = json.loads((self.out / "recipe.json").read_text())
        now = json.loads(json.dumps(dataclasses.asdict(self.recipe)))
        changed = [name for name in self.FIXED if begun[name] != now[name]]
        if changed:
            raise ConfigError(
                f"{self.out} was begun with another {' and '.join(changed)}: "
                "go on with that, or name another folder"
            )
        state = torch.load(self.out / "last.pt", weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"].cpu())
        torch.cuda.set_rng_state_all([random.cpu() for random in state["cuda_random"]])
        self.step = state["step"]
        self.reported = self.step


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
