"""What solving a matte's soft edge anew brings: closed-form matting of composites whose alpha is known.

    python benchmarks/matting.py [--composites 4] [--size 2400x1600]

The sum of absolute differences from the known alpha, in thousands: of the embedded model's matte, and of the
same refined with narrow and wide bands beyond it, the median of the composites; the mean of the seconds that
refining takes.
"""

from __future__ import annotations

import time

import numpy as np

import decoupe
from composites import HAIRS, composite
from decoupe.inference.matting import Matting
from machine import machine, parser_of, print_table, versions

WIDTHS = (0.01, 0.02, 0.05, 0.1)


def main() -> None:
    """Print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--composites", type=int, default=4, help="how many of each kind")
    parser.add_argument("--size", default="2400x1600", help="of a composite, WIDTHxHEIGHT")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    print(f"{machine()}; {versions('numpy', 'onnxruntime', 'pymatting')}\n")
    predictor = decoupe.load()
    predictor(np.zeros((64, 64, 3), np.uint8)).refined()  # so that imports are not timed
    shares = [f"{share:.0%}" for share in WIDTHS]
    shares[WIDTHS.index(Matting.dilate)] += ", the default"
    titles = [f"outline, {options.composites} of {width}×{height}", "the model's", *shares]
    rows = [row(predictor, outline, options.composites, width, height) for outline in HAIRS]
    print_table(titles, rows)


def row(predictor: decoupe.Predictor, outline: str, count: int, width: int, height: int) -> list[str]:
    """The errors of one kind of outline, with the change and the seconds."""
    errors, seconds = [], []
    for seed in range(count):
        image, alpha = composite(seed, width, height, outline)
        matte = predictor(image)
        found, times = [matte.alpha], []
        for share in WIDTHS:
            begun = time.perf_counter()
            found.append(matte.refined(dilate=share).alpha)
            times.append(time.perf_counter() - begun)
        errors.append([float(abs(one - alpha).sum()) / 1000 for one in found])
        seconds.append(times)
    before, *after = np.median(errors, axis=0)
    cells = [
        f"{error:.1f}, {error / before - 1:+.0%}, {took:.1f} s"
        for error, took in zip(after, np.mean(seconds, axis=0), strict=True)
    ]
    return [outline, f"{before:.1f}", *cells]


if __name__ == "__main__":
    main()
