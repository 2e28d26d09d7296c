"""Twelve freely licensed photographs and what the embedded model makes of them, its failures among them.

    pip install scikit-image scikit-learn matplotlib   # they bring the photographs
    python examples/contact_sheet.py [--model MODEL] [--out docs/pictures/twelve.jpg]

The last four have no subject: their mattes should be empty. It prints the mean alpha of each.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from gallery import checkerboard
from PIL import Image, ImageOps

import decoupe

HERE = Path(__file__).parent
PHOTOGRAPHS = {
    "skimage": ("data", ("astronaut.png", "chelsea.png", "coffee.png", "camera.png", "rocket.jpg")),
    "matplotlib": ("mpl-data/sample_data", ("grace_hopper.jpg",)),
    "sklearn": ("datasets/images", ("flower.jpg", "china.jpg")),
}
"""Package -> folder in it, and files."""
WITHOUT_SUBJECT = ("hubble_deep_field.jpg", "brick.png", "grass.png", "gravel.png")
COLUMNS, SIDE, GAP = 4, 196, 6


def photographs() -> list[Path]:
    """The files of all twelve.

    Raises:
        SystemExit: a package that brings some is not installed.
    """
    found = []
    sources = [*PHOTOGRAPHS.items(), ("skimage", ("data", WITHOUT_SUBJECT))]
    for package, (folder, names) in sources:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit("pip install scikit-image scikit-learn matplotlib: they bring the photographs")
        found += [Path(spec.origin).parent / folder / name for name in names]
    return found


def pair(matte: decoupe.Matte) -> Image.Image:
    """Photograph and cut-out side by side, each in a square of its own."""
    original = Image.fromarray(matte.image)
    cell = Image.new("RGB", (2 * SIDE + 2, SIDE), "white")
    for index, picture in enumerate((original, matte.over(checkerboard(original.size)))):
        small = ImageOps.contain(picture, (SIDE, SIDE), Image.Resampling.LANCZOS)
        left = index * (SIDE + 2) + (SIDE - small.width) // 2
        cell.paste(small, (left, (SIDE - small.height) // 2))
    return cell


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="as decoupe.load takes it; else the embedded default")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "pictures" / "twelve.jpg")
    options = parser.parse_args()

    predictor = decoupe.load(options.model)
    files = photographs()
    width = COLUMNS * (2 * SIDE + 2 + GAP) - GAP
    sheet = Image.new("RGB", (width, -(-len(files) // COLUMNS) * (SIDE + GAP) - GAP), "white")
    for index, file in enumerate(files):
        matte = predictor(file)
        print(f"{file.name:<24} {matte.alpha.mean():.4f}")
        row, column = divmod(index, COLUMNS)
        sheet.paste(pair(matte), (column * (2 * SIDE + 2 + GAP), row * (SIDE + GAP)))
    sheet.save(options.out, quality=86, optimize=True)


if __name__ == "__main__":
    main()
