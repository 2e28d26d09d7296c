"""What stands in front of every route: who may ask, how much and how slowly, and what is told of it.

Nothing of a request is written to disk. Bytes are counted as they come, before they are kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import time
import traceback
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from decoupe.server.loopback import is_loopback
from decoupe.server.metrics import Metrics
from decoupe.server.problems import REMOVE_BG, ProblemError

LOG = logging.getLogger("decoupe.server")

_OPEN = ("/", "/healthz", "/readyz", "/openapi.json")
_STATIC = "/static/"

ROOM = "check_room"
"""What the state of a request calls `PatientProtocol.check_room`."""

# Bytes of an answer that are handed to the loop at a time: of one piece, Windows' tells only when all of it
# has been read, and `PatientProtocol` would take who reads slowly for one who does not.
_PIECE = 1 << 18

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "manifest-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Limits:
    """How much a request may take.

    Attributes:
        megabytes: of a request's body.
        held: megabytes of all requests that are in memory together.
        fields: form fields of a request; files are two at most.
        receiving: seconds in which a body must have come.
        seconds: in which a picture must have been done, waiting included.
        waiting: pictures in the queue.
    """

    megabytes: float = 25
    held: float = 1024
    fields: int = 40
    receiving: float = 60
    seconds: float = 60
    waiting: int = 64


class PatientProtocol(H11Protocol):
    """HTTP/1.1, whose clients have ten seconds to send a head, and a minute to read some of an answer.

    uvicorn waits for ever for a head that never ends, on new connections and on kept ones, for the rest of a
    body that was answered before it had come, and for clients that do not read what they are sent. Its own
    limit of connections lets one client who opens many and says nothing shut all others out.

    Attributes:
        most: connections at the same time. Requests on others are refused, see `check_room`; who has not even
            a place to be refused in, beyond twice as many, is hung up on.
        most_each: those of one address.
        head_seconds: in which a head must have come, or the rest of a body that is answered already.
        answer_seconds: in which a client must have read something of what is left of an answer.
    """

    most = 400
    most_each = 128
    head_seconds = 10.0
    answer_seconds = 60.0
    _let_in = False
    _awaited: str | None = None
    _timer: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock, or hang up."""
        super().connection_made(transport)
        every, same = self._crowd()
        if every > 2 * self.most or same > 2 * self.most_each:
            transport.abort()
            return
        self._let_in = every <= self.most and same <= self.most_each
        # Of the server's state each request gets a copy, and the Guard there what it asks.
        self.app_state = {**self.app_state, ROOM: self.check_room}
        # Anything unread pauses writing: even a small rest would keep a connection from being closed.
        transport.set_write_buffer_limits(high=0)
        self._watch()

    def check_room(self) -> None:
        """Refuse the requests of a connection that is one too many, until others have closed.

        Raises:
            ProblemError: its address has too many connections, or the server has.
        """
        if self._let_in:
            return
        every, same = self._crowd()
        if same > self.most_each:
            line = f"more than {self.most_each} connections come from this address: close some, or try again"
            raise ProblemError(429, line, retry_after=5)
        if every > self.most:
            line = "the server has too many connections: try again in a moment"
            raise ProblemError(503, line, retry_after=5)
        self._let_in = True

    def data_received(self, data: bytes) -> None:
        """Stop it when a head or a body has come, start it when the next head begins."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Start it for a body that is answered before it has come."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._watch()

    def pause_writing(self) -> None:
        """Start the clock of those who read."""
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        """Stop it."""
        super().resume_writing()
        self._stop_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop both."""
        self._stop()
        self._stop_reading()
        super().connection_lost(exc)

    def _crowd(self) -> tuple[int, int]:
        """How many connections there are, this one with them, and how many of its address."""
        connections = cast("set[PatientProtocol]", self.connections)
        hosts = [one.client and one.client[0] for one in connections]
        return len(hosts), hosts.count(self.client and self.client[0])

    def _watch(self) -> None:
        awaited = None
        if self.conn.their_state is h11.IDLE:
            awaited = "head"
        elif self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE:
            # Not closed at once: to those who are still sending, a reset could come before the answer.
            awaited = "rest"
        if awaited != self._awaited:
            self._stop()
        if awaited and self._timer is None:
            self._awaited = awaited
            self._timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop(self) -> None:
        self._awaited = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _await_reading(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._reading = self.loop.call_later(self.answer_seconds, self._check_reading, unread)

    def _check_reading(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() < unread:
            self._await_reading()
        else:
            self.transport.abort()

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None


class Guard:
    """The ASGI middleware.

    Args:
        app: what is guarded.
        limits: how much a request may take.
        token: what protected routes ask for; None asks for nothing.
        local: answer only those who call the server by a name of this machine, so that no page of the web
            can reach it by a name of its own.
        origins: of other pages that may ask.
        metrics: counts what happens.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        token: str | None,
        local: bool,
        origins: Sequence[str],
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._limits = limits
        self._token = None if token is None else _digest(token)
        self._local = local
        self._origins = frozenset(origins)
        self._metrics = metrics
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # No file here needs to come in parts; of wrong ones Starlette tells in plain text, and before its
        # release 0.49.1 many of them take it quadratic time.
        scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"range"]}
        visit = _Visit(scope, send)
        body = _Body(self, receive)
        try:
            try:
                if check_room := scope.get("state", {}).get(ROOM):
                    check_room()
                self._admit(scope, Headers(scope=scope))
                await self._app(scope, body.receive, visit.send)
            except ProblemError as problem:
                if visit.status is None:
                    await problem.response(scope["path"])(scope, receive, visit.send)
            except ClientDisconnect:
                pass  # told as 499
            except Exception:
                LOG.error(json.dumps({"id": visit.name, "fault": traceback.format_exc()}))
                if visit.status is None:
                    failed = ProblemError(500, "the server failed; its log says why")
                    await failed.response(scope["path"])(scope, receive, visit.send)
        finally:
            self._hold(-body.size)
            self._tell(visit, body)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Refuse who may not ask, and what is too large by its own account."""
        path = scope["path"]
        host = re.sub(r":\d+$", "", headers.get("host", ""))
        if self._local and not is_loopback(host.strip("[]")):
            raise ProblemError(
                403, "this server answers on this machine alone: start it with a token for others"
            )
        if path not in _OPEN and not path.startswith(_STATIC):
            if _is_foreign(headers, host) and headers.get("origin") not in self._origins:
                raise ProblemError(403, "pages of other sites may not ask: list them with --cors")
            self._check_token(path, headers)
        length = headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > 12 or int(length) > self._limits.megabytes * 1e6):
            raise self._too_large()

    def _check_token(self, path: str, headers: Headers) -> None:
        if self._token is None:
            return
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        # Digests are of one length and are compared in constant time: how long it took tells nothing.
        if hmac.compare_digest(_digest(given), self._token):
            return
        if path.startswith(REMOVE_BG):
            raise ProblemError(403, "API Key invalid", code="auth_failed")
        line = "the token is missing or wrong: send Authorization: Bearer TOKEN"
        raise ProblemError(401, line, headers={"WWW-Authenticate": "Bearer"})

    def _too_large(self) -> ProblemError:
        return ProblemError(
            413, f"the request is larger than {self._limits.megabytes:g} MB: send a smaller picture"
        )

    def _hold(self, size: int) -> None:
        """Count bytes that are kept, or no longer."""
        self._held += size
        self._metrics.held.set(self._held)

    def _tell(self, visit: _Visit, body: _Body) -> None:
        seconds = time.perf_counter() - visit.begun
        # Known routes only: a label for each path that somebody tries would fill the memory.
        route = getattr(visit.scope.get("route"), "path", "none")
        # Who left before the answer is told apart as nginx does it.
        status = 499 if visit.status is None else visit.status
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        LOG.info(
            json.dumps(
                {
                    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "id": visit.name,
                    "client": (visit.scope.get("client") or [None])[0],
                    "method": visit.scope["method"],
                    "route": route,
                    "status": status,
                    "seconds": round(seconds, 4),
                    "bytes_in": body.total,
                    "bytes_out": visit.size,
                }
            )
        )


class _Visit:
    """One request, as it is told of."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.name = uuid.uuid4().hex
        self.begun = time.perf_counter()
        self.status: int | None = None
        self.size = 0
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in {**_HEADERS, "X-Request-Id": self.name}.items():
                headers.setdefault(name, value)
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            self.size += len(body)
            rest = max(0, (len(body) - 1) // _PIECE * _PIECE)
            for start in range(0, rest, _PIECE):
                await self._send({**message, "body": body[start : start + _PIECE], "more_body": True})
            message = {**message, "body": body[rest:]}
        await self._send(message)


class _Body:
    """A request's body, counted and timed as it comes."""

    def __init__(self, guard: Guard, receive: Receive) -> None:
        self.size = 0
        self.total = 0
        self._guard = guard
        self._receive = receive
        self._clock = asyncio.get_running_loop().time
        self._end = self._clock() + guard._limits.receiving
        self._complete = False

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        left = max(0, self._end - self._clock())
        try:
            message = await asyncio.wait_for(self._receive(), left)
        except asyncio.TimeoutError:
            raise ProblemError(408, "the request did not come in time: send it faster, or smaller") from None
        self._count(len(message.get("body", b"")))
        self._complete = not message.get("more_body", False)
        return message

    def _count(self, size: int) -> None:
        limits = self._guard._limits
        self.total += size
        if self.total > limits.megabytes * 1e6:
            raise self._guard._too_large()
        if self._guard._held + size > limits.held * 1e6:
            raise ProblemError(429, "the server is full: try again in a moment", retry_after=5)
        self.size += size
        self._guard._hold(size)


def _is_foreign(headers: Headers, host: str) -> bool:
    """Whether a page of another site asks; older browsers tell its origin alone."""
    if site := headers.get("sec-fetch-site"):
        return site == "cross-site"
    origin = headers.get("origin")
    # Ports are none of a site, and proxies leave them out of Host.
    return origin is not None and re.sub(r"^https?://|:\d+$", "", origin.lower()) != host.lower()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
