"""Requests that wait, and the workers that do them: bounded, timed, and mended when a worker dies."""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from decoupe.errors import ModelError
from decoupe.server import worker
from decoupe.server.jobs import MEDIA_TYPES, Answer, Job
from decoupe.server.metrics import STAGES, Metrics
from decoupe.server.problems import ProblemError
from decoupe.server.worker import Workplace

_START_SECONDS = 600  # a large model may come from a slow disk
_LONGEST_REST = 30  # seconds between two tries to start a worker that ends at once
_LARGEST_ANSWER = 2**30  # bytes; a worker that says more is not to be believed

_STATUS = {"input": 400, "large": 413, "fault": 500}


@dataclass(eq=False)
class _Ticket:
    """A job that waits or is being done."""

    number: int
    job: Job
    done: asyncio.Future[Answer]  # also done when nobody waits for it any more
    worker: _Worker | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # nobody has its bytes any more


@dataclass(eq=False)
class _Worker:
    """A worker as the server sees it: its process, what it was given, and when it last did something."""

    place: Workplace
    heard: Callable[[_Worker, bytes], None]
    lost: Callable[[_Worker], None]
    models: list[dict[str, Any]] = field(default_factory=list)
    given: dict[int, _Ticket] = field(default_factory=dict)
    process: Any = None
    connection: Any = None
    answered: float = 0.0
    # A thread of its own: a large picture is handed over while others are answered.
    sender: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Start the process and wait until its models are open; blocks.

        Raises:
            ModelError: it could not open them, or ended.
        """
        # A new interpreter, not a fork: threads, and libraries that compute, do not survive one.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        process = context.Process(target=worker.main, args=(theirs, self.place), daemon=True)
        with self.lock:  # either it is not started, or there is something to end
            if self.closed:
                raise ModelError("the server is shutting down")
            process.start()
            self.process = process
        theirs.close()
        try:
            told = json.loads(self.connection.recv_bytes()) if self.connection.poll(_START_SECONDS) else {}
        except (EOFError, OSError):
            told = {}
        if "models" not in told:
            self.end()
            ended = "a worker ended before it was ready: see what it said above, or give more --memory"
            raise ModelError(told.get("error", ended))
        self.models = told["models"]

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell what the worker answers, and its end, in the thread of ``loop``."""
        connection = self.connection

        def hear() -> None:
            with suppress(EOFError, OSError, RuntimeError):  # the last: the loop is closed
                while True:
                    loop.call_soon_threadsafe(self.heard, self, connection.recv_bytes(_LARGEST_ANSWER))
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self.lost, self)

        threading.Thread(target=hear, daemon=True).start()

    def end(self) -> None:
        """End the process; one that has ended is let go of."""
        if self.process is not None:
            self.process.kill()
            self.process.join()

    def close(self) -> None:
        """End the process for good, also one that another thread is starting."""
        with self.lock:
            self.closed = True
        self.end()
        self.sender.shutdown(wait=False, cancel_futures=True)

    def send(self, ticket: _Ticket) -> None:
        """Give it a job, or tell that nobody waits for it any more; returns before it has been taken."""
        self.sender.submit(_send, self.connection, ticket)

    def let_go(self) -> None:
        """Have no job any more."""
        for ticket in self.given.values():
            ticket.gone.set()
        self.given.clear()


