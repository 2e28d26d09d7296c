"""Several processes by torchrun, over gloo on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from decoupe.training.loop import train
from decoupe.training.start import begin
from training.two_processes import RECIPES, main

SCRIPT = Path(__file__).with_name("two_processes.py")


def launch(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    run = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run


@pytest.mark.parametrize("family", ["birefnet", "maskformer"])
def test_two_processes_are_one_with_the_double_batch(family: str, discs: Path, tmp_path: Path) -> None:
    """Gradients within 1e-5 of their norm, losses and scores of the held-out pictures alike."""
    outs = [tmp_path / "one", tmp_path / "two"]
    main(family, str(discs), str(outs[0]))
    launch(2, str(SCRIPT), family, str(discs), str(outs[1]))
    about = [json.loads((out / "about.json").read_text()) for out in outs]
    assert [one["processes"] for one in about] == [1, 2]
    first, second = (load_file(out / "gradients.safetensors") for out in outs)
    assert first.keys() == second.keys()
    flat = [torch.cat([one[name].flatten() for name in first]) for one in (first, second)]
    assert (flat[0] - flat[1]).norm() < 1e-5 * flat[0].norm()
    losses = [json.loads((out / "log.jsonl").read_text().splitlines()[0])["loss"] for out in outs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, score in about[0]["scores"]["discs"].items():
        assert about[1]["scores"]["discs"][name] == pytest.approx(score, abs=0.01), name


def test_a_sharded_model_trains_and_goes_on_as_a_whole_one(discs: Path, tmp_path: Path) -> None:
    """Two steps of FSDP, interrupted after the first, against two of one process: weights and scores."""
    launch(2, str(SCRIPT), "birefnet", str(discs), str(tmp_path / "shards"), "shard")
    assert (tmp_path / "shards" / "state" / "shards" / ".metadata").exists()
    whole = train(RECIPES["birefnet"], [discs], [], tmp_path / "whole", device="cpu", workers=0)
    whole.run()
    first, second = (load_file(tmp_path / name / "last.safetensors") for name in ("shards", "whole"))
    assert first.keys() == second.keys()
    begun = begin(RECIPES["birefnet"])[1].state_dict()
    names = [name for name, value in begun.items() if value.is_floating_point()]
    flat = [torch.cat([one[name].flatten() for name in names]) for one in (first, second, begun)]
    assert (flat[0] - flat[1]).norm() < 0.02 * (flat[1] - flat[2]).norm()


def test_the_command_runs_in_two_processes_and_goes_on(discs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = ["steps=4", "batch_size=4", "stages=[{size: [32, 32]}]", "model.block_width=16", "sets=[]"]
    command = ["-m", "decoupe", "train", "pocket", "--data", str(discs), "--out", str(out), "--device", "cpu"]
    command += ["--workers", "0", *(word for setting in settings for word in ("--set", setting))]
    stopped = launch(2, *command, "--minutes", "0")
    assert stopped.stderr.count("stopped at step 1 of 4; saved in") == 1
    assert "2 × cpu" in stopped.stderr
    assert sorted(path.name for path in (out / "state").iterdir()) == [
        "progress.json",
        "random-0.pt",
        "random-1.pt",
        "state.pt",
    ]
    finished = launch(2, *command)
    assert finished.stdout.split() == [str(out / "best.safetensors")]
