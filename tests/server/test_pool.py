"""What the server makes of workers that are slow, silent, or say what makes no sense."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from decoupe.errors import ModelError
from decoupe.server import pool as pools
from decoupe.server.jobs import Answer, Cut
from decoupe.server.metrics import Metrics
from decoupe.server.pool import Pool
from decoupe.server.problems import ProblemError
from decoupe.server.worker import Workplace
from server.patience import run

JOB = Cut(b"picture", "tiny")
DONE = {"media_type": "image/png", "headers": {}, "seconds": {"model": 0.1, "worker": 0.2}}


class Quiet(pools._Worker):
    """A worker without a process: the test answers for it."""

    starts = 0

    def start(self) -> None:
        Quiet.starts += 1
        self.models = [{"name": "tiny", "task": "matte"}]
        self.killed = False
        self.process = self.connection = self

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        pass

    def kill(self) -> None:
        self.killed = True

    def end(self) -> None:
        self.killed = True

    def send(self, ticket: object) -> None:
        pass

    def say(self, about: object, body: bytes = b"") -> None:
        line = about if isinstance(about, bytes) else json.dumps(about).encode()
        self.heard(self, line + b"\n" + body)


def played(
    monkeypatch: pytest.MonkeyPatch, play: Callable[[Pool, Any], Awaitable[None]], **options: Any
) -> None:
    """A scene with a pool of one quiet worker."""
    monkeypatch.setattr(pools, "_Worker", Quiet)

    async def scene() -> None:
        settings = {"waiting": 3, "seconds": 5.0, **options}
        pool = Pool([Workplace({"tiny": None}, batch=1, threads=1)], metrics=Metrics(), **settings)
        await pool.start()
        (one,) = pool._ready
        await play(pool, one)
        await pool.close()

    run(scene())


async def asked(pool: Pool, count: int = 1) -> list[asyncio.Task[Answer]]:
    tasks = [asyncio.create_task(pool.do(JOB)) for _ in range(count)]
    await asyncio.sleep(0.01)
    return tasks


def test_no_job_is_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megabytes of a picture as text, for an error that nobody reads, took the server more than all else."""

    class Mute(Cut):
        def __repr__(self) -> str:
            raise AssertionError("spelled out")

    async def play(pool: Pool, one: Quiet) -> None:
        task = asyncio.create_task(pool.do(Mute(b"picture", "tiny")))
        await asyncio.sleep(0.01)
        one.say({"number": 0, **DONE}, b"a")
        assert (await task).body == b"a"

    played(monkeypatch, play)


def test_an_answer_reaches_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(pool: Pool, one: Quiet) -> None:
        first, second = await asked(pool, 2)
        one.say({"number": 1, **DONE}, b"b")
        one.say({"number": 0, "failed": "input", "line": "no"})
        assert (await second).body == b"b"
        with pytest.raises(ProblemError, match="no") as raised:
            await first
        assert raised.value.status == 400
        assert one.given == {}

    played(monkeypatch, play)


def test_a_silent_worker_is_ended_and_a_busy_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(pool: Pool, one: Quiet) -> None:
        (late,) = await asked(pool)
        await asyncio.sleep(0.15)
        (other,) = await asked(pool)
        one.say({"number": 1, **DONE})
        await other
        with pytest.raises(ProblemError, match=r"longer than 0\.2 seconds"):
            await late
        assert not one.killed
        (late,) = await asked(pool)
        with pytest.raises(ProblemError) as raised:
            await late
        assert (raised.value.status, one.killed) == (504, True)

    played(monkeypatch, play, seconds=0.2)


def test_a_worker_has_its_time_however_long_its_job_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(pool: Pool, one: Quiet) -> None:
        pool._ready.clear()  # as while it starts
        (late,) = await asked(pool)
        await asyncio.sleep(0.15)
        pool._ready.add(one)
        pool._dispatch()
        with pytest.raises(ProblemError, match="longer than"):
            await late
        assert (list(one.given), one.killed) == ([0], False)

    played(monkeypatch, play, seconds=0.2)


def test_what_nobody_waits_for_is_not_handed_over() -> None:
    async def scene() -> list[Any]:
        waited, left = (
            pools._Ticket(number, JOB, asyncio.get_running_loop().create_future()) for number in (0, 1)
        )
        left.done.cancel()
        here, theirs = multiprocessing.Pipe()
        for ticket in (waited, left):
            pools._send(theirs, ticket)
        return [here.recv(), here.recv()]

    assert run(scene()) == [(0, JOB), (1, None)]


def test_a_silent_worker_is_ended_also_when_all_have_left_whose_jobs_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play(pool: Pool, one: Quiet) -> None:
        for task in await asked(pool, 4):
            task.cancel()
        (late,) = await asked(pool)
        one.say({"number": 9, "dropped": True})  # no sign of life of what it computes
        assert (pool.waiting, one.killed) == (1, False)
        with pytest.raises(ProblemError, match="longer than"):
            await late
        assert one.killed

    played(monkeypatch, play, seconds=0.2)


@pytest.mark.parametrize(
    "said",
    [
        b"\xff",
        [],
        {"number": 0},
        {"number": 0, "failed": "?", "line": ""},
        {"number": 0, **DONE, "media_type": "text/html"},
        {"number": 0, **DONE, "headers": {"X-A": "1\r\nSet-Cookie: a=b"}},
        {"number": 0, **DONE, "headers": {"Content-Security-Policy": "none"}},
        {"number": [], **DONE},
        {"number": 0, "dropped": True},
    ],
)
def test_a_worker_that_makes_no_sense_is_ended(monkeypatch: pytest.MonkeyPatch, said: object) -> None:
    async def play(pool: Pool, one: Quiet) -> None:
        (task,) = await asked(pool)
        one.say(said)
        assert one.killed
        task.cancel()

    played(monkeypatch, play)


def test_jobs_wait_their_turn_and_the_next_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(pool: Pool, one: Quiet) -> None:
        tasks = await asked(pool, 4 + 3)  # in work, and waiting
        assert (len(one.given), pool.waiting) == (4, 3)
        with pytest.raises(ProblemError) as raised:
            await pool.do(JOB)
        assert (raised.value.status, raised.value.retry_after) == (429, 2)
        tasks[-1].cancel()
        tasks[0].cancel()
        await asyncio.sleep(0.01)
        assert (len(one.given), pool.waiting) == (4, 2)  # the worker still has the first
        assert (tasks[-1].done(), tasks[0].done()) == (True, False)
        one.say({"number": 0, "dropped": True})
        await asyncio.sleep(0.01)
        assert (sorted(one.given), pool.waiting) == ([1, 2, 3, 4], 1)
        assert tasks[0].cancelled()
        for task in tasks:
            task.cancel()

    played(monkeypatch, play)


def test_a_worker_that_cannot_start_again_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pools, "_LONGEST_REST", 0.01)

    async def play(pool: Pool, one: Quiet) -> None:
        (task,) = await asked(pool)
        failures = iter([ModelError("once"), OSError(24, "Too many open files")])
        start = Quiet.start

        def failing(self: Quiet) -> None:
            for failure in failures:
                raise failure
            start(self)

        monkeypatch.setattr(Quiet, "start", failing)
        one.lost(one)
        with pytest.raises(ProblemError) as raised:
            await task
        assert (raised.value.status, pool.ready) == (503, False)
        while pool._restarts:
            await asyncio.sleep(0.02)
        assert pool.ready

    played(monkeypatch, play)
    once, again = (json.loads(line)["warning"] for line in capsys.readouterr().err.splitlines())
    assert once.endswith("once")
    assert "Too many open files" in again
