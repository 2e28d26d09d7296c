"""The base install: seconds and megabytes of ``pip install .`` in a fresh virtual environment.

    python benchmarks/install_size.py [--extra EXTRA] [--limit MEGABYTES] [--peers 'rembg[cpu]' …]

Megabytes (10^6 bytes) are what the environment grows by; with ``--limit`` a larger one exits with status 1.
Peers come from the package index, each into an environment of its own, without models to download.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from machine import machine, parser_of, print_table

REPOSITORY = Path(__file__).parents[1]


def megabytes(folder: Path) -> float:
    """Size of all files under ``folder``, 10^6 bytes."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


def largest(packages: Path, count: int) -> list[list[str]]:
    """The ``count`` largest packages with their megabytes."""
    sizes = sorted(
        ((megabytes(path), path.name) for path in packages.iterdir() if path.is_dir() and path.name != "pip"),
        reverse=True,
    )
    return [[name, f"{size:.0f}"] for size, name in sizes[:count]]


def installed(what: str, *, detailed: bool) -> tuple[float, float]:
    """Megabytes and seconds of an install; with ``detailed`` its largest packages are printed."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "venv"
        venv.create(environment, with_pip=True)
        empty = megabytes(environment)
        python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        begun = time.perf_counter()
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", what], check=True
        )
        seconds, size = time.perf_counter() - begun, megabytes(environment) - empty
        if detailed:
            packages = next(environment.glob("lib*/**/site-packages"))
            print_table(["package", "MB"], largest(packages, 8))
            print()
    return size, seconds


def main() -> None:
    """Install, measure, print."""
    parser = parser_of(__doc__)
    parser.add_argument("--extra", help="install this extra too")
    parser.add_argument("--limit", type=float, help="megabytes that are not to be exceeded")
    parser.add_argument("--peers", nargs="+", default=[], metavar="PACKAGE", help="measure these too")
    options = parser.parse_args()

    print(f"{machine()}\n")
    own = f"{REPOSITORY}[{options.extra}]" if options.extra else str(REPOSITORY)
    size, seconds = installed(own, detailed=True)
    rows = [["decoupe" + (f"[{options.extra}]" if options.extra else ""), f"{size:.0f}", f"{seconds:.0f}"]]
    rows += [
        [peer, *(f"{figure:.0f}" for figure in installed(peer, detailed=False))] for peer in options.peers
    ]
    print_table(["install", "MB", "s"], rows)
    if options.limit is not None and size > options.limit:
        sys.exit(
            f"the install takes {size:.0f} MB, {options.limit:.0f} are allowed: look for a new dependency"
        )


if __name__ == "__main__":
    main()
