"""What exporting costs and what the file costs to run, in processes of their own.

    python benchmarks/exporting.py [MODEL ...] [--repeats 3] [--threads 2] [--size 1024]
    python benchmarks/exporting.py --export-only FORM [MODEL ...]
    python benchmarks/exporting.py --settings [MODEL]
    python benchmarks/exporting.py --int8 DIR [MODEL] [--repeats 50]

MODEL is a preset of decoupe.models, its weights drawn at random. "export" is the whole of `decoupe export`:
tracing, writing and the comparison with torch. The rows of each model are then one picture of noise computed
by the fast torch form in float32 and by ONNX Runtime, by turns; each peak is that of a process of its own.
--export-only stops after exporting in one form, onnx or gather.
--settings computes one file under several settings of ONNX Runtime.
--int8 quantises a model of the catalogue, the embedded default else, as `decoupe export --int8 DIR` does, and
tells size, time and what it loses, kept or not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from machine import machine, median_times, memory_of, parser_of, print_table, versions

FORMS = ("onnx", "gather")


def in_process(*arguments: str) -> dict[str, Any]:
    """What a step of this script prints, run in a process of its own."""
    command = [sys.executable, __file__, "--step", *arguments]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(ran.stdout.splitlines()[-1])


def export(name: str, path: str, deform: str) -> dict[str, Any]:
    """Export a preset; seconds, peak and the largest difference found."""
    from decoupe.export import export_onnx
    from decoupe.weights.registry import CATALOGUE
    from fast import drawn

    _, model = drawn(name)
    begun = time.perf_counter()
    preprocessing = CATALOGUE[name].preprocessing
    report = export_onnx(
        model, path, preprocessing=preprocessing, metadata={"name": name}, deform=deform, force=True
    )
    return {
        "seconds": time.perf_counter() - begun,
        "peak": memory_of() / 2**30,
        "largest": max(row.largest for row in report),
        "megabytes": Path(path).stat().st_size / 1e6,
    }


def runner(kind: str, path: str, threads: int) -> Any:
    """A function of one normalised batch."""
    if kind == "onnx":
        from decoupe.runtimes.exported import open_file

        opened = open_file(Path(path), device="cpu")
        return lambda images: opened(images)
    import torch

    from decoupe.models import fuse
    from fast import drawn

    torch.set_num_threads(threads)
    model = fuse.fuse(drawn(path)[1])

    def run(images: Any) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(images))

    return run


def integers(folder: Path, model: str | None, repeats: int) -> None:
    """Size, time and measures of a matte model's file in floats and in 8-bit integers.

    Args:
        folder: a set with ``im`` and ``gt``. Of a set of the recipe ``pocket``, pairs that it trains on
            calibrate and held-out ones judge; of another, a quarter calibrates.
        model: exported; None is the embedded file as it is.
        repeats: of timing.
    """
    from decoupe.datasets.sets import find_pairs, spread
    from decoupe.export import export_onnx, quantization
    from decoupe.inference.predictor import open_predictor
    from decoupe.weights import load_model
    from pocket_quality import divided

    seen, held = divided(folder)
    if not seen:
        pairs = find_pairs(folder)
        seen, held = pairs[::4], [pair for index, pair in enumerate(pairs) if index % 4]
    loaded = load_model(model or "pocket")
    with tempfile.TemporaryDirectory() as place:
        files = {"float32": Path(place, "floats.onnx"), "int8": Path(place, "integers.onnx")}
        stored = {"name": "model", "family": loaded.family}
        export_onnx(loaded.model, files["float32"], preprocessing=loaded.preprocessing, metadata=stored)
        plain = open_predictor(files["float32"], device="cpu")
        seen, held = spread(seen, quantization.CALIBRATED), spread(held, quantization.JUDGED)
        quantization.calibrate(files["float32"], files["int8"], plain, seen)
        opened = {"float32": plain, "int8": open_predictor(files["int8"], device="cpu")}
        effect = quantization.measured(*opened.values(), held)
        images = np.random.default_rng(0).normal(size=(1, 3, *loaded.preprocessing.size)).astype(np.float32)
        seconds = median_times(
            {form: lambda each=each: each.runtime(images) for form, each in opened.items()}, repeats
        )
        rows = [
            [
                form,
                f"{path.stat().st_size / 1e6:.1f}",
                f"{1000 * seconds[form]:.0f}",
                *(f"{measures[name]:.4f}" for name in ("S", "MAE")),
            ]
            for (form, path), measures in zip(files.items(), (effect.before, effect.after), strict=True)
        ]
    print_table([f"{model or 'pocket'}, {effect.pictures} pictures", "MB", "ms a picture", "S", "MAE"], rows)
    verdict = "kept" if effect.lost <= 0.005 else "not kept: at most .005 may be lost"
    print(f"\nS lost {effect.lost:.4f}, alpha differs by {effect.alpha:.4f} on average: {verdict}")


def settings(name: str, size: int, repeats: int) -> None:
    """Seconds and peak of a file under settings of ONNX Runtime, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "model.onnx"))
        in_process("export", name, path, "onnx")
        rows = []
        for setting in (
            "threads=1",
            "threads=2",
            "threads=3",
            "no arena",
            "arena kept",
            "planned",
            "spinning",
            "basic",
            "extended",
            "ours",
        ):
            told = in_process("setting", path, setting, str(size), str(repeats))
            rows.append([setting, f"{told['seconds']:.2f}", f"{told['peak']:.2f}", f"{told['kept']:.2f}"])
    print_table([f"{name}, {size}×{size}", "s", "peak GiB", "GiB after"], rows)


