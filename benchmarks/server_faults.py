"""Faults on purpose: what the clients of a server are told, and whether it goes on.

    python benchmarks/server_faults.py

Each row is a fault, what was seen, and whether a picture is cut as before afterwards.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from machine import machine, parser_of, print_table
from served import Served, served

PHOTO = (Path(__file__).parents[1] / "examples" / "astronaut.jpg").read_bytes()


def ask(server: Served, data: bytes = PHOTO) -> httpx.Response:
    """One picture, cut."""
    return httpx.post(f"{server.address}/v1/cut", content=data, timeout=120)


def asked(server: Served, count: int, meanwhile: Callable[[], None]) -> str:
    """Ask at once and do something meanwhile: how many answers of each status there were."""
    with ThreadPoolExecutor(count) as pool:
        answers = [pool.submit(ask, server) for _ in range(count)]
        time.sleep(0.5)
        meanwhile()
        counts: collections.Counter[str] = collections.Counter()
        for answer in answers:
            lost = answer.exception()
            counts[type(lost).__name__ if lost else str(answer.result().status_code)] += 1
    return ", ".join(f"{count} × {status}" for status, count in sorted(counts.items()))


def connected(server: Served) -> socket.socket:
    """A bare connection."""
    return socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2])))


def killed(server: Served) -> str:
    """The worker, killed while it has pictures."""
    return asked(server, 8, lambda: server.worker.kill())


def overfull(server: Served) -> str:
    """Two hundred pictures at once, to a queue of 64."""
    return asked(server, 200, lambda: None)


def slow(server: Served) -> str:
    """Fifty heads and fifty bodies that come byte by byte, while others ask."""
    head = b"POST /v1/cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
    lines = [connected(server) for _ in range(100)]
    for index, line in enumerate(lines):
        line.sendall(head if index % 2 else head + b"\r\n")
    stop = time.monotonic() + 15

    def trickle() -> None:
        while time.monotonic() < stop:
            for line in lines:
                with contextlib.suppress(OSError):
                    line.sendall(b"x")
            time.sleep(1)

    writer = threading.Thread(target=trickle)
    writer.start()
    others = asked(server, 8, lambda: None)
    writer.join()
    hung_up = 0
    for line in lines:
        line.settimeout(0.01)
        try:
            hung_up += line.recv(1) == b""
        except TimeoutError:
            pass
        except OSError:
            hung_up += 1
        line.close()
    return f"{hung_up} of 100 hung up on after 15 s (the 50 bodies have 60 s); others: {others}"


def halves(server: Served) -> str:
    """Two hundred uploads that end in their middle."""
    for _ in range(200):
        with connected(server) as line:
            head = f"POST /v1/cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(PHOTO)}\r\n\r\n"
            line.sendall(head.encode() + PHOTO[: len(PHOTO) // 2])
    time.sleep(0.5)
    held = next(
        line
        for line in httpx.get(f"{server.address}/metrics").text.splitlines()
        if line.startswith("decoupe_held")
    )
    return f"{held.split()[1]} bytes held afterwards"


def gone(server: Served) -> str:
    """Forty clients that leave before they are answered."""
    for _ in range(40):
        with connected(server) as line:
            head = f"POST /v1/cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(PHOTO)}\r\n\r\n"
            line.sendall(head.encode() + PHOTO)
    begun = time.perf_counter()
    status = ask(server).status_code
    return f"the next is answered {status} after {time.perf_counter() - begun:.1f} s"


def full_disk() -> str:
    """A server whose temporary folder is full."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", folder], check=False
        ).returncode
        if mounted:
            return "not shown: mounting a small file system needs root"
        try:
            with contextlib.suppress(OSError):
                Path(folder, "all").write_bytes(bytes(100_000))
            with served("--quiet", TMPDIR=folder) as server:
                padded = PHOTO + bytes(5_000_000)  # more than a spooled file would keep in memory
                statuses = [ask(server, data).status_code for data in (PHOTO, padded)]
                left = sorted(path.name for path in Path(folder).iterdir() if path.name != "all")
            return f"answers {statuses}; files there: {', '.join(left) or 'none'}"
        finally:
            subprocess.run(["umount", folder], check=True)


def ended() -> str:
    """SIGTERM with sixteen pictures accepted."""
    with served("--quiet") as server:
        told = asked(server, 16, server.process.terminate)
        begun = time.perf_counter()
        status = server.process.wait(60)
        return f"{told}; exit status {status} after {time.perf_counter() - begun:.1f} s more"


def main() -> None:
    """Do each, and print a table."""
    parser_of(__doc__).parse_args()
    print(machine())
    rows = []
    with served("--quiet") as server:
        expected = ask(server).content
        for fault in (killed, overfull, slow, halves, gone):
            seen = fault(server)
            after = ask(server)
            rows.append(
                [(fault.__doc__ or "").rstrip("."), seen, "yes" if after.content == expected else "no"]
            )
    rows += [[(fault.__doc__ or "").rstrip("."), fault(), "–"] for fault in (full_disk, ended)]
    print_table(["fault", "seen", "cuts as before"], rows)


if __name__ == "__main__":
    main()
