"""What fine-tuning on few pictures brings: the embedded model on cats, scored on others.

    python benchmarks/finetuning.py SET --out runs/finetuning [--pairs 60] [--model pocket] [--set KEY=VALUE]

SET is the recipe ``pocket``'s set of cats. Its held-out pairs are scored, which nothing was trained on; the
pairs to train on are drawn from the rest. The training is the command that a user would type, in a process,
with held_out=0: the embedded model has seen these pairs among others, so they cannot tell it when to stop.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import decoupe
from decoupe.datasets.sets import Pair, read_pair
from decoupe.evaluation.mattes import MatteScores
from decoupe.training.recipes import RECIPES
from machine import machine, parser_of, print_table, versions
from pocket_quality import divided


def scored(model: str, pairs: list[Pair]) -> dict[str, float]:
    """The scores of a model's alpha at each picture's own size."""
    predictor, scores = decoupe.load(model), MatteScores()
    for pair in pairs:
        image, truth = read_pair(pair)
        scores.update(predictor(image).alpha, truth)
    return scores.result()


def linked(pairs: list[Pair], folder: Path) -> None:
    """A set of its own, by links to the files."""
    for pair in pairs:
        for kind, file in (("im", pair.image), ("gt", pair.mask)):
            link = folder / kind / Path(str(file)).name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(Path(str(file)).resolve())


def main() -> None:
    """Score, train, score again, and print both rows."""
    parser = parser_of(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()

    rest, held_out = divided(options.data)
    few = options.out / "few"
    linked(random.Random(RECIPES["pocket"].seed).sample(rest, options.pairs), few)

    command = ["decoupe", "train", "finetune", "--from", options.model, "--data", str(few)]
    command += ["-o", str(options.out / "run"), "--set", "held_out=0", "--set", "patience=null", "--quiet"]
    for setting in options.settings:
        command += ["--set", setting]
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.DEVNULL)
    minutes = (time.perf_counter() - begun) / 60

    print(f"{machine()}; {versions('torch', 'pysodmetrics')}")
    print(f"{' '.join(command)}: {minutes:.1f} minutes\n")
    rows = []
    for name, model in (("before", options.model), ("after", str(options.out / "run" / "last.safetensors"))):
        result = scored(model, held_out)
        rows.append([name, str(len(held_out)), *(f"{result[key]:.3f}" for key in ("S", "MAE", "maxF", "wF"))])
    print_table(["model", "held-out pairs", "S", "MAE", "max F", "weighted F"], rows)


if __name__ == "__main__":
    main()
