"""``python -m decoupe`` is ``decoupe``."""

from decoupe.cli import main

main()
