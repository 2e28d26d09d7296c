"""What strangers may send: mutated pictures, bombs, names, tokens. Never a 500, never memory beyond the cap.

python benchmarks/server_hostile.py [--count 10000]
"""

from __future__ import annotations

import asyncio
import collections
import io
import random
import statistics
import struct
import time
import zlib
from pathlib import Path

import httpx
from PIL import Image

from machine import machine, memory_of, parser_of, print_table
from served import Served, served

EXAMPLE = Path(__file__).parents[1] / "examples" / "astronaut.jpg"
TOKEN = "correct-horse-battery-staple"


def seeds() -> list[bytes]:
    """A small photograph in every format that is read."""
    image = Image.open(EXAMPLE).resize((48, 48))
    files = []
    for form in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000"):
        for mode in ("RGB", "L", "RGBA", "P", "I;16", "CMYK"):
            buffer = io.BytesIO()
            try:
                image.convert("L" if mode == "I;16" else mode).convert(mode).save(buffer, form)
            except (OSError, ValueError):
                continue
            files.append(buffer.getvalue())
    return files


def mutated(chance: random.Random, data: bytes) -> bytes:
    """A file with bytes changed, taken out, doubled or cut off."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 12)):
        place = chance.randrange(max(1, len(changed)))
        length = chance.randint(1, 8)
        kind = chance.randrange(4)
        if kind == 0:
            changed[place : place + length] = chance.randbytes(length)
        elif kind == 1:
            del changed[place : place + length]
        elif kind == 2:
            changed[place:place] = changed[place : place + length * 20]
        elif chance.random() < 0.2:
            del changed[place:]
    return bytes(changed)


def chunks(*parts: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks."""
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


def bombs() -> dict[str, bytes]:
    """Files that are small and would be large, or are not what they seem."""
    head = struct.pack(">IIBBBBB", 7000, 7000, 16, 6, 0, 0, 0)
    squeezed = zlib.compress(bytes(7000 * (7000 * 8 + 1) // 8), 9)
    text = b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9)
    profile = b"iCCP", b"a\0\0" + zlib.compress(bytes(200_000_000), 9)
    empty = (b"IDAT", b""), (b"IEND", b"")
    wide = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    small = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    frame = b"\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
    return {
        "PNG of 49 megapixels in 16 bits": chunks((b"IHDR", head), (b"IDAT", squeezed), (b"IEND", b"")),
        "PNG header of 30000×30000": chunks((b"IHDR", wide), *empty),
        "PNG with 200 MB of text": chunks((b"IHDR", small), text, *empty),
        "PNG with 200 MB of profile": chunks((b"IHDR", small), profile, *empty),
        "BMP header of 30000×30000": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0),
        "GIF of 1,600,000 frames": b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff" + frame * 1_600_000 + b";",
        "ZIP of zeros": b"PK\3\4" + zlib.compress(bytes(10**8)),
        "SVG with an entity": b'<!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
        "HTML named PNG": b"<html><script>alert(1)</script></html>",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/tmp/x) (w) file\n",
    }


async def send(server: Served, files: list[bytes]) -> collections.Counter[int]:
    """Statuses of the answers to many files, eight at a time."""
    statuses: collections.Counter[int] = collections.Counter()
    queue = iter(files)

    async def client(session: httpx.AsyncClient) -> None:
        for data in queue:
            answer = await session.post("/v1/cut", content=data)
            statuses[answer.status_code] += 1

    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=server.address, timeout=120, headers=headers) as session:
        await asyncio.gather(*(client(session) for _ in range(8)))
    return statuses


def token_times(server: Served, rounds: int = 2000) -> dict[str, float]:
    """Median microseconds until a wrong token is refused, by how wrong it is."""
    wrong = {
        "nothing right": "x" * len(TOKEN),
        "all but the last right": TOKEN[:-1] + "x",
        "shorter": TOKEN[:4],
        "much longer": TOKEN * 20,
    }
    taken: dict[str, list[float]] = {name: [] for name in wrong}
    with httpx.Client(base_url=server.address) as client:
        for _ in range(rounds):
            for name, token in wrong.items():
                begun = time.perf_counter()
                answer = client.get("/v1/models", headers={"Authorization": f"Bearer {token}"})
                taken[name].append(time.perf_counter() - begun)
                assert answer.status_code == 401
    return {name: statistics.median(times) * 1e6 for name, times in taken.items()}


def main() -> None:
    """Send all of it, and print tables."""
    parser = parser_of(__doc__)
    parser.add_argument("--count", type=int, default=10000)
    count = parser.parse_args().count
    print(machine())
    with served("--quiet", DECOUPE_TOKEN=TOKEN) as server:
        chance, files = random.Random(0), seeds()
        statuses = asyncio.run(send(server, [mutated(chance, chance.choice(files)) for _ in range(count)]))
        megabytes = [f"{size:.0f}" for size in server.megabytes()]
        print(f"{count} mutated files: {dict(statuses)}; server {megabytes[0]} MB, worker {megabytes[1]} MB")
        rows = []
        for name, data in bombs().items():
            before = server.worker.pid
            begun = time.perf_counter()
            (status,) = asyncio.run(send(server, [data]))
            peak = memory_of(before)
            same = "yes" if server.worker.pid == before else "no"
            cells = [name, f"{len(data) / 1e6:.2f}", str(status), f"{time.perf_counter() - begun:.2f}"]
            rows.append([*cells, f"{peak / 1e6:.0f}", same])
        print_table(["file", "MB", "status", "s", "worker's peak, MB", "worker lives"], rows)
        photo = EXAMPLE.read_bytes()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        rows = []
        for name in ("../../etc/cron.d/x", "a\r\nSet-Cookie: b=c", "C:\\windows\\x", "\0", "x" * 4000):
            files_ = {"image": (name, photo)}
            answer = httpx.post(f"{server.address}/v1/cut", files=files_, headers=headers, timeout=60)
            injected = "yes" if "set-cookie" in answer.headers else "no"
            rows.append([repr(name[:24]), str(answer.status_code), injected])
        print_table(["file name", "status", "header injected"], rows)
        print_table(["wrong token", "median µs"], [[k, f"{v:.0f}"] for k, v in token_times(server).items()])
        faults = [line for line in server.lines if "Traceback" in line]
        print(f"{len(faults)} tracebacks in the server's log")


if __name__ == "__main__":
    main()
