"""What the criteria add to a training step, and how long the network waits for its data.

    python benchmarks/training_step.py [--repeats 10] [--data SET] [--steps 60]

The first table: forward and backward with each family's whole criterion beside the same with one binary cross
entropy of the final logits (of MaskFormer's mask logits), taking turns. The second, where a set is given:
the share of a run's time that the network waits for samples, at 320×320 with two workers.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoupe.models import (
    BiRefNet,
    BiRefNetConfig,
    InSPyReNet,
    InSPyReNetConfig,
    MaskFormer,
    MaskFormerConfig,
)
from decoupe.models.birefnet import PRESETS
from decoupe.training.criteria import GENERAL, BiRefNetCriterion, InSPyReNetCriterion
from decoupe.training.loop import train
from decoupe.training.matching import MaskFormerCriterion, Truth
from decoupe.training.recipes import read_recipe
from machine import machine, median_times, parser_of, print_table, versions

Step = Callable[[Any, Tensor], Tensor]


def cases(batch: int, side: int) -> dict[str, tuple[nn.Module, Step, Step]]:
    """Name -> network, the whole loss of its output, and one cross entropy of it."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 1, 8, 8, generator=generator)
    truth = (F.interpolate(coarse, size=(side, side), mode="bilinear") > 0.5).float()
    planes = torch.stack([truth[:, 0], 1 - truth[:, 0]], dim=1)
    segments = [Truth(one, torch.tensor([0, 1])) for one in planes]

    def total(terms: dict[str, Tensor]) -> Tensor:
        return torch.stack(list(terms.values())).sum()

    def one_bce(out: Any, image: Tensor) -> Tensor:
        logits = out.logits if hasattr(out, "logits") else out.mask_logits[:, :1]
        return F.binary_cross_entropy_with_logits(logits, F.interpolate(truth, size=logits.shape[-2:]))

    birefnet, general = BiRefNetCriterion(), BiRefNetCriterion(GENERAL)
    inspyrenet, maskformer = InSPyReNetCriterion(), MaskFormerCriterion()
    pocket = read_recipe("pocket").criterion
    pvt = BiRefNetConfig(backbone="pvt_v2_b0")
    return {
        "BiRefNet, pvt_v2_b0, DIS": (BiRefNet(pvt), lambda out, x: total(birefnet(out, x, truth)), one_bce),
        "BiRefNet, pvt_v2_b0, general": (
            BiRefNet(pvt),
            lambda out, x: total(general(out, x, truth)),
            one_bce,
        ),
        "BiRefNet, pocket": (
            BiRefNet(PRESETS["pocket"]),
            lambda out, x: total(pocket(out, x, truth)),
            one_bce,
        ),
        "InSPyReNet, res2net50": (
            InSPyReNet(InSPyReNetConfig(backbone="res2net50")),
            lambda out, x: total(inspyrenet(out, x, truth)),
            one_bce,
        ),
        "MaskFormer, swin_t": (
            MaskFormer(MaskFormerConfig(backbone="swin_t", classes=2)),
            lambda out, x: total(maskformer(out, segments)),
            one_bce,
        ),
    }


def main() -> None:
    """Print both tables."""
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=320, help="side of the pictures in pixels")
    parser.add_argument("--data", type=Path, help="a matte set, for the second table")
    parser.add_argument("--steps", type=int, default=60, help="of the second table's run")
    options = parser.parse_args()
    print(f"{machine()}, {versions('torch', 'accelerate')}, float32\n")
    image = torch.randn(options.batch, 3, options.size, options.size)
    rows = []
    for name, (model, whole, bare) in cases(options.batch, options.size).items():
        model = model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def step(loss: Step, model: nn.Module = model) -> None:
            model.zero_grad(set_to_none=True)
            loss(model(image), image).backward()  # type: ignore[no-untyped-call]

        times = median_times(
            {"bare": lambda s=step, b=bare: s(b), "whole": lambda s=step, w=whole: s(w)}, options.repeats
        )
        ratio = times["whole"] / times["bare"]
        rows.append([name, f"{times['bare']:.3f}", f"{times['whole']:.3f}", f"{ratio:.2f}×"])
    print(f"batch {options.batch}, {options.size}×{options.size}, forward and backward in seconds\n")
    print_table(["network, criterion", "one BCE, s", "whole criterion, s", "ratio"], rows)
    if options.data:
        print()
        print_table(["recipe", "pictures a second", "waiting for data"], waiting(options.data, options.steps))


def waiting(data: Path, steps: int) -> list[list[str]]:
    """Speed and share of the time spent waiting, of short runs at 320×320 with two workers."""
    rows = []
    for name, more in (("pocket", []), ("birefnet-general", ["model.backbone=pvt_v2_b0", "backbone=null"])):
        settings = [f"steps={steps}", "batch_size=8", "stages=[{size: [320, 320]}]", "sets=[]", *more]
        settings.append(f"validate_every={10 * steps}")
        with tempfile.TemporaryDirectory() as folder:
            trainer = train(read_recipe(name, settings), [data], [], Path(folder), device="cpu", workers=2)
            trainer.task.held_out = {}
            trainer.run(report_every=steps // 3)
            lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
        # The first report holds the workers' start.
        late = [line for line in lines if "waiting" in line][1:]
        speed = sum(line["pictures_per_second"] for line in late) / len(late)
        share = sum(line["waiting"] for line in late) / len(late)
        rows.append([f"{name} {' '.join(more[:1])}", f"{speed:.1f}", f"{share:.1%}"])
    return rows


if __name__ == "__main__":
    main()
