"""A folder of many small pictures, killed twice on the way and run again until it is done.

    python benchmarks/folder.py [--pictures 10000] [--side 128] [--model MODEL]

Prints what each run had done when it was killed (SIGKILL), its pictures per second, and whether in the end
every output is whole and nothing else is left in the folder; then how many photographs a second one worker
and more of them cut, and whether their outputs are equal.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from composites import EXAMPLES
from machine import machine, parser_of, print_table, versions


def draw(folder: Path, count: int, side: int) -> None:
    """Pictures of a bright square, each with a number of its own in its first pixel, in ten folders."""
    for number in range(count):
        image = np.full((side, side, 3), 60, np.uint8)
        image[side // 4 : side // 2, side // 4 : side // 2] = (240, 200, 40)
        image[0, 0] = number // 65536, number // 256 % 256, number % 256
        place = folder / f"{number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:06}.png")


def whole(path: Path) -> bool:
    """Whether a file is a picture that can be read to its end."""
    try:
        with Image.open(path) as image:
            image.load()
    except OSError:
        return False
    return True


def by_workers(folder: Path) -> list[list[str]]:
    """Rows: photographs of 1200×1200 cut by so many workers, and whether the outputs are equal."""
    photograph = Image.open(EXAMPLES / "astronaut.jpg").resize((1200, 1200))
    (folder / "photographs").mkdir()
    for number in range(24):
        photograph.rotate(number).save(folder / "photographs" / f"{number:02}.jpg")
    rows: list[list[str]] = []
    first: list[bytes] = []
    for workers in (1, 2, 4):
        out = folder / f"by-{workers}"
        command = [sys.executable, "-m", "decoupe", "cut", str(folder / "photographs"), "-o", str(out), "-q"]
        begun = time.perf_counter()
        subprocess.run([*command, "--workers", str(workers)], check=True)
        seconds = time.perf_counter() - begun
        written = [path.read_bytes() for path in sorted(out.iterdir())]
        first = first or written
        rows.append([str(workers), f"{24 / seconds:.1f}", "yes" if written == first else "no"])
    return rows


def main() -> None:
    """Print the tables."""
    parser = parser_of(__doc__)
    parser.add_argument("--pictures", type=int, default=10_000, help="how many")
    parser.add_argument("--side", type=int, default=128, help="of each, in pixels")
    parser.add_argument("--model", help="as decoupe cut takes it; else the embedded default")
    options = parser.parse_args()
    print(f"{machine()}; {versions('numpy', 'pillow', 'onnxruntime')}\n")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        photos, out = Path(name, "in"), Path(name, "out")
        draw(photos, options.pictures, options.side)
        command = [sys.executable, "-m", "decoupe", "cut", str(photos), "-o", str(out), "-q", "--matte"]
        command += ["-m", options.model] if options.model else []
        for share in (1 / 3, 2 / 3, 1):
            before, begun = sum(1 for _ in out.rglob("*.png")), time.perf_counter()
            with subprocess.Popen(command) as process:
                while process.poll() is None and share < 1:
                    if sum(1 for _ in out.rglob("*.png")) >= share * options.pictures:
                        process.send_signal(signal.SIGKILL)
                    time.sleep(0.1)
                status = process.wait()
            seconds, after = time.perf_counter() - begun, sum(1 for _ in out.rglob("*.png"))
            ending = "killed" if status == -signal.SIGKILL else f"exit status {status}"
            rows.append([ending, str(after), f"{(after - before) / seconds:.0f}"])
        files = [path for path in out.rglob("*") if path.is_file()]
        pictures = [path for path in files if path.suffix == ".png" and whole(path)]
        print_table(["run", "outputs there", "pictures per second"], rows)
        print(
            f"\n{len(pictures)} whole outputs of {options.pictures} pictures, "
            f"{len(files) - len(pictures)} other files left\n"
        )
        print_table(["workers", "photographs per second", "outputs equal"], by_workers(Path(name)))


if __name__ == "__main__":
    main()