class Pool:
    """The workers of a server, and the queue in front of them.

    Args:
        places: one for each worker.
        waiting: most jobs that wait; one more is refused.
        seconds: longest time that a job waits and is done in.
        metrics: counts what happens.
    """

    def __init__(
        self, places: Sequence[Workplace], *, waiting: int, seconds: float, metrics: Metrics
    ) -> None:
        self._most = waiting
        self._seconds = seconds
        self._metrics = metrics
        self._waiting: deque[_Ticket] = deque()
        self._numbers = itertools.count()
        self._workers = [_Worker(place, self._heard, self._lost) for place in places]
        self._ready: set[_Worker] = set()
        self._restarts: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def models(self) -> list[dict[str, Any]]:
        """What is told of each model; all workers tell the same."""
        return self._workers[0].models

    @property
    def ready(self) -> bool:
        """Whether there is a worker to do a job."""
        return bool(self._ready) and not self._closing

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    async def start(self) -> None:
        """Start the workers, all at once.

        Raises:
            ModelError: one of them cannot open its models.
        """
        await asyncio.gather(*(self._start(one) for one in self._workers))

    async def close(self) -> None:
        """End the workers; what they are doing is lost."""
        self._closing = True
        for task in self._restarts:
            task.cancel()
        self._ready.clear()
        for one in self._workers:
            one.close()
            one.let_go()

    async def do(self, job: Job) -> Answer:
        """The answer to a job.

        A caller that is cancelled leaves the queue, and ends when no worker has the job any more: until then
        it takes memory, and a place among those that are in work.

        Raises:
            ProblemError: the queue is full, the time is over, the worker died, or the job cannot be done.
        """
        if len(self._waiting) >= self._most:
            self._metrics.refused.inc()
            raise ProblemError(
                429, "the server is busy: try again in a moment", code="rate_limit_exceeded", retry_after=2
            )
        ticket = _Ticket(next(self._numbers), job, asyncio.get_running_loop().create_future())
        self._waiting.append(ticket)
        self._dispatch()
        try:
            return await asyncio.wait_for(ticket.done, self._seconds)
        except asyncio.TimeoutError:
            self._check(ticket)
            self._give_up(ticket)
            raise ProblemError(
                504, f"the picture took longer than {self._seconds:g} seconds: make it smaller"
            ) from None
        except asyncio.CancelledError:
            self._give_up(ticket)
            await ticket.gone.wait()
            raise

    def _give_up(self, ticket: _Ticket) -> None:
        """Take a job from the queue, or have its worker let go of it."""
        if ticket.worker is None:  # else it is not there, and the deque's error would spell its bytes out
            self._waiting.remove(ticket)
            ticket.gone.set()
        elif ticket.number in ticket.worker.given:
            ticket.worker.send(ticket)

    def _check(self, ticket: _Ticket) -> None:
        """End a worker that had a job until its time was over, unless it was busy with others.

        Of a job that got none, all that said nothing for as long: of those whose jobs they have, none may
        be left to wait.
        """
        now = _now()
        if ticket.worker is None:
            silent = [one for one in self._ready if one.given and now - one.answered > self._seconds]
        else:
            one = ticket.worker
            silent = [one] if ticket.number in one.given and now - one.answered > self._seconds / 2 else []
        for one in silent:
            one.process.kill()  # nothing else can stop what it is doing

    def _dispatch(self) -> None:
        """Give waiting jobs to the workers that have fewest, and no more than keeps them busy."""
        while self._waiting and self._ready:
            free = min(self._ready, key=lambda one: len(one.given))
            if len(free.given) >= 2 * (free.place.batch + free.place.threads):
                return
            ticket = self._waiting.popleft()
            ticket.worker = free
            if not free.given:
                free.answered = _now()
            free.given[ticket.number] = ticket
            free.send(ticket)

    def _heard(self, one: _Worker, message: bytes) -> None:
        """A worker's answer; one that makes no sense ends the worker."""
        line, _, body = message.partition(b"\n")
        try:
            told = json.loads(line)
            ticket = one.given.get(told["number"])
            result = _result(told, body)
            if result is None and ticket and not ticket.done.done():
                raise ValueError("somebody waits for it")
            seconds = {stage: float(told["seconds"][stage]) for stage in STAGES if "seconds" in told}
        except (ValueError, KeyError, TypeError, AttributeError):
            one.process.kill()
            return
        if result is not None:  # one that only lets go may do nothing else any more
            one.answered = _now()
        if ticket is not None:
            del one.given[ticket.number]
            ticket.gone.set()
        self._dispatch()
        if ticket is None or ticket.done.done():
            return  # whoever asked is gone
        for stage, took in seconds.items():
            self._metrics.stages.labels(stage).observe(took)
        if isinstance(result, Answer):
            ticket.done.set_result(result)
        elif result is not None:
            ticket.done.set_exception(result)

    def _lost(self, one: _Worker) -> None:
        """A worker's end: those whose jobs it had are told, and another is started."""
        if self._closing or one not in self._ready:
            return
        self._ready.discard(one)
        self._metrics.restarts.inc()
        for ticket in one.given.values():
            if not ticket.done.done():
                line = "the worker ended while it had this picture: try again"
                ticket.done.set_exception(ProblemError(503, line, retry_after=2))
        one.let_go()
        task = asyncio.get_running_loop().create_task(self._restart(one))
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    async def _restart(self, one: _Worker) -> None:
        rest = 0.5
        while one not in self._ready:
            try:
                await asyncio.to_thread(one.end)
                await self._start(one)
            except Exception as error:  # also of the system: that it has no process or file left may pass
                worker.log(warning=f"a worker could not be started, and will be tried again: {error}")
                await asyncio.sleep(rest)
            rest = min(2 * rest, _LONGEST_REST)

    async def _start(self, one: _Worker) -> None:
        await asyncio.to_thread(one.start)
        one.listen(asyncio.get_running_loop())
        self._ready.add(one)
        self._dispatch()


def _now() -> float:
    """Seconds on the clock that times what the running loop waits for."""
    return asyncio.get_running_loop().time()


def _result(told: dict[str, Any], body: bytes) -> Answer | ProblemError | None:
    """What a worker's answer says, where it makes sense; None is that it let go of a job."""
    if told.get("dropped") is True:
        return None
    if "failed" in told:
        code = None if told.get("code") is None else str(told["code"])
        return ProblemError(_STATUS[told["failed"]], str(told["line"]), code=code)
    headers = {str(name): str(value) for name, value in told["headers"].items()}
    if told["media_type"] not in MEDIA_TYPES.values() or not all(map(_is_header, headers.items())):
        raise ValueError("no such answer")
    return Answer(body, told["media_type"], headers)


def _is_header(pair: tuple[str, str]) -> bool:
    name, value = pair
    return bool(re.fullmatch(r"X-[A-Za-z-]+", name)) and value.isascii() and value.isprintable()


def _send(connection: Any, ticket: _Ticket) -> None:
    job = None if ticket.done.done() else ticket.job  # many may have left while others were handed over
    with suppress(OSError, ValueError):  # a worker that died is noticed where its answers are awaited
        connection.send((ticket.number, job))
