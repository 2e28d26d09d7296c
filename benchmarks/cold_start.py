"""Cold start: from the command to the written PNG, every time in a fresh process.

    python benchmarks/cold_start.py [PHOTO] [--model MODEL] [--size WxH] [--repeats 10]

The first table is the wall time of the command itself, and the processor's, which hardly depends on what else
the machine does; the second takes its stages apart. The file cache is warm: a first start after booting also
waits for the disk. Modules are compiled beforehand, as an installer does, also where this environment forbids
Python to (``PYTHONDONTWRITEBYTECODE``).
"""

from __future__ import annotations

import compileall
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import decoupe
from machine import machine, parser_of, print_table, versions

EXAMPLE = Path(__file__).parents[1] / "examples" / "astronaut.jpg"

STAGES = """
import json, sys, time
from pathlib import Path
clock = [time.perf_counter()]
import decoupe.cli, decoupe
clock.append(time.perf_counter())
predictor = decoupe.load(sys.argv[3] or None)
clock.append(time.perf_counter())
model, spent = predictor.runtime, []
def timed(*batches):
    begun = time.perf_counter()
    computed = model(*batches)
    spent.append(time.perf_counter() - begun)
    return computed
predictor.runtime = timed
matte = predictor(sys.argv[1])
clock.append(time.perf_counter())
matte.foreground
clock.append(time.perf_counter())
from decoupe.inference.media import write_bytes
write_bytes(matte.encode(".png"), Path(sys.argv[2]))
clock.append(time.perf_counter())
names = ["import", "load the model", "read and predict", "foreground colours", "write the PNG"]
stages = dict(zip(names, (end - begin for begin, end in zip(clock, clock[1:]))))
print(json.dumps({**stages, "of it all, the model": sum(spent)}))
"""


def seconds_of(command: list[str]) -> tuple[float, str]:
    """Wall time of a process, and what it printed."""
    begun = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - begun, done.stdout


def computed() -> float:
    """Seconds of processor that processes which ended have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def enlarged(photo: Path, size: str, target: Path) -> Path:
    """The photograph as a JPEG of another size, ``WIDTHxHEIGHT``, noisy as a camera's is."""
    width, height = map(int, size.split("x"))
    image = Image.open(photo).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 1))
    Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8)).save(target, quality=92)
    return target


def main() -> None:
    """Print both tables."""
    parser = parser_of(__doc__)
    parser.add_argument("photo", nargs="?", type=Path, default=EXAMPLE)
    parser.add_argument("--model", default="", help="as decoupe cut -m takes it; else the embedded default")
    parser.add_argument("--size", metavar="WxH", help="enlarge the photograph first, with a camera's noise")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()

    totals, processor, stages = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "cut.png")
        photo = options.photo
        if options.size:
            photo = enlarged(photo, options.size, Path(folder) / f"{options.size}.jpg")
        model = ["-m", options.model] if options.model else []
        command = [sys.executable, "-m", "decoupe", "cut", str(photo), "-o", out, "--overwrite", *model]
        apart = [sys.executable, "-c", STAGES, str(photo), out, options.model]
        compileall.compile_dir(Path(decoupe.__file__).parent, quiet=1)
        seconds_of(command)
        for _ in range(options.repeats):
            before = computed()
            totals.append(seconds_of(command)[0])
            processor.append(computed() - before)
            interpreter, _ = seconds_of([sys.executable, "-c", "pass"])
            measured = json.loads(seconds_of(apart)[1])
            stages.append({"interpreter": interpreter, **measured})

    print(f"{machine()}; {versions('numpy', 'pillow', 'onnxruntime')}\n")
    print(f"`decoupe cut {photo.name}`, {options.repeats} fresh processes\n")
    figures = [statistics.median(totals), min(totals), max(totals), statistics.median(processor)]
    titles = ["", "median, s", "least, s", "most, s", "processor, s"]
    print_table(titles, [["whole command", *(f"{x:.2f}" for x in figures)]])
    print()
    medians = {name: statistics.median(stage[name] for stage in stages) for name in stages[0]}
    print_table(["stage", "median, s"], [[name, f"{value:.3f}"] for name, value in medians.items()])


if __name__ == "__main__":
    main()
