"""Learning from nothing: validation scores of each family over a few hundred steps from random weights.

    python benchmarks/learning.py SET [SET ...] --out runs/learning [--only FAMILY] [--minutes 30]

SET is a matte set, of which 25 pairs are held out; MaskFormer sees each set as a class, with everything else
as another. The networks and pictures are small, so that two cores suffice. A run in the folder goes on where
it stopped.
"""

from __future__ import annotations

import json
from pathlib import Path

from decoupe.training.loop import train
from decoupe.training.recipes import read_recipe
from machine import machine, parser_of, print_table, versions

SETTINGS: dict[str, tuple[str, list[str]]] = {
    "birefnet": (
        "birefnet-general",
        [
            "model.backbone=pvt_v2_b0",
            "steps=400",
            "batch_size=8",
            "stages=[{size: [160, 160]}]",
            "preprocessing.size=[160, 160]",
            "preprocessing.size_range=[96, 320]",
            "optimizer.learning_rate=5e-4",
            "optimizer.clip=5.0",
            "last_epochs=null",
        ],
    ),
    "inspyrenet": (
        "inspyrenet-sod-res2net50",
        [
            "model.base_size=[128, 128]",
            "steps=300",
            "batch_size=6",
            "stages=[{size: [128, 128]}]",
            "preprocessing.size=[128, 128]",
            "preprocessing.size_range=[64, 256]",
            "preprocessing.two_scale=null",
            "optimizer.backbone=1.0",
            "optimizer.learning_rate=3e-4",
            "optimizer.warm_up=20",
        ],
    ),
    "maskformer": (
        "maskformer-swin-tiny-ade",
        [
            "model.backbone=pvt_v2_b0",
            "model.queries=20",
            "model.layers=3",
            "model.classes=3",
            "steps=600",
            "batch_size=8",
            "stages=[{size: [160, 160]}]",
            "preprocessing.size=[160, 160]",
            "preprocessing.longest=320",
            "preprocessing.size_range=[96, 320]",
            "optimizer.backbone=1.0",
            "optimizer.learning_rate=3e-4",
            "optimizer.clip=1.0",
        ],
    ),
}
"""Recipe and settings of each family: the paper's criterion and augmentation, everything else small."""
SHARED = ["backbone=null", "precision=float32", "seed=20261120"]


def main() -> None:
    """Train, then print one table per family."""
    parser = parser_of(__doc__)
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--only", choices=SETTINGS, help="one family")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop each run after so long")
    options = parser.parse_args()
    print(f"{machine()}, {versions('torch', 'accelerate')}, float32")
    rules = ", ".join(f"{{name: {folder.name}, held_out: 25}}" for folder in options.sets)
    for family in [options.only] if options.only else SETTINGS:
        recipe_name, settings = SETTINGS[family]
        recipe = read_recipe(recipe_name, [*SHARED, *settings, f"sets=[{rules}]", "validate_every=50"])
        out = options.out / family
        trainer = train(recipe, options.sets, [], out, device="cpu", workers=1)
        trainer.run(minutes=options.minutes)
        print(f"\n{family}: {recipe_name} with {', '.join(settings)}\n")
        show(out / "log.jsonl")


def show(log: Path) -> None:
    """Print the validation scores of a run."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    scored = {line["step"]: line["validation"] for line in lines if "validation" in line}
    first = next(iter(scored.values()))
    columns = [(name, key) for name, scores in first.items() for key in scores]
    rows = [
        [str(step), *(f"{scores[name][key]:.3f}" for name, key in columns)] for step, scores in scored.items()
    ]
    print_table(["step", *(f"{name} {key}" for name, key in columns)], rows)


if __name__ == "__main__":
    main()
