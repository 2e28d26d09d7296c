"""A server in a process of its own, for the benchmarks of it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil


@dataclass
class Served:
    """A server that runs.

    Attributes:
        address: of it, as ``http://127.0.0.1:40111``.
        process: of it.
        lines: what it has said on standard error.
    """

    address: str
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @property
    def worker(self) -> psutil.Process:
        """The process that opens pictures."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if "spawn_main" in " ".join(child.cmdline()))

    def megabytes(self) -> tuple[float, float]:
        """Resident memory of the server and of its worker."""
        sizes = (psutil.Process(self.process.pid), self.worker)
        server, worker = (one.memory_info().rss / 1e6 for one in sizes)
        return server, worker


@contextlib.contextmanager
def served(*options: str, **environment: str) -> Iterator[Served]:
    """``decoupe serve`` on a free port, until the block ends."""
    command = [sys.executable, "-m", "decoupe", "serve", "--port", "0", *options]
    environ = {**os.environ, **environment}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            found = re.search(r"listening on (http://\S+)", line)
            if found:
                break
        else:
            raise SystemExit(f"the server did not start: {''.join(lines)}")
        threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True).start()
        try:
            yield Served(found[1], process, lines)
        finally:
            process.terminate()
            process.wait(60)
