"""One job after the other on two processes each, forked here so that PyTorch is imported once for all.

python two_processes.py DATA OUT

What rank R of a job says goes to OUT/JOB.R, the exit statuses of all to OUT/statuses.json.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import py_sod_metrics  # noqa: F401  (it takes seconds, once here or once in each process that scores)
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from typer.testing import CliRunner

from decoupe import cli
from decoupe.backbones.nano import Nano
from decoupe.layers.blocks import StochasticDepth
from decoupe.models.birefnet import PRESETS
from decoupe.models.maskformer import MaskFormerConfig
from decoupe.training import loop
from decoupe.training.augment import POCKET
from decoupe.training.criteria import BiRefNetCriterion, PixelWeights
from decoupe.training.loop import accelerator_for, train
from decoupe.training.matching import MaskFormerCriterion
from decoupe.training.recipe import Optimizer, Recipe, SetRule, Stage
from decoupe.training.segment_augment import PLAIN
from decoupe.weights.registry import Preprocessing

SETTINGS = ("steps=2", "batch_size=4", "stages=[{size: [32, 32]}]", "model.block_width=16", "sets=[]")
UNTRAINED = ("backbone=null", "frozen=[]")
COMMAND = (
    *("train", "pocket", "--device", "cpu", "--workers", "0"),
    *(word for setting in (*SETTINGS, *UNTRAINED) for word in ("--set", setting)),
)

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
        model=dataclasses.replace(
            PRESETS["pocket"], backbone="nano", block_width=16, context_width=16, squeeze="none"
        ),
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
# No job is about the encoder, and what sharding costs is by the parameter and by the part: few of them, and
# two parts beside the rest.
NARROW = {"channels": (16, 24, 32, 48), "DEPTHS": (1, 1, 0, 0)}
BARE = dataclasses.replace(RECIPES["birefnet"].model, inward="none", outward=False, side_outputs=False)
RECIPES["shard"] = dataclasses.replace(RECIPES["birefnet"], model=BARE, ema=0.5)


def sharding(recipe: Recipe, device: str) -> Accelerator:
    """As ``accelerate launch`` with FSDP makes it; Accelerate itself does so on GPUs only."""
    accelerator = accelerator_for(recipe, device)
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["ResidualBlock"],
        cpu_ram_efficient_loading=False,
    )
    accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def shard(data: str, out: str) -> None:
    """Run it with its model spread over the processes: a step, and another that goes on from there."""
    loop.accelerator_for = sharding
    for until in (1, 2):
        trainer = train(RECIPES["shard"], [Path(data)], [], Path(out), device="cpu", workers=0)
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


def command(data: str, out: str, *options: str) -> None:
    """Train as the command does: at first in torchrun's processes, then it goes on in others."""
    sys.argv[1:] = [*COMMAND, "--data", data, "--out", out, *options]
    cli.main()


def done(job: Callable[[], None], said: Path) -> int:
    """Do it, what it says in a file for each process; its exit status."""
    with said.with_suffix(f".{os.environ['RANK']}").open("w") as file:
        sys.stdout = sys.stderr = file
        try:
            job()
        except SystemExit as ending:
            return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        except BaseException:
            traceback.print_exc()
            return 1
    return 0


def torchrun(job: Callable[[], None], said: Path) -> list[int]:
    """Do it in two processes of ``torchrun --standalone``, which forks them here; their exit statuses."""
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
    )
    statuses = elastic_launch(launch, done)(job, said)
    return [statuses[rank] for rank in range(2)]


def forked(job: Callable[[], None], said: Path) -> list[int]:
    """Do it in two processes that have what of torchrun's environment is needed; their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
            told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in told.items()})
            os._exit(done(job, said))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    data, place = sys.argv[1], Path(sys.argv[2])
    jobs: dict[str, tuple[Callable[..., list[int]], Callable[[], None]]] = {
        "stopped": (torchrun, lambda: command(data, str(place / "command"), "--minutes", "0")),
        "command": (forked, lambda: command(data, str(place / "command"))),
        "birefnet": (forked, lambda: main("birefnet", data, str(place / "birefnet"))),
        "maskformer": (forked, lambda: main("maskformer", data, str(place / "maskformer"))),
        "shard": (forked, lambda: shard(data, str(place / "shard"))),
    }
    place.mkdir()
    for name, value in NARROW.items():
        setattr(Nano, name, value)
    CliRunner().invoke(cli.app, ["train", "--list"])  # imports what a command does, once for all
    gc.collect()
    gc.freeze()  # the processes to come would all walk through what the imports made
    statuses = {name: begun(job, place / f"{name}.said") for name, (begun, job) in jobs.items()}
    (place / "statuses.json").write_text(json.dumps(statuses))
