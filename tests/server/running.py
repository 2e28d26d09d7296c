"""A real server on a free port of 127.0.0.1, in a process of its own, and pictures to give it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx
import psutil
from PIL import Image, ImageDraw


def png(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def squares() -> bytes:
    """Two red squares, which the tiny model cuts, on grey."""
    image = Image.new("RGB", (96, 64), (128, 128, 128))
    draw = ImageDraw.Draw(image)
    draw.rectangle((8, 8, 39, 39), "red")
    draw.rectangle((60, 8, 67, 15), "red")
    return png(image)


def until(true: Callable[[], object]) -> None:
    """Wait for something, at most half a minute."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@dataclass
class Running:
    """A server that runs.

    Attributes:
        address: of it.
        process: of it.
        lines: what it said on standard error.
    """

    address: str
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def client(self, **options: object) -> httpx.Client:
        # Nothing here is encrypted: to read the certificates takes a client longer than most of what it asks.
        return httpx.Client(base_url=self.address, timeout=30, verify=False, **options)

    @property
    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    @property
    def worker(self) -> psutil.Process:
        return self.workers[0]

    def gauge(self, name: str) -> float:
        """What ``/metrics`` says of something."""
        with self.client() as client:
            found = re.search(rf"^{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        assert found, name
        return float(found[1])

    @contextlib.contextmanager
    def stopped(self) -> Iterator[psutil.Process]:
        """The worker stands still in this block, as if it computed for long."""
        worker = self.worker
        worker.suspend()
        try:
            yield worker
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.resume()


@contextlib.contextmanager
def running(*options: str, **environment: str) -> Iterator[Running]:
    """``decoupe serve`` until the block ends."""
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
            raise AssertionError("".join(lines))
        reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
        reader.start()
        try:
            yield Running(found[1], process, lines)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            reader.join()
