"""``python -m decoupe``, and the command ``decoupe``; Ctrl-C ends it quietly before all else is imported."""

from __future__ import annotations

from decoupe.interrupts import leave_at_once


def main() -> None:
    """The ``decoupe`` command."""
    leave_at_once()
    from decoupe.cli import main as run

    run()


if __name__ == "__main__":
    main()
