"""Several processes, over gloo on the CPU: a command in torchrun's, the rest forked in its way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from decoupe.backbones.nano import Nano
from decoupe.cli import app
from decoupe.training.loop import train
from decoupe.training.start import begin
from drawn import draw_discs
from training.two_processes import COMMAND, NARROW, RECIPES, main

SCRIPT = Path(__file__).with_name("two_processes.py")


@dataclass(frozen=True)
class Ran:
    """What two processes did.

    Attributes:
        discs: their data.
        out: a folder for each job.
    """

    discs: Path
    out: Path

    def said(self, job: str) -> str:
        """What both processes of a job that went well said."""
        statuses = json.loads((self.out / "statuses.json").read_text())[job]
        said = "".join((self.out / f"{job}.{rank}").read_text() for rank in range(2))
        assert statuses == [0, 0], said[-3000:]
        return said


@pytest.fixture(scope="module", autouse=True)
def _narrow_encoder() -> Iterator[None]:
    """As the processes have it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in NARROW.items():
            patch.setattr(Nano, name, value)
        yield


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("two")
    discs, out = draw_discs(folder / "discs"), folder / "out"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    jobs = subprocess.run(
        [sys.executable, str(SCRIPT), str(discs), str(out)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=environment,
    )
    assert jobs.returncode == 0, jobs.stderr[-3000:]
    return Ran(discs, out)


@pytest.mark.parametrize("family", ["birefnet", "maskformer"])
def test_two_processes_are_one_with_the_double_batch(family: str, ran: Ran, tmp_path: Path) -> None:
    """Gradients within 1e-5 of their norm, losses and scores of the held-out pictures alike."""
    ran.said(family)
    outs = [tmp_path, ran.out / family]
    main(family, str(ran.discs), str(tmp_path))
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


def test_a_sharded_model_trains_and_goes_on_as_a_whole_one(ran: Ran, tmp_path: Path) -> None:
    """Two steps of FSDP, interrupted after the first, against two of one process: weights and scores."""
    ran.said("shard")
    assert (ran.out / "shard" / "state" / "shards" / ".metadata").exists()
    train(RECIPES["shard"], [ran.discs], [], tmp_path, device="cpu", workers=0).run()
    first, second = (load_file(out / "last.safetensors") for out in (ran.out / "shard", tmp_path))
    assert first.keys() == second.keys()
    begun = begin(RECIPES["shard"])[1].state_dict()
    names = [name for name, value in begun.items() if value.is_floating_point()]
    flat = [torch.cat([one[name].flatten() for name in names]) for one in (first, second, begun)]
    assert (flat[0] - flat[1]).norm() < 0.02 * (flat[1] - flat[2]).norm()


def test_the_command_runs_in_two_processes_and_goes_on(ran: Ran) -> None:
    stopped = ran.said("stopped")
    assert stopped.count("stopped at step 1 of 2; saved in") == 1
    assert "2 × cpu" in stopped
    assert sorted(path.name for path in (ran.out / "command" / "state").iterdir()) == [
        "progress.json",
        "random-0.pt",
        "random-1.pt",
        "state.pt",
    ]
    said = ran.said("command")
    assert "step 1 of 2" in said
    assert said.count(str(ran.out / "command" / "best.safetensors\n")) == 1
    state = torch.load(ran.out / "command" / "state" / "state.pt", weights_only=True)
    assert not [name for name in state["model"] if name.startswith("module.")]
    longer = ["--data", str(ran.discs), "--out", str(ran.out / "command"), "--set", "steps=3"]
    alone = CliRunner().invoke(app, [*COMMAND, *longer])
    assert alone.exit_code == 0, alone.stderr
    assert "step 2 of 3" in alone.stderr
    assert "1 × cpu" in alone.stderr
