"""What each part of the embedded model is worth: variants of it, each trained on equal views.

    python benchmarks/pocket_ablation.py SETS... --out runs/ablation [--steps 1000] [--batch 64]
        [--encoder imagenet] [--only NAME ...] [--device cuda] [--workers 1]

Every variant changes one thing of the recipe ``pocket``. All see the same pictures in the same order, 70 % of
the steps at 128², the rest at 192², and are scored at an area of 192² on the held-out pairs of the first set.
``--encoder`` is where the pretrained encoder comes from, as ``decoupe train --set backbone=`` takes it. The
second row is the first with a decoder from other random weights: differences as small as theirs say nothing.
``ms`` is the network alone in its fast form on this machine's CPU, 320×320, float32, by turns. An
interrupted run goes on, and a variant whose scores are in --out is not trained again: several of these may
share a GPU, each with some of the variants, and one more prints the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import torch

from decoupe.models import BiRefNet
from decoupe.models.fuse import fuse
from decoupe.training.criteria import BiRefNetCriterion
from decoupe.training.loop import train
from decoupe.training.recipe import Recipe, Stage
from decoupe.training.recipes import RECIPES
from decoupe.training.start import in_backbone
from machine import machine, median_times, parser_of, print_table, versions

BASE = RECIPES["pocket"]


def variant(**model: object) -> Recipe:
    """The recipe with another network."""
    return dataclasses.replace(BASE, model=dataclasses.replace(BASE.model, **model))  # type: ignore[arg-type, type-var]


def costing(*, gradient: float = 0.3, **pixel: float) -> Recipe:
    """The recipe with another loss."""
    assert isinstance(BASE.criterion, BiRefNetCriterion)
    weights = dataclasses.replace(BASE.criterion.pixel, **pixel)
    return dataclasses.replace(
        BASE, criterion=dataclasses.replace(BASE.criterion, pixel=weights, gradient=gradient)
    )


VARIANTS: dict[str, Recipe] = {
    "as it is": BASE,
    "as it is, from other random weights": BASE,
    "the encoder from random weights": dataclasses.replace(BASE, backbone=None, frozen=()),
    "an encoder of dense convolutions, from random weights": dataclasses.replace(
        variant(backbone="nano"), backbone=None, frozen=()
    ),
    "the whole encoder trained": dataclasses.replace(BASE, frozen=()),
    "the whole encoder frozen": dataclasses.replace(
        BASE, optimizer=dataclasses.replace(BASE.optimizer, backbone=0)
    ),
    "no inward reference": variant(inward="none"),
    "inward reference by a grid of patches (the paper)": variant(inward="split"),
    "no outward reference": variant(outward=False),
    "outward reference without its gradient loss": costing(gradient=0),
    "no context module": variant(squeeze="none"),
    "deformable context module": variant(squeeze="aspp_deformable"),
    "context modules in the decoder too": variant(context="aspp"),
    "half as wide a decoder": variant(block_width=24),
    "plain cross entropy as the only loss": costing(gradient=0, structure=0, bce=1),
    "SSIM added to the loss": costing(ssim=0.5),
    "no dropout in the context module": variant(dropout=0.0),
}
SEEDS = {"as it is, from other random weights": 1}


def found(folder: Path, name: str) -> dict[str, float] | None:
    """The scores that a finished variant has on a set, if it is finished."""
    log = folder / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    scores: list[dict[str, float]] = [line["validation"][name] for line in lines if "validation" in line]
    return scores[-1] if scores else None


def trained(name: str, recipe: Recipe, options: argparse.Namespace) -> dict[str, float]:
    """Scores of a variant on the first set's held-out pairs."""
    steps, folder = options.steps, options.out / re.sub(r"\W+", "-", name)
    if scores := found(folder, options.sets[0].name):
        return scores
    assert recipe.preprocessing is not None
    recipe = dataclasses.replace(
        recipe,
        backbone=recipe.backbone and options.encoder,
        steps=steps,
        batch_size=options.batch,
        stages=(Stage((128, 128), 0.7), Stage((192, 192))),
        preprocessing=dataclasses.replace(recipe.preprocessing, size=(192, 192)),
        optimizer=dataclasses.replace(recipe.optimizer, warm_up=min(50, steps // 4)),
        ema=0.99,
        validate_every=steps,
    )
    trainer = train(recipe, options.sets, [], folder, device=options.device, workers=options.workers)
    if trainer.progress.step == 0 and name in SEEDS:
        torch.manual_seed(SEEDS[name])
        for place, module in trainer.network.named_modules():
            if isinstance(module, torch.nn.Conv2d) and not in_backbone(place):
                module.reset_parameters()
    trainer.run(report_every=100)
    trainer.close()
    if scores := found(folder, options.sets[0].name):
        return scores
    raise SystemExit("interrupted: the same command goes on where this one stopped")


def network(recipe: Recipe) -> Callable[[], object]:
    """One pass of the variant's network."""
    model = fuse(BiRefNet(recipe.model).eval())  # type: ignore[arg-type]
    image = torch.zeros(1, 3, 320, 320)

    def run() -> object:
        with torch.inference_mode():
            return model(image)

    return run


def main() -> None:
    """Print one row per variant."""
    parser = parser_of(__doc__)
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--encoder", default="imagenet", help="weights of the pretrained encoder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()

    scores = {name: trained(name, VARIANTS[name], options) for name in options.only}
    seconds = median_times({name: network(VARIANTS[name]) for name in scores}, repeats=15)
    print(f"{machine()}; {versions('torch', 'pysodmetrics')}")
    print(f"{options.steps} steps of {options.batch} pictures\n")
    rows = [
        [
            name,
            f"{sum(p.numel() for p in BiRefNet(VARIANTS[name].model).parameters()) / 1e6:.2f}",  # type: ignore[arg-type]
            *(f"{result[key]:.3f}" for key in ("S", "MAE", "maxF", "wF")),
            f"{1000 * seconds[name]:.0f}",
        ]
        for name, result in scores.items()
    ]
    print_table(["variant", "million parameters", "S", "MAE", "max F", "weighted F", "ms"], rows)


if __name__ == "__main__":
    main()
