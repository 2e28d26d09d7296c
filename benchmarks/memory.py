"""What the plan expects a process to hold, beside what it holds; and large photographs within a budget.

    python benchmarks/memory.py [MODEL ...] [--sizes 1024 2048] [--threads 2]
    python benchmarks/memory.py MODEL ... --photograph 8000x6000 --budget 4GB

MODEL is a preset of decoupe.models, its weights drawn at random, or ``pocket`` for the embedded default. Each
row is a process of its own, measured at its peak (VmHWM): Python, PyTorch, weights and the picture with it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

import decoupe
from decoupe.memory import held, parse_memory
from fast import PHOTOGRAPH, written
from machine import machine, memory_of, parser_of, print_table, versions

FORMS = "float32", "bfloat16"


def one(path: str, form: str, size: int, budget: str) -> None:
    """Print, as JSON, what one prediction was expected to take and took; run in a process of its own."""
    predictor = decoupe.load(path or None, dtype=form, size=size, device="cpu", memory=budget or None)
    before = held("cpu")
    footprint = predictor.runtime.footprint()
    image = np.asarray(Image.open(PHOTOGRAPH).resize((2400, 1600)))
    predictor(image)
    print(json.dumps({"expected": before + footprint.of(size * size), "held": memory_of()}))


def command(script: list[str]) -> dict[str, float]:
    """What a process of this file prints."""
    ran = subprocess.run([sys.executable, __file__, *script], check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(ran.stdout)
    return result


def cut(path: str | None, photograph: str, budget: str) -> None:
    """Print, as JSON, peak and seconds of `decoupe cut` in this process."""
    from decoupe.cli import app

    model = ["-m", path] if path else []
    begun = time.perf_counter()
    try:
        app(["cut", photograph, "-o", f"{photograph}.png", *model, "--memory", budget, "-q"])
    except SystemExit as end:
        if end.code:
            raise
    print(json.dumps({"held": memory_of(), "seconds": time.perf_counter() - begun}))


def main() -> None:
    """Print the machine and the table."""
    parser = parser_of(__doc__)
    parser.add_argument("models", nargs="*", default=["birefnet-lite", "birefnet", "inspyrenet"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[1024, 2048])
    parser.add_argument("--photograph", metavar="WxH", help="cut a photograph of this size instead")
    parser.add_argument("--budget", default="", help="as --memory takes it")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--cut", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore", decoupe.SizeWarning)
    if options.one:
        path, form, size, budget = options.one
        one(path, form, int(size), budget)
        return
    if options.cut:
        cut(*options.cut)
        return

    print(f"{machine()}; {versions('torch', 'onnxruntime', 'numpy', 'pillow')}\n")
    with tempfile.TemporaryDirectory() as folder:
        models = {name: "" if name == "pocket" else str(written(name, folder)) for name in options.models}
        if options.photograph:
            photographs(models, options.photograph, options.budget or "4GB", Path(folder))
            return
        rows = []
        for name, path in models.items():
            for form in FORMS if path else FORMS[:1]:  # exported files compute in float32
                for size in options.sizes:
                    found = command(["--one", path, form, str(size), options.budget])
                    figures = (f"{found[key] / 1e9:.2f}" for key in ("expected", "held"))
                    rows.append([name, form, f"{size}×{size}", *figures])
        print_table(["model", "precision", "size", "expected, GB", "held, GB"], rows)


def photographs(models: dict[str, str], size: str, budget: str, folder: Path) -> None:
    """Cut one large photograph with each model."""
    width, height = map(int, size.split("x"))
    photograph = folder / "photograph.jpg"
    with Image.open(PHOTOGRAPH) as image:
        image.resize((width, height), Image.Resampling.BICUBIC).save(photograph, quality=92)
    rows = []
    for name, path in models.items():
        found = command(["--cut", path, str(photograph), budget])
        Path(f"{photograph}.png").unlink()
        gigabytes = (f"{parse_memory(budget) / 1e9:.1f}", f"{found['held'] / 1e9:.2f}")
        rows.append([name, f"{width}×{height}", *gigabytes, f"{found['seconds']:.1f}"])
    print_table(["model", "photograph", "budget, GB", "held, GB", "s"], rows)


if __name__ == "__main__":
    main()
