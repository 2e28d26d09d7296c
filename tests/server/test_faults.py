"""What goes wrong around a server: workers that die, queues that fill, clients that stall or leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import psutil
import pytest
import uvicorn
from PIL import Image

from decoupe.server.guard import Guard, Limits, PatientProtocol
from decoupe.server.metrics import Metrics
from inference.tiny import write_onnx
from server.patience import run
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
        before = server.gauge("decoupe_worker_restarts_total")
        asked = threads.submit(post, server)
        until(lambda: server.gauge("decoupe_held_bytes") == len(SQUARES))
        worker.kill()
        answer = asked.result()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert "try again" in answer.json()["detail"]
    assert post(server).status_code == 200  # it waited for the next worker
    assert server.gauge("decoupe_worker_restarts_total") == before + 1


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
        until(lambda: server.gauge("decoupe_held_bytes") == IN_WORK * len(SQUARES))
        gone = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        for one in gone:
            one.sendall(request)
        until(lambda: server.gauge("decoupe_waiting") == 3)
        for one in gone:
            one.close()
        until(lambda: server.gauge("decoupe_waiting") == 0)
    assert {one.result().status_code for one in asked} == {200}


def test_who_leaves_takes_a_place_until_the_worker_has_let_go(server: Running) -> None:
    """Else those who send and leave at once fill the memory, by what waits on its way to the worker."""
    head = f"POST /v1/cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(SQUARES)}\r\n\r\n".encode()
    port = int(server.address.rpartition(":")[2])
    with server.stopped():
        for _ in range(3):
            gone = [socket.create_connection(("127.0.0.1", port)) for _ in range(IN_WORK)]
            for one in gone:
                one.sendall(head + SQUARES)
            until(lambda: server.gauge("decoupe_held_bytes") >= IN_WORK * len(SQUARES))
            for one in gone:
                one.close()
            until(lambda: server.gauge("decoupe_waiting") == 0)
            assert server.gauge("decoupe_held_bytes") == IN_WORK * len(SQUARES)
    until(lambda: server.gauge("decoupe_held_bytes") == 0)
    assert post(server).status_code == 200


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


@pytest.mark.parametrize(("parts", "status"), [(58, 204), (62, 408)])
def test_a_body_has_a_minute_to_come(parts: int, status: int) -> None:
    """The whole of it, however steadily its parts come."""

    async def reads(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def dripping() -> AsyncIterator[bytes]:
        for _ in range(parts):
            await asyncio.sleep(1)
            yield b"."

    guard = Guard(reads, limits=Limits(), token=None, local=False, origins=(), metrics=Metrics())

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://here") as client:
            return await client.post("/v1/cut", content=dripping())

    answer = run(asked())
    assert answer.status_code == status
    assert status == 204 or "did not come in time" in answer.json()["detail"]


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
def test_too_little_memory_for_a_small_picture_ends_the_command(tmp_path: Path) -> None:
    """Of a model that takes 200 MB at once: smaller pieces may lie in what the process reserved before."""
    model = onnx.load(write_onnx(tmp_path / "large.onnx"))
    many = onnx.numpy_helper.from_array(np.array([12_000, 1, 1, 1]), "many")
    first = onnx.numpy_helper.from_array(np.array([0]), "first")
    model.graph.initializer.extend([many, first])
    model.graph.node[-1].output[0] = "one"
    model.graph.node.extend(
        [
            onnx.helper.make_node("Expand", ["one", "many"], ["copies"]),
            onnx.helper.make_node("Gather", ["copies", "first"], ["alpha"]),
        ]
    )
    onnx.save(model, tmp_path / "large.onnx")
    command = [sys.executable, "-m", "decoupe", "serve", "-m", str(tmp_path / "large.onnx")]
    ended = subprocess.run(
        [*command, "--port", "0", "--memory", "1"], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert re.fullmatch(
        r"decoupe: --memory 1: a worker with large takes up to \d+ MB for one small picture, "
        r"give that or more\n",
        ended.stderr,
    )


def listens(process: int) -> bool:
    """Whether a process still takes connections."""
    every = psutil.Process(process).net_connections("tcp")
    return any(each.status == psutil.CONN_LISTEN for each in every)


def test_what_was_accepted_is_finished(tiny: Path, threads: ThreadPoolExecutor) -> None:
    with running("-m", str(tiny)) as server:
        with server.stopped():
            asked = [threads.submit(post, server) for _ in range(3)]
            until(lambda: server.gauge("decoupe_held_bytes") == 3 * len(SQUARES))
            server.process.terminate()
            until(lambda: not listens(server.process.pid))
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


@contextlib.asynccontextmanager
async def patient(
    status: int = 204, size: int = 0, metrics: Metrics | None = None
) -> AsyncIterator[tuple[uvicorn.Server, tuple[str, int]]]:
    """uvicorn with `PatientProtocol` and its address; it answers without reading a request's body.

    With metrics there is a `Guard` before it.
    """

    async def app(scope: object, receive: object, send: object) -> None:
        length = [] if status == 204 else [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": status, "headers": length})
        await send({"type": "http.response.body", "body": bytes(size)})

    guarded = metrics and Guard(app, limits=Limits(), token=None, local=False, origins=(), metrics=metrics)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # So that the system keeps little of an answer; connections inherit it.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        server = uvicorn.Server(
            uvicorn.Config(guarded or app, http=PatientProtocol, lifespan="off", log_config=None)  # type: ignore[arg-type]
        )
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield server, listening.getsockname()
        finally:
            server.should_exit = server.force_exit = True
            await serving


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def answered(ends: Ends) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a request."""
    reader, writer = ends
    writer.write(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n")
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")[:-2]
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


def test_idle_connections_of_one_address_shut_nobody_else_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "most_each", 2)
    metrics = Metrics()

    async def talk() -> None:
        async with patient(metrics=metrics) as (server, address):
            idle = [await asyncio.open_connection(*address) for _ in range(2)]
            late = await asyncio.open_connection(*address)
            for _ in range(2):
                status, headers, body = await answered(late)
                assert (status, headers["retry-after"]) == (429, "5")
                assert headers["content-type"] == "application/problem+json"
                assert headers["x-frame-options"] == "deny"
                assert b"more than 2 connections come from this address" in body
            assert b'route="none",status="429"} 2.0' in metrics.page()
            if sys.platform == "linux":  # all of 127.0.0.0/8 is this machine
                other = await asyncio.open_connection(*address, local_addr=("127.0.0.2", 0))
                assert (await answered(other))[0] == 204
                idle.append(other)
            assert (await answered(idle[0]))[0] == 204
            idle.append(await asyncio.open_connection(*address))
            idle.append(await asyncio.open_connection(*address))
            with contextlib.suppress(ConnectionResetError):
                assert await idle[-1][0].read() == b""  # one too many even to be told
            for _, writer in idle:
                writer.close()
            while len(server.server_state.connections) > 2:
                await asyncio.sleep(0.02)
            assert (await answered(late))[0] == 204
            late[1].close()

    run(asyncio.wait_for(talk(), 30))


