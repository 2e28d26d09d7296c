"""The base install: seconds and megabytes of ``pip install .`` in a fresh virtual environment.

    python benchmarks/install_size.py [--extra EXTRA] [--limit MEGABYTES]

Megabytes (10^6 bytes) are what the environment grows by; with ``--limit`` a larger one exits with status 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from machine import machine, print_table

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


def main() -> None:
    """Install, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--extra", help="install this extra too")
    parser.add_argument("--limit", type=float, help="megabytes that are not to be exceeded")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "venv"
        venv.create(environment, with_pip=True)
        empty = megabytes(environment)
        python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        what = f"{REPOSITORY}[{options.extra}]" if options.extra else str(REPOSITORY)
        begun = time.perf_counter()
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", what], check=True
        )
        seconds, size = time.perf_counter() - begun, megabytes(environment) - empty
        print(f"{machine()}\n")
        packages = next(environment.glob("lib*/**/site-packages"))
        print_table(["", "MB"], [["all, without pip", f"{size:.0f}"], *largest(packages, 8)])
        print(f"\ninstalled in {seconds:.0f} s")
    if options.limit is not None and size > options.limit:
        sys.exit(
            f"the install takes {size:.0f} MB, {options.limit:.0f} are allowed: look for a new dependency"
        )


if __name__ == "__main__":
    main()
