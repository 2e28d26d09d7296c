"""What enlarging a matte by its photograph brings, along outlines and with strands, against plain bilinear.

    python benchmarks/guided.py [SET ...] [--model MODEL] [--composites 8] [--size 2400x1600] [--most 100]
                                [--sheet]

Composites of known alpha: the sum of absolute differences, in thousands, of a model with and without,
and of a matte that is perfect but a tenth as large; the median of the composites, of which the model may
see one in part alone, which is not what enlarging is to be judged by. SET is a folder with ``im`` and
``gt``: the mean absolute error on its pairs that training never saw, at the least input size that the
embedded model knows, so that the photographs have detail to follow. MODEL is the embedded one by default.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import decoupe
from composites import HAIRS, composite
from decoupe.datasets.sets import read_pair, spread
from decoupe.inference.guided import enlarged, followed
from decoupe.inference.pictures import read_image
from decoupe.inference.preprocess import resize_plane
from machine import machine, median_times, parser_of, print_table, versions
from pocket_quality import divided

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"


def main() -> None:
    """Print the tables."""
    parser = parser_of(__doc__)
    parser.add_argument("sets", nargs="*", type=Path)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--composites", type=int, default=8, help="how many of each kind")
    parser.add_argument("--size", default="2400x1600", help="of a composite, WIDTHxHEIGHT")
    parser.add_argument("--most", type=int, default=100, help="pairs of each set, evenly chosen")
    parser.add_argument(
        "--sheet",
        type=Path,
        nargs="?",
        const=PICTURES / "hairs.jpg",
        help="draw some hair",
    )
    options = parser.parse_args()
    if options.sheet:
        sheet(options.model, options.sheet)
    width, height = map(int, options.size.split("x"))
    print(f"{machine()}; {versions('numpy', 'onnxruntime')}\n")
    titles = [
        "composites",
        "plain, SAD",
        "guided, SAD",
        "change",
        "perfect, plain",
        "perfect, guided",
        "change",
    ]
    rows = [of_composites(options.model, outline, options.composites, width, height) for outline in HAIRS]
    print_table(titles, rows)
    if options.sets:
        print()
        print_table(
            ["set", "pairs", "plain, MAE", "guided, MAE"],
            [of_set(options.model, one, options.most) for one in options.sets],
        )
    print()
    print_table(["enlarging to 4000×3000", "s"], times())


def sheet(model: str, path: Path) -> None:
    """The hair of three composites on one colour, cut by the matte enlarged plainly and by its photograph."""
    plain, guided = (decoupe.load(model, guided=choice) for choice in (False, True))
    wide, high, gap = 400, 200, 8
    drawn = Image.new("RGB", (3 * (wide + gap) - gap, 3 * (high + gap) - gap), "white")
    for row, seed in enumerate((0, 2, 5)):
        image, alpha = composite(seed, 2400, 1600, "long hair")
        rows, columns = np.nonzero(alpha > 0.5)
        top = rows.min()
        left = int(columns[rows < top + 60].mean()) - 300
        pictures = [Image.fromarray(image), *(cut(image).over("#2f6f73") for cut in (plain, guided))]
        for column, picture in enumerate(pictures):
            part = picture.crop((left, top - 20, left + 600, top + 280)).resize((wide, high))
            drawn.paste(part, (column * (wide + gap), row * (high + gap)))
    drawn.save(path, quality=86, optimize=True)


def of_composites(model: str, outline: str, count: int, width: int, height: int) -> list[str]:
    """A row: the model with and without, and a perfect matte of a tenth of the size."""
    plain, guided = (decoupe.load(model, guided=choice) for choice in (False, True))
    errors = []
    for seed in range(count):
        image, alpha = composite(seed, width, height, outline)
        small = resize_plane(alpha, (height // 10, width // 10))
        mattes = [plain(image).alpha, guided(image).alpha]
        mattes += [resize_plane(small, alpha.shape), followed(small, read_image(image))]
        errors.append([float(abs(matte - alpha).sum()) / 1000 for matte in mattes])
    before, after, oracle_before, oracle_after = np.median(errors, axis=0)
    return [
        f"{outline}, {count} of {width}×{height}",
        *(f"{before:.1f}", f"{after:.1f}", f"{after / before - 1:+.0%}"),
        *(f"{oracle_before:.1f}", f"{oracle_after:.1f}", f"{oracle_after / oracle_before - 1:+.0%}"),
    ]


def of_set(model: str, folder: Path, most: int) -> list[str]:
    """A row of a set."""
    pairs = spread(divided(folder)[1], most)
    predictors = [decoupe.load(model, guided=choice, size=224) for choice in (False, True)]
    errors = []
    for pair in pairs:
        image, truth = read_pair(pair)
        errors.append([float(abs(predictor(image).alpha - truth / 255).mean()) for predictor in predictors])
    before, after = np.mean(errors, axis=0)
    return [folder.name, str(len(pairs)), f"{before:.4f}", f"{after:.4f}"]


def times() -> list[list[str]]:
    """All ways, in turns."""
    image, alpha = composite(0, 4000, 3000, "long hair")
    picture, small = read_image(image), resize_plane(alpha, (288, 384))
    runs = {
        "plain": lambda: resize_plane(small, picture.size),
        "along outlines": lambda: enlarged(small, picture),
        "along outlines, with strands": lambda: followed(small, picture),
    }
    return [[name, f"{seconds:.2f}"] for name, seconds in median_times(runs, 5).items()]


if __name__ == "__main__":
    main()