def test_more_connections_than_the_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "most", 1)

    async def talk() -> None:
        async with patient(metrics=Metrics()) as (_, address):
            first = await asyncio.open_connection(*address)
            assert (await answered(first))[0] == 204
            late = await asyncio.open_connection(*address)
            status, headers, body = await answered(late)
            assert (status, headers["retry-after"]) == (503, "5")
            assert b"the server has too many connections" in body
            assert (await answered(first))[0] == 204
            for _, writer in (first, late):
                writer.close()

    run(asyncio.wait_for(talk(), 30))


@pytest.mark.parametrize("whole", [False, True], ids=["first", "later"])
def test_a_head_that_never_ends_is_hung_up_on(monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    monkeypatch.setattr(PatientProtocol, "head_seconds", 0.2)

    async def talk() -> bytes:
        async with patient() as (_, address):
            reader, writer = await asyncio.open_connection(*address)
            if whole:
                writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
            writer.write(b"GET / HT")
            heard = await asyncio.wait_for(reader.read(), 4)
            writer.close()
            return heard

    assert run(talk()) == b""


UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"


def test_who_is_refused_and_never_stops_sending_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "head_seconds", 0.2)

    async def talk() -> None:
        async with patient(401) as (server, address):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(UPLOAD)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401")
            while server.server_state.connections:
                writer.write(b"x")
                await asyncio.sleep(0.02)
            writer.close()

    run(asyncio.wait_for(talk(), 4))


def test_who_is_refused_while_sending_reads_why_and_may_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "head_seconds", 1.4)

    async def talk() -> None:
        async with patient(401) as (_, address):
            reader, writer = await asyncio.open_connection(*address)
            for wait in (0.075, 0):  # together longer than a head may take
                writer.write(UPLOAD)
                for _ in range(10):
                    writer.write(bytes(100))
                    await asyncio.sleep(wait)
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401")
                await asyncio.sleep(10 * wait)
            writer.close()

    run(talk())


async def asked(address: tuple[str, int]) -> socket.socket:
    """A connection that has asked for something, of which the system keeps little."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    one.setblocking(False)
    await asyncio.get_running_loop().sock_connect(one, address)
    await asyncio.get_running_loop().sock_sendall(one, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    return one


@pytest.mark.parametrize("size", [60_000, 8_000_000], ids=["small", "large"])
def test_an_answer_that_nobody_reads_is_forgotten(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(PatientProtocol, "answer_seconds", 0.2)

    async def talk() -> None:
        async with patient(200, size) as (server, address):
            with await asked(address):
                while not server.server_state.total_requests or server.server_state.connections:
                    await asyncio.sleep(0.02)

    run(asyncio.wait_for(talk(), 4))


def test_an_answer_goes_out_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one piece Windows' loop tells only when all of it is read: who reads slowly would seem not to."""
    monkeypatch.setattr("decoupe.server.guard._PIECE", 1000)
    whole = bytes(range(250)) * 10
    sent: list[dict[str, Any]] = []

    async def app(scope: object, receive: object, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": whole, "more_body": True})
        await send({"type": "http.response.body"})

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(app, limits=Limits(), token=None, local=False, origins=(), metrics=Metrics())
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(guard(scope, None, send))  # type: ignore[arg-type]
    bodies = sent[1:]
    assert [len(one.get("body", b"")) for one in bodies] == [1000, 1000, 500, 0]
    assert [bool(one.get("more_body")) for one in bodies] == [True, True, True, False]
    assert b"".join(one.get("body", b"") for one in bodies) == whole


def test_who_reads_slowly_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "answer_seconds", 0.5)

    async def talk() -> int:
        async with patient(200, 360_000) as (_, address):
            with await asked(address) as one:
                size, loop = 0, asyncio.get_running_loop()
                begun = loop.time()
                while size < 360_000:
                    part = await loop.sock_recv(one, 8000)
                    assert part, size
                    size += len(part)
                    await asyncio.sleep(0.03)
                assert loop.time() - begun > 2 * PatientProtocol.answer_seconds
                return size

    assert run(talk()) >= 360_000
