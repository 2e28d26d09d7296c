"""A server under load: latency and throughput beside the bare predictor, and memory after many requests.

    python benchmarks/server_load.py [PHOTO ...] [--clients 64] [--seconds 60] [--requests 5000]

The bare predictor reads, cuts and encodes the same pictures one after the other, in a process that does
nothing else. The clients are coroutines of one process on the same machine: what they take is the server's
loss. Seconds of processor for each picture do not depend on what else the machine does. The requests after
which memory is compared are of the same photographs, reduced to 160 pixels.
"""

from __future__ import annotations

import asyncio
import collections
import io
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image

from machine import machine, parser_of, print_table, versions
from served import Served, served

EXAMPLES = [
    Path(__file__).parents[1] / "examples" / name for name in ("astronaut.jpg", "chelsea.jpg", "coffee.jpg")
]

BARE = """
import itertools, json, sys, time
from pathlib import Path
import decoupe
from decoupe.commands.cut_files import Wanted
seconds, batch = float(sys.argv[1]), int(sys.argv[2])
pictures = [Path(name).read_bytes() for name in sys.argv[3:]]
predictor, wanted = decoupe.load(), Wanted()
for matte in predictor.map(pictures, batch_size=1):
    wanted.bytes_of(matte, None)
begun, done = time.perf_counter(), 0
before = time.process_time()
for matte in predictor.map(itertools.cycle(pictures), batch_size=batch):
    wanted.bytes_of(matte, None)
    done += 1
    if time.perf_counter() - begun > seconds:
        break
print(json.dumps([done / (time.perf_counter() - begun), (time.process_time() - before) / done]))
"""


def bare(photos: list[Path], seconds: float, batch: int) -> tuple[float, float]:
    """Pictures a second of a predictor with nothing around it, and seconds of processor for each."""
    command = [sys.executable, "-c", BARE, str(seconds), str(batch), *map(str, photos)]
    rate, processor = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return rate, processor


def processor(server: Served) -> float:
    """Seconds that the server and its worker have computed."""
    both = (psutil.Process(server.process.pid), server.worker)
    return sum(sum(one.cpu_times()[:2]) for one in both)


def reduced(picture: bytes) -> bytes:
    """A thumbnail of a photograph."""
    image, buffer = Image.open(io.BytesIO(picture)), io.BytesIO()
    image.thumbnail((160, 160))
    image.save(buffer, "JPEG")
    return buffer.getvalue()


async def load(
    server: Served, pictures: list[bytes], clients: int, until: float, most: float
) -> tuple[list[float], collections.Counter[str]]:
    """Seconds of each answer, and how many of each status there were."""
    seconds: list[float] = []
    statuses: collections.Counter[str] = collections.Counter()
    turns = itertools.cycle(pictures)
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)

    async def client(session: httpx.AsyncClient) -> None:
        while time.perf_counter() < until and sum(statuses.values()) < most:
            begun = time.perf_counter()
            try:
                answer = await session.post("/v1/cut", content=next(turns))
            except httpx.HTTPError as error:
                statuses[type(error).__name__] += 1
                continue
            statuses[str(answer.status_code)] += 1
            if answer.status_code == 200:
                seconds.append(time.perf_counter() - begun)
            elif answer.status_code == 429:
                await asyncio.sleep(float(answer.headers["retry-after"]))

    async with httpx.AsyncClient(base_url=server.address, timeout=120, limits=limits) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return seconds, statuses


def main() -> None:
    """Measure, and print tables."""
    parser = parser_of(__doc__)
    parser.add_argument("photos", nargs="*", type=Path, default=EXAMPLES)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=5000, help="after which memory is compared; 0: not")
    arguments = parser.parse_args()
    pictures = [photo.read_bytes() for photo in arguments.photos]
    small = [reduced(picture) for picture in pictures]
    print(machine(), versions("onnxruntime", "fastapi", "uvicorn"), sep="\n")

    alone = {batch: bare(arguments.photos, arguments.seconds / 3, batch) for batch in (1, 4)}
    with served("--quiet") as server:
        asyncio.run(load(server, pictures, 8, time.perf_counter() + 3, float("inf")))  # warm
        begun, computed = time.perf_counter(), processor(server)
        until = begun + arguments.seconds
        seconds, statuses = asyncio.run(load(server, pictures, arguments.clients, until, float("inf")))
        rate = len(seconds) / (time.perf_counter() - begun)
        computed = (processor(server) - computed) / len(seconds)
        p50, p95, p99 = np.percentile(seconds, [50, 95, 99])
        print_table(
            ["", "pictures/s", "processor, s/picture"],
            [
                ["predictor alone, one by one", *(f"{figure:.3f}" for figure in alone[1])],
                ["predictor alone, batches of 4", *(f"{figure:.3f}" for figure in alone[4])],
                [f"server, {arguments.clients} clients", f"{rate:.3f}", f"{computed:.3f}"],
            ],
        )
        print(f"server/predictor {rate / max(alone[1][0], alone[4][0]):.0%}")
        print(f"p50 {p50:.2f} s, p95 {p95:.2f} s, p99 {p99:.2f} s; answers {dict(statuses)}")
        rows = [["after the load", *(f"{size:.0f}" for size in server.megabytes())]]
        for part in range(1, 6 if arguments.requests else 1):
            asyncio.run(load(server, small, 16, float("inf"), arguments.requests / 5))
            count = part * arguments.requests // 5
            rows.append([f"{count} requests later", *(f"{size:.0f}" for size in server.megabytes())])
        print_table(["", "server, MB", "worker, MB"], rows)


if __name__ == "__main__":
    main()
