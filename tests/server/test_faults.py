"""What goes wrong around a server: workers that die, queues that fill, clients that stall or leave."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import uvicorn
from PIL import Image

from decoupe.server.guard import Guard, Limits, PatientProtocol
from decoupe.server.metrics import Metrics
from server.running import Running, png, running, squares, until

SQUARES = squares()
IN_WORK = 2 * (4 + 2)  # that a worker is given before others wait


def post(server: Running) -> httpx.Response:
    with server.client() as client:
        return client.post("/v1/cut", content=SQUARES)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as pool:
        yield pool


def test_a_killed_worker_is_told_and_replaced(server: Running, threads: ThreadPoolExecutor) -> None:
    with server.stopped() as worker:
        asked = threads.submit(post, server)
        time.sleep(0.3)
        worker.kill()
        answer = asked.result()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert "try again" in answer.json()["detail"]
    assert post(server).status_code == 200  # it waited for the next worker
    assert server.gauge("decoupe_worker_restarts_total") == 1


def test_a_full_queue_says_when_to_come_back(server: Running, threads: ThreadPoolExecutor) -> None:
    with server.stopped():
        asked = [threads.submit(post, server) for _ in range(IN_WORK + 4)]
        until(lambda: server.gauge("decoupe_waiting") == 4)
        late = post(server)
        assert (late.status_code, late.headers["retry-after"]) == (429, "2")
    assert {one.result().status_code for one in asked} == {200}


def test_who_leaves_leaves_the_queue(server: Running, threads: ThreadPoolExecutor) -> None:
    request = (
        f"POST /v1/cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(SQUARES)}\r\n\r\n".encode()
        + SQUARES
    )
    port = int(server.address.rpartition(":")[2])
    with server.stopped():
        asked = [threads.submit(post, server) for _ in range(IN_WORK)]
        time.sleep(0.3)
        gone = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        for one in gone:
            one.sendall(request)
        until(lambda: server.gauge("decoupe_waiting") == 3)
        for one in gone:
            one.close()
        until(lambda: server.gauge("decoupe_waiting") == 0)
    assert {one.result().status_code for one in asked} == {200}


def test_half_a_request_is_forgotten(server: Running) -> None:
    port = int(server.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as half:
        half.sendall(
            b"POST /v1/cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n" + bytes(1000)
        )
        until(lambda: server.gauge("decoupe_held_bytes") == 1000)
    until(lambda: server.gauge("decoupe_held_bytes") == 0)
    until(lambda: any('"status": 499' in line and '"bytes_in": 1000' in line for line in server.lines))
    assert not any("Traceback" in line for line in server.lines)
    assert all(line.startswith(("{", "decoupe: listening")) for line in server.lines)


def test_a_fault_is_an_answer_a_count_and_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(*_: object) -> None:
        raise ZeroDivisionError("nobody thought of it")

    metrics = Metrics()
    guard = Guard(fails, limits=Limits(), token=None, local=False, origins=(), metrics=metrics)

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://here") as client:
            return await client.get("/v1/models")

    answer = asyncio.run(asked())
    assert (answer.status_code, answer.json()["detail"]) == (500, "the server failed; its log says why")
    assert answer.headers["x-frame-options"] == "DENY"
    (fault,) = (json.loads(line.getMessage()) for line in caplog.records if line.levelname == "ERROR")
    assert fault["id"] == answer.headers["x-request-id"]
    assert "nobody thought of it" in fault["fault"]
    assert b'status="500"} 1.0' in metrics.page()


def test_a_picture_that_takes_too_long_is_given_up(tiny: Path, threads: ThreadPoolExecutor) -> None:
    with running("-m", str(tiny), "--timeout", "1") as server:
        with server.stopped():
            answer = post(server)
        assert answer.status_code == 504
        assert "longer than 1 seconds" in answer.json()["detail"]
        until(lambda: post(server).status_code == 200)


@pytest.mark.skipif(sys.platform != "linux", reason="the system bounds memory on Linux")
def test_a_picture_that_needs_too_much_memory_is_refused(tiny: Path) -> None:
    large = png(Image.new("1", (6000, 6000)))
    assert len(large) < 10_000
    with running("-m", str(tiny), "--memory", "320") as server, server.client() as client:
        worker = server.worker.pid
        for _ in range(3):
            answer = client.post("/v1/cut", content=large)
            assert answer.status_code == 413
            assert "needs more memory than this server gives" in answer.json()["detail"]
        assert post(server).status_code == 200
        assert server.worker.pid == worker


@pytest.mark.skipif(sys.platform != "linux", reason="the system bounds memory on Linux")
def test_too_little_memory_for_a_small_picture_ends_the_command() -> None:
    command = [sys.executable, "-m", "decoupe", "serve", "--port", "0", "--memory", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 2
    assert re.fullmatch(
        r"decoupe: --memory 1: a worker with pocket takes up to \d+ MB for one small picture, "
        r"give that or more\n",
        ended.stderr,
    )


def accepted(process: int) -> list[object]:
    """The connections of clients that a process has taken up."""
    every = psutil.Process(process).net_connections("tcp")
    return [each for each in every if each.status == psutil.CONN_ESTABLISHED]


def test_what_was_accepted_is_finished(tiny: Path, threads: ThreadPoolExecutor) -> None:
    with running("-m", str(tiny)) as server:
        with server.stopped():
            asked = [threads.submit(post, server) for _ in range(3)]
            until(lambda: len(accepted(server.process.pid)) >= 3)
            time.sleep(0.3)  # for what they ask to be read
            server.process.terminate()
            time.sleep(0.3)
        assert [one.result().status_code for one in asked] == [200, 200, 200]
        assert server.process.wait(10) == 0


def test_told_to_end_while_a_worker_starts() -> None:
    command = [sys.executable, "-m", "decoupe", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        server = Running("", process, [])
        try:
            until(lambda: server.workers)
            with server.stopped():
                process.terminate()
                assert process.wait(10) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize("whole", [False, True], ids=["first", "later"])
def test_a_head_that_never_ends_is_hung_up_on(monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    monkeypatch.setattr(PatientProtocol, "head_seconds", 0.2)

    async def app(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def talk() -> bytes:
        config = uvicorn.Config(app, http=PatientProtocol, lifespan="off", log_config=None)
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        if whole:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        writer.write(b"GET / HT")
        heard = await asyncio.wait_for(reader.read(), 4)
        writer.close()
        server.should_exit = True
        await serving
        return heard

    assert asyncio.run(talk()) == b""
