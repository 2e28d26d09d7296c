"""How fast and how exact scoring is, beside a loop over pysodmetrics.

    python benchmarks/evaluation.py SET [--pairs 1000] [--size 400x300] [--effort] [--workers 2]

SET is a matte set; its masks, resized, are the truths, and the embedded model's mattes of its photographs
the predictions. Both sides read the same PNG files and compute S, MAE, F, E and weighted F with all their
curves, and with ``--effort`` human correction effort as well. The yardstick is one process that steps
pysodmetrics' own objects picture by picture, as its examples do. What is printed last is the peak memory of
``decoupe eval``, the largest of its processes, for a quarter of the pictures and for all.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import py_sod_metrics
from PIL import Image

import decoupe
from decoupe.datasets.sets import find_pairs, read_pair, spread
from decoupe.evaluation.files import match
from decoupe.evaluation.run import evaluate, jobs_of
from machine import machine, parser_of, print_table, versions

COLUMNS = ("S", "MAE", "maxF", "meanF", "adpF", "IoU", "maxE", "meanE", "adpE", "wF")


def draw(folder: Path, data: Path, count: int, size: tuple[int, int]) -> None:
    """Write truths and predictions of one size; pairs are used again, mirrored, where there are too few."""
    predictor = decoupe.load()
    pairs = spread(find_pairs(data), count)
    for kind in ("pred", "gt"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        image, truth = read_pair(pairs[number % len(pairs)])
        if number >= len(pairs):
            image, truth = image[:, ::-1], truth[:, ::-1]
        alpha = (predictor(np.ascontiguousarray(image)).alpha * 255).round().astype(np.uint8)
        for kind, matte in (("pred", alpha), ("gt", truth)):
            resized = Image.fromarray(matte).resize(size, Image.Resampling.BICUBIC)
            resized.save(folder / kind / f"{number:05}.png")


def by_pysodmetrics(folder: Path, *, effort: bool) -> dict[str, float]:
    """One picture after the other, in one process."""
    fm = {"with_dynamic": True, "with_adaptive": True}
    f = py_sod_metrics.FmeasureV2(
        {
            "fm": py_sod_metrics.FmeasureHandler(**fm, beta=0.3),
            "pre": py_sod_metrics.PrecisionHandler(with_dynamic=True, with_adaptive=False),
            "rec": py_sod_metrics.RecallHandler(with_dynamic=True, with_adaptive=False),
            "iou": py_sod_metrics.IOUHandler(with_dynamic=False, with_adaptive=False, with_binary=True),
        }
    )
    metrics: dict[str, Any] = {
        "f": f,
        "s": py_sod_metrics.Smeasure(),
        "m": py_sod_metrics.MAE(),
        "e": py_sod_metrics.Emeasure(),
        "w": py_sod_metrics.WeightedFmeasure(),
    }
    if effort:
        metrics["h"] = py_sod_metrics.HumanCorrectionEffortMeasure()
    for path in sorted((folder / "pred").iterdir()):
        files = (folder / kind / path.name for kind in ("pred", "gt"))
        pred, gt = (np.asarray(Image.open(file).convert("L")) for file in files)
        for metric in metrics.values():
            metric.step(pred=pred, gt=gt)
    found = {name: metric.get_results() for name, metric in metrics.items()}
    fm_found, em = found["f"]["fm"], found["e"]["em"]
    results = {
        "S": found["s"]["sm"],
        "MAE": found["m"]["mae"],
        "maxF": fm_found["dynamic"].max(),
        "meanF": fm_found["dynamic"].mean(),
        "adpF": fm_found["adaptive"],
        "IoU": found["f"]["iou"]["binary"],
        "maxE": em["curve"].max(),
        "meanE": em["curve"].mean(),
        "adpE": em["adp"],
        "wF": found["w"]["wfm"],
        **({"HCE": found["h"]["hce"]} if effort else {}),
    }
    return {name: float(value) for name, value in results.items()}


def peak(folder: Path, columns: tuple[str, ...], workers: int) -> float:
    """Peak memory of a fresh ``decoupe eval``, 10^6 bytes, the largest of its processes."""
    code = (
        "import resource, subprocess, sys;"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = ["decoupe", "eval", "--pred", str(folder / "pred"), "--gt", str(folder / "gt"), "-q"]
    command += ["--measures", ",".join(columns), "--workers", str(workers)]
    run = [sys.executable, "-c", code, sys.executable, "-m", *command]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    return int(done.stdout) * 1024 / 1e6


def main() -> None:
    """Print times, the largest difference, and memory."""
    parser = parser_of(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--size", default="400x300", help="WIDTHxHEIGHT of the pictures")
    parser.add_argument("--effort", action="store_true", help="human correction effort too")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    columns = (*COLUMNS, "HCE") if options.effort else COLUMNS
    print(f"{machine()}; {versions('numpy', 'scipy', 'pysodmetrics')}")
    with tempfile.TemporaryDirectory() as name:
        folder, part = Path(name) / "all", Path(name) / "part"
        draw(folder, options.data, options.pairs, (width, height))
        begun = time.perf_counter()
        expected = by_pysodmetrics(folder, effort=options.effort)
        alone = time.perf_counter() - begun
        begun = time.perf_counter()
        pairs = match(folder / "pred", folder / "gt").pairs
        found = evaluate(jobs_of(pairs), columns, stretch=True, workers=options.workers).scores.result()
        ours = time.perf_counter() - begun
        largest = max(abs(found[name] - expected[name]) for name in expected)
        for kind in ("pred", "gt"):
            (part / kind).mkdir(parents=True)
            for path in sorted((folder / kind).iterdir())[: options.pairs // 4]:
                (part / kind / path.name).symlink_to(path)
        few, many = (peak(one, columns, options.workers) for one in (part, folder))
    print(f"{options.pairs} pairs of {options.size}, {len(columns)} columns, {options.workers} processes\n")
    print_table(
        ["", "seconds", "ms a pair", "faster"],
        [
            ["pysodmetrics, one after the other", f"{alone:.1f}", f"{1000 * alone / options.pairs:.0f}", ""],
            ["decoupe", f"{ours:.1f}", f"{1000 * ours / options.pairs:.0f}", f"{alone / ours:.1f}×"],
        ],
    )
    print(f"\nlargest difference of a column: {largest:.1e}")
    print(f"peak memory: {few:.0f} MB for {options.pairs // 4} pairs, {many:.0f} MB for {options.pairs}")


if __name__ == "__main__":
    main()
