"""What exporting costs and what the file costs to run, in processes of their own.

    python benchmarks/exporting.py [MODEL ...] [--repeats 3] [--threads 2] [--size 1024]

MODEL is a preset of decoupe.models, its weights drawn at random. "export" is the whole of `decoupe export`:
tracing, writing and the comparison with torch. The rows of each model are then one picture of noise computed
by the fast torch form in float32 and by ONNX Runtime, by turns; each peak is that of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from machine import machine, median_times, print_table, versions

FORMS = ("gather", "onnx")


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


def main() -> None:
    """Print the machine and the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["birefnet-lite"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    images = np.random.default_rng(0).normal(size=(1, 3, options.size, options.size)).astype(np.float32)
    if options.step:
        step, *rest = options.step
        if step == "export":
            print(json.dumps(export(*rest)))
        else:
            runner(step, rest[0], options.threads)(images)
            print(json.dumps({"peak": peak()}))
        return
    print(f"{machine()}; {versions('torch', 'onnx', 'onnxscript', 'onnxruntime')}\n")
    exports, runs = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
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