def under(path: str, setting: str, size: str, repeats: str) -> dict[str, float]:
    """One file under one setting, the others as `decoupe.runtimes.sessions` has them."""
    import onnxruntime

    from decoupe.runtimes.sessions import returning_memory

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = setting != "no arena"
    options.enable_mem_pattern = setting == "planned"
    spinning = "1" if setting == "spinning" else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    if setting.startswith("threads="):
        options.intra_op_num_threads = int(setting[8:])
    levels = onnxruntime.GraphOptimizationLevel
    known = {"basic": levels.ORT_ENABLE_BASIC, "extended": levels.ORT_ENABLE_EXTENDED}
    options.graph_optimization_level = known.get(setting, levels.ORT_ENABLE_ALL)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(1, 3, int(size), int(size))).astype(np.float32)
    after = None if setting in ("no arena", "arena kept") else returning_memory()
    seconds = median_times({"it": lambda: session.run(None, {"image": images}, after)}, int(repeats))["it"]
    kept = memory_of(field="VmRSS") / 2**30
    return {"seconds": seconds, "peak": memory_of() / 2**30, "kept": kept}


STEPS: dict[str, Callable[..., dict[str, float]]] = {"export": export, "setting": under}


def main() -> None:
    """Print the machine and the tables."""
    parser = parser_of(__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--export-only", choices=FORMS, metavar="FORM", help="and run nothing")
    parser.add_argument("--int8", type=Path, metavar="DIR", help="in 8 bits, on these photographs and masks")
    parser.add_argument("--settings", action="store_true", help="ONNX Runtime's settings")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    images = np.random.default_rng(0).normal(size=(1, 3, options.size, options.size)).astype(np.float32)
    if options.step:
        step, *rest = options.step
        if step in STEPS:
            print(json.dumps(STEPS[step](*rest)))
        else:
            runner(step, rest[0], options.threads)(images)
            print(json.dumps({"peak": memory_of() / 2**30}))
        return
    print(f"{machine()}; {versions('torch', 'onnx', 'onnxscript', 'onnxruntime')}\n")
    if options.int8:
        integers(options.int8, (options.models or [None])[0], options.repeats)
        return
    if options.settings:
        settings((options.models or ["birefnet-lite"])[0], options.size, options.repeats)
        return
    exports, runs = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models or ["birefnet-lite"]:
            forms = [options.export_only] if options.export_only else FORMS
            files = {form: str(Path(folder, f"{name}-{form}.onnx")) for form in forms}
            for form, path in files.items():
                told = in_process("export", name, path, form)
                figures = (f"{told['seconds']:.0f}", f"{told['peak']:.2f}", f"{told['megabytes']:.0f}")
                exports.append([f"{name}, {form}", *figures, f"{told['largest']:.1e}"])
            if options.export_only:
                continue
            each = {"torch": ("torch", name), **{form: ("onnx", path) for form, path in files.items()}}
            ready = {form: runner(kind, path, options.threads) for form, (kind, path) in each.items()}
            seconds = median_times(
                {form: lambda run=run: run(images) for form, run in ready.items()}, options.repeats
            )
            for form, value in seconds.items():
                held = in_process(*each[form])["peak"]
                runs.append(
                    [f"{name}, {form}", f"{value:.2f}", f"{value / seconds['torch']:.2f}×", f"{held:.2f}"]
                )
    print_table(["export", "s", "peak GiB", "MB", "largest difference"], exports)
    if options.export_only:
        return
    print()
    print_table([f"{options.size}×{options.size}, float32", "s", "of torch", "peak GiB"], runs)


if __name__ == "__main__":
    main()
