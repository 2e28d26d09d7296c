"""The pictures of the documentation, each made of an example photograph as its page tells.

python examples/pages.py [--model MODEL] [--out docs/pictures]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageOps

import decoupe

HERE = Path(__file__).parent
GAP = 8


def beside(pictures: list[Image.Image], height: int) -> Image.Image:
    """Pictures of one height in a row."""
    scaled = [ImageOps.contain(picture.convert("RGB"), (10_000, height)) for picture in pictures]
    row = Image.new("RGB", (sum(one.width + GAP for one in scaled) - GAP, height), "white")
    left = 0
    for one in scaled:
        row.paste(one, (left, 0))
        left += one.width + GAP
    return row


def pages(predictor: decoupe.Predictor) -> dict[str, Image.Image]:
    """Name -> picture."""
    coffee, cat = predictor(HERE / "coffee.jpg"), predictor(HERE / "chelsea.jpg")
    woman = predictor(HERE / "astronaut.jpg")
    photograph = Image.open(HERE / "coffee.jpg")
    product = coffee.edited(keep_largest=True).crop(0.08, (1, 1))
    hair = (120, 0, 330, 140)
    alone = woman.edited(keep_largest=True)
    portrait = [Image.open(HERE / "astronaut.jpg"), alone.over("#2f6f73")]
    portrait += [one.over("#2f6f73").crop(hair).resize((630, 420)) for one in (alone, alone.refined())]
    edited = [cat.mask(), cat.overlay(), cat.edited(threshold=0.5).mask(), cat.edited(feather=6).mask()]
    return {
        "first": woman.side_by_side(),
        "product": beside([photograph, product.over("white", shadow=0.4)], 360),
        "portrait": beside(portrait, 300),
        "edited": beside(edited, 200),
    }


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="as decoupe.load takes it; else the embedded default")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, picture in pages(decoupe.load(options.model)).items():
        picture.save(options.out / f"{name}.jpg", quality=86, optimize=True)


if __name__ == "__main__":
    main()
