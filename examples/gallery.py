"""What README shows: each example photograph, its matte, and its subject on other grounds.

python examples/gallery.py [--model MODEL] [--out docs/cut.jpg]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import decoupe

HERE = Path(__file__).parent
PHOTOGRAPHS = ("astronaut.jpg", "chelsea.jpg", "coffee.jpg")
WIDTH, GAP = 1200, 8


def checkerboard(size: tuple[int, int], *, cell: int = 10) -> Image.Image:
    """The grey squares that stand for transparency; ``size`` is (width, height) in pixels."""
    y, x = np.indices(size[::-1]) // cell
    return Image.fromarray(np.where((x + y) % 2, 200, 240).astype(np.uint8)).convert("RGB")


def row(matte: decoupe.Matte) -> Image.Image:
    """Photograph, matte, cut-out on a checkerboard, subject on a colour, side by side."""
    original = Image.fromarray(matte.image)
    ground = checkerboard(original.size)
    pictures = [original, matte.mask().convert("RGB"), matte.over(ground), matte.over("#2f6f73")]
    cell = (WIDTH - GAP * (len(pictures) - 1)) // len(pictures)
    pictures = [ImageOps.contain(picture, (cell, 10_000), Image.Resampling.LANCZOS) for picture in pictures]
    sheet = Image.new("RGB", (WIDTH, pictures[0].height), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index * (cell + GAP), 0))
    return sheet


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photographs", nargs="*", type=Path, default=[HERE / name for name in PHOTOGRAPHS])
    parser.add_argument("--model", help="as decoupe.load takes it; else the embedded default")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "cut.jpg")
    options = parser.parse_args()

    predictor = decoupe.load(options.model)
    rows = [row(predictor(path)) for path in options.photographs]
    sheet = Image.new("RGB", (WIDTH, sum(picture.height + GAP for picture in rows) - GAP), "white")
    top = 0
    for picture in rows:
        sheet.paste(picture, (0, top))
        top += picture.height + GAP
    sheet.save(options.out, quality=88, optimize=True)


if __name__ == "__main__":
    main()
