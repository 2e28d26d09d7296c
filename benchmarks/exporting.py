"""What exporting costs and what the file costs to run, in processes of their own.

    python benchmarks/exporting.py [MODEL ...] [--repeats 3] [--threads 2] [--size 1024]
    python benchmarks/exporting.py --support [MODEL ...]
    python benchmarks/exporting.py --settings [MODEL]

MODEL is a preset of decoupe.models, its weights drawn at random. "export" is the whole of `decoupe export`:
tracing, writing and the comparison with torch. The rows of each model are then one picture of noise computed
by the fast torch form in float32 and by ONNX Runtime, by turns; each peak is that of a process of its own.
--support tells how far each runtime is from torch in float64 on each form of each model, or that it fails.
--settings computes one file under several settings of ONNX Runtime.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from machine import machine, median_times, print_table, versions

FORMS = ("gather", "onnx")
SUPPORTED = (
    "pocket",
    "birefnet-lite",
    "birefnet",
    "inspyrenet-res2net50",
    "inspyrenet",
    "maskformer-swin-tiny-ade",
)


def peak() -> float:
    """GiB that this process held at most."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 2**20 if found else float("nan")


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
    before, begun = peak(), time.perf_counter()
    preprocessing = CATALOGUE[name].preprocessing
    report = export_onnx(
        model, path, preprocessing=preprocessing, metadata={"name": name}, deform=deform, force=True
    )
    return {
        "seconds": time.perf_counter() - begun,
        "before": before,
        "peak": peak(),
        "largest": max(row.largest for row in report),
        "megabytes": Path(path).stat().st_size / 1e6,
    }


def runner(kind: str, path: str, threads: int) -> Any:
    """A function of one normalised batch."""
    if kind == "onnx":
        from decoupe.onnx_runtime import open_file

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


def support(models: list[str]) -> None:
    """A row for each model and form: the largest difference in each runtime."""
    from decoupe.export import checked, graph_of, once, onnx_file
    from decoupe.weights.registry import CATALOGUE, Preprocessing
    from fast import drawn

    rows = []
    for name in models:
        model = drawn(name)[1]
        plain = Preprocessing((384, 384), two_scale=(512, 1280))
        preprocessing = CATALOGUE[name].preprocessing if name in CATALOGUE else plain
        if not name.startswith("inspyrenet"):
            preprocessing = once(preprocessing)
        for form in FORMS if "birefnet" in name else FORMS[:1]:
            content = onnx_file.finish(graph_of(model, preprocessing, deform=form), {})
            row = [f"{name}, {form}" if "birefnet" in name else name]
            runs = (
                functools.partial(checked, model, content, preprocessing),
                functools.partial(checked_converted, model, content),
            )
            row += [difference(run, row[0]) for run in runs]
            rows.append(row)
    print_table(["largest difference from torch in float64", "ONNX Runtime", "OpenVINO"], rows)


def difference(run: Callable[[], Any], what: str) -> str:
    """The largest difference that a comparison finds, or "no" where the runtime fails; why is told."""
    try:
        return f"{max(each.largest for each in run()):.1e}"
    except Exception as error:  # whatever a runtime raises
        print(f"{what}: {' '.join(str(error).split())[-300:]}", file=sys.stderr)
        return "no"


def checked_converted(model: Any, content: bytes) -> Any:
    """A file's content through OpenVINO's representation."""
    import openvino

    from decoupe.export.openvino_file import checked

    with tempfile.TemporaryDirectory() as folder:
        plain, path = Path(folder, "model.onnx"), Path(folder, "model.xml")
        plain.write_bytes(content)
        openvino.save_model(openvino.convert_model(plain), path, compress_to_fp16=False)
        return checked(model, path)


def settings(name: str, size: int, repeats: int) -> None:
    """Seconds and peak of a file under settings of ONNX Runtime, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "model.onnx"))
        in_process("export", name, path, "gather")
        rows = []
        for setting in (
            "threads=1",
            "threads=2",
            "threads=3",
            "arena",
            "spinning",
            "basic",
            "extended",
            "ours",
        ):
            told = in_process("setting", path, setting, str(size), str(repeats))
            rows.append([setting, f"{told['seconds']:.2f}", f"{told['peak']:.2f}", f"{told['kept']:.2f}"])
    print_table([f"{name}, {size}×{size}", "s", "peak GiB", "GiB after"], rows)


def under(path: str, setting: str, size: str, repeats: str) -> dict[str, float]:
    """One file under one setting, the others as `decoupe.onnx_runtime` has them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = options.enable_mem_pattern = setting == "arena"
    spinning = "1" if setting == "spinning" else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    if setting.startswith("threads="):
        options.intra_op_num_threads = int(setting[8:])
    levels = onnxruntime.GraphOptimizationLevel
    known = {"basic": levels.ORT_ENABLE_BASIC, "extended": levels.ORT_ENABLE_EXTENDED}
    options.graph_optimization_level = known.get(setting, levels.ORT_ENABLE_ALL)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(1, 3, int(size), int(size))).astype(np.float32)
    seconds = median_times({"it": lambda: session.run(None, {"image": images})}, int(repeats))["it"]
    held = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return {"seconds": seconds, "peak": peak(), "kept": int(held[1]) / 2**20 if held else float("nan")}


STEPS: dict[str, Callable[..., dict[str, float]]] = {"export": export, "setting": under}


def main() -> None:
    """Print the machine and the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--support", action="store_true", help="what each runtime computes")
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
            print(json.dumps({"peak": peak()}))
        return
    print(f"{machine()}; {versions('torch', 'onnx', 'onnxscript', 'onnxruntime')}\n")
    if options.support:
        support(options.models or list(SUPPORTED))
        return
    if options.settings:
        settings((options.models or ["birefnet-lite"])[0], options.size, options.repeats)
        return
    exports, runs = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models or ["birefnet-lite"]:
            files = {form: str(Path(folder, f"{name}-{form}.onnx")) for form in FORMS}
            for form, path in files.items():
                told = in_process("export", name, path, form)
                figures = (f"{told['seconds']:.0f}", f"{told['peak']:.2f}", f"{told['megabytes']:.0f}")
                exports.append([f"{name}, {form}", *figures, f"{told['largest']:.1e}"])
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
    print()
    print_table([f"{options.size}×{options.size}, float32", "s", "of torch", "peak GiB"], runs)


if __name__ == "__main__":
    main()
