"""Running a server: its workers, and uvicorn around the application."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn

from decoupe.server.app import Settings, create_app
from decoupe.server.guard import LOG, Limits, PatientProtocol
from decoupe.server.worker import Workplace, line_of

__all__ = ["Limits", "Settings", "Workplace", "serve"]


class _Server(uvicorn.Server):
    """uvicorn that tells when it listens."""

    def __init__(self, config: uvicorn.Config, told: Callable[[], None]) -> None:
        super().__init__(config)
        self._told = told

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell."""
        await super().startup(sockets)
        self._told()


class _Line(logging.Formatter):
    """A line of JSON, whoever tells it: uvicorn and the parser of forms tell theirs as text."""

    def format(self, record: logging.LogRecord) -> str:
        told = super().format(record)
        return told if record.name == LOG.name else line_of(warning=told)


def serve(settings: Settings, listening: socket.socket, told: Callable[[str], None]) -> None:
    """Serve on a socket until SIGTERM or Ctrl-C; requests that have been accepted are finished first.

    Args:
        settings: how.
        listening: where.
        told: gets the server's address when its models are open.

    Raises:
        ModelError: a model cannot be opened.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Line())
    logging.basicConfig(handlers=[handler])
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    app, limits = create_app(settings), settings.limits
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        # The lifespan is entered here, so that what goes wrong in it is an exception and not a log entry.
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(limits.receiving + limits.seconds),
    )
    # uvicorn finishes first, then repeats the signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    async def main() -> None:
        async with app.router.lifespan_context(app):
            await _Server(config, lambda: told(address)).serve(sockets=[listening])

    asyncio.run(main())
