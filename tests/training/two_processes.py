"""Run by torchrun: one step of a recipe on however many processes; the first writes the gradients.

python -m torch.distributed.run --nproc_per_node 2 two_processes.py FAMILY DATA OUT [shard]
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from safetensors.torch import save_file

from decoupe.layers.blocks import StochasticDepth
from decoupe.models.birefnet import PRESETS
from decoupe.models.maskformer import MaskFormerConfig
from decoupe.training import loop
from decoupe.training.augment import POCKET
from decoupe.training.criteria import BiRefNetCriterion, PixelWeights
from decoupe.training.loop import accelerator_for, train
from decoupe.training.matching import MaskFormerCriterion
from decoupe.training.recipes import Optimizer, Recipe, SetRule, Stage
from decoupe.training.segment_augment import PLAIN
from decoupe.weights.registry import Preprocessing

COMMON = {
    "preprocessing": Preprocessing((64, 64), fit="keep"),
    "stages": (Stage((64, 64)),),
    "steps": 2,
    "batch_size": 4,
    "optimizer": Optimizer(learning_rate=1e-3, clip=5.0),
    "precision": "float32",
    "sets": (SetRule("discs", held_out=5),),
    "freeze_norms": True,  # their statistics are those of each process
}
RECIPES = {
    "birefnet": Recipe(
        family="birefnet",
        model=dataclasses.replace(PRESETS["pocket"], block_width=16, context_width=16, squeeze="none"),
        criterion=BiRefNetCriterion(PixelWeights(bce=1, iou=0.5, ssim=1), classification=0),
        augmentation=POCKET,
        **COMMON,
    ),
    "maskformer": Recipe(
        family="maskformer",
        model=MaskFormerConfig(
            backbone="nano", classes=2, queries=6, layers=2, width=64, feed_forward=64, dropout=0.0
        ),
        criterion=MaskFormerCriterion(),
        augmentation=PLAIN,
        **COMMON,
    ),
}


def sharding(recipe: Recipe, device: str) -> Accelerator:
    """As ``accelerate launch`` with FSDP makes it; Accelerate itself does so on GPUs only."""
    accelerator = accelerator_for(recipe, device)
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["ConvNormAct"],
        cpu_ram_efficient_loading=False,
    )
    accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def shard(family: str, data: str, out: str) -> None:
    """Run it with its model spread over the processes: a step, and another that goes on from there."""
    loop.accelerator_for = sharding
    for until in (1, 2):
        trainer = train(RECIPES[family], [Path(data)], [], Path(out), device="cpu", workers=0)
        assert trainer.state.sharded
        assert trainer.progress.step == until - 1
        assert trainer.run(until=until).step == until
    trainer.close()
    os._exit(0)  # caches of DTensor keep the group, whose threads of gloo could abort the ending process


def main(family: str, data: str, out: str) -> None:
    """Run it."""
    trainer = train(RECIPES[family], [Path(data)], [], Path(out), device="cpu", workers=0)
    for module in trainer.network.modules():
        if isinstance(module, StochasticDepth):
            module.rate = 0.0  # each process drops other paths, as it should in training
    gradients: dict[str, torch.Tensor] = {}
    step = trainer.optimizer.step

    def keep(*arguments: object, **named: object) -> object:
        if not gradients:
            gradients.update(
                {
                    name: p.grad.contiguous().clone()
                    for name, p in trainer.network.named_parameters()
                    if p.grad is not None
                }
            )
        return step(*arguments, **named)

    trainer.optimizer.step = keep
    ending = trainer.run(report_every=1)
    scores = trainer.scores()
    if trainer.accelerator.is_main_process:
        save_file(gradients, Path(out) / "gradients.safetensors")
        about = {"processes": trainer.accelerator.num_processes, "step": ending.step, "scores": scores}
        (Path(out) / "about.json").write_text(json.dumps(about))
    trainer.close()
    # A thread that still communicates as Python ends can abort the process.
    threads = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name], threads


if __name__ == "__main__":
    if len(sys.argv) > 4:
        shard(*sys.argv[1:4])
    else:
        main(*sys.argv[1:])
