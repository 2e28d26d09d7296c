"""Videos: flicker and exactness with and without smoothing, frames per second, and memory.

    python benchmarks/video.py [--clips 3] [--frames 24] [--long 250 1000 2000]

Flicker is the mean absolute difference of successive mattes, of 255; IoU is against the known alpha, both at
0.5. The videos stand still or move, with a camera's noise of several strengths; each is predicted once by the
embedded model, frame by frame, and then smoothed. The second table runs the installed command on long videos,
each in a process of its own.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np

import decoupe
from composites import Floats
from decoupe.inference.smoothing import Smoother
from machine import machine, parser_of, print_table, versions
from moving import Frame, moving, still

NOISES = (2, 6, 12)
SPEEDS = (0.1, 0.5, 3, 12)


def main() -> None:
    """Print the tables."""
    parser = parser_of(__doc__)
    parser.add_argument("--clips", type=int, default=3, help="how many of each kind")
    parser.add_argument("--frames", type=int, default=24, help="of each")
    parser.add_argument("--size", default="640x360", help="of a frame, WIDTHxHEIGHT")
    parser.add_argument("--long", type=int, nargs="*", default=[250, 1000, 2000], help="frames of long ones")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    print(f"{machine()}; {versions('numpy', 'onnxruntime', 'av')}\n")
    predictor = decoupe.load()
    rows = []
    for speed, noise in [(0, noise) for noise in NOISES] + list(itertools.product(SPEEDS, (1, 6))):
        clips = [
            moving(seed, options.frames, width, height, noise, speed)
            if speed
            else still(seed, options.frames, width, height, noise)
            for seed in range(options.clips)
        ]
        plain, smooth = np.mean([scores(predictor, clip) for clip in clips], axis=0)
        rows.append(
            [
                f"{speed} pixels a frame" if speed else "still",
                str(noise),
                *(f"{plain[0]:.3f}", f"{smooth[0]:.3f}", f"{smooth[0] / plain[0] - 1:+.0%}"),
                *(f"{plain[1]:.4f}", f"{smooth[1]:.4f}"),
            ]
        )
    print_table(["motion", "noise", "flicker", "smoothed", "change", "IoU", "smoothed"], rows)
    print()
    print_table(
        ["frames", "size", "output", "frames per second", "peak MiB"],
        [
            *(long_run(count, (320, 180), "out.mov") for count in options.long),
            *(long_run(48, (1920, 1080), output) for output in ("out.mov", "out.webm", "out.mp4")),
        ],
    )


def scores(predictor: decoupe.Predictor, clip: Iterable[Frame]) -> list[tuple[float, float]]:
    """Flicker and IoU, frame by frame and smoothed."""
    smoother = Smoother()
    plain, smoothed, truths = [], [], []
    for image, truth in clip:
        alpha = predictor(image).alpha
        plain.append(alpha)
        smoothed.append(smoother(image, alpha))
        truths.append(truth)
    return [(flicker(mattes), overlap(mattes, truths)) for mattes in (plain, smoothed)]


def flicker(mattes: list[Floats]) -> float:
    """The mean absolute difference of successive mattes, of 255."""
    return 255 * float(np.mean([abs(one - other).mean() for one, other in itertools.pairwise(mattes)]))


def overlap(mattes: list[Floats], truths: list[Floats]) -> float:
    """Intersection over union at alpha 0.5, the mean of all frames."""
    shares = []
    for alpha, truth in zip(mattes, truths, strict=True):
        one, other = alpha >= 0.5, truth >= 0.5
        shares.append((one & other).sum() / (one | other).sum())
    return float(np.mean(shares))


def long_run(count: int, size: tuple[int, int], output: str) -> list[str]:
    """A row: the command on a video of so many frames."""
    width, height = size
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "in.mp4"), Path(name, output)
        write(source, count, width, height)
        command = [sys.executable, "-m", "decoupe", "video", str(source), str(target), "-q"]
        if target.suffix == ".mp4":
            command += ["--over", "white"]
        begun = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begun
        assert process.returncode == 0
        peak = usage.ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
        return [str(count), f"{width}×{height}", output[4:], f"{count / seconds:.1f}", f"{peak:.0f}"]


def write(path: Path, count: int, width: int, height: int) -> None:
    """A video of a thing that goes to and fro."""
    frames = [image for image, _ in moving(0, 24, width, height, 4, width / 100)]
    there_and_back = itertools.cycle([*frames, *frames[::-1]])
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=25, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in itertools.islice(there_and_back, count):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode(None))


if __name__ == "__main__":
    main()
