"""The routes: what is asked over HTTP, as jobs for the workers, and their answers."""

from __future__ import annotations

import asyncio
import contextlib
import mimetypes
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import decoupe
from decoupe.server import documents
from decoupe.server.compat import prefers_json, rembg_job, remove_bg_job
from decoupe.server.forms import read_form
from decoupe.server.guard import Guard, Limits
from decoupe.server.jobs import Job
from decoupe.server.metrics import Metrics
from decoupe.server.options import Known, cut_job, segment_job
from decoupe.server.pool import Pool
from decoupe.server.problems import ProblemError
from decoupe.server.worker import Workplace

STATIC = Path(__file__).parent / "static"

# Python asks the registry of Windows, in which programs enter what they like, as text for .js; browsers run
# and show nothing of another type.
_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Settings:
    """How a server is run.

    Attributes:
        devices: one worker for each.
        limits: how much a request may take.
        workplace: how each worker works; the device is one of those above.
        token: what clients must know; None asks for nothing.
        local: whether only clients that call the server by a name of this machine are answered.
        origins: of other pages that may ask.
    """

    devices: Sequence[str] = ("auto",)
    limits: Limits = field(default_factory=Limits)
    workplace: Workplace = field(default_factory=Workplace)
    token: str | None = None
    local: bool = True
    origins: Sequence[str] = ()


class _App(FastAPI):
    """FastAPI, whose document also tells how to send the token."""

    security: Mapping[str, Any] = MappingProxyType({})

    def openapi(self) -> dict[str, Any]:
        return {**super().openapi(), **self.security}


def create_app(settings: Settings) -> FastAPI:
    """The server as an ASGI application; its workers start and end with its lifespan."""
    metrics = Metrics()
    pool = Pool(
        [replace(settings.workplace, device=device) for device in settings.devices],
        waiting=settings.limits.waiting,
        seconds=settings.limits.seconds,
        metrics=metrics,
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            await pool.start()
            yield
        finally:
            await pool.close()

    app = _App(
        title="decoupe",
        version=decoupe.__version__,
        description="Cut the subject out of any picture, down to the hair.",
        lifespan=lifespan,
        # Their pages load scripts from elsewhere; the document itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
        # Its redirects leave out a proxy's TLS and its path; a wrong path is told as one.
        redirect_slashes=False,
    )
    app.security = documents.security(settings.token is not None)
    metrics.waiting.set_function(lambda: pool.waiting)
    _add_errors(app)
    _add_routes(app, pool, settings.limits, settings.workplace, metrics)
    for suffix, kind in _TYPES.items():
        mimetypes.add_type(kind, suffix)
    app.mount("/static", StaticFiles(directory=STATIC))
    app.add_middleware(
        Guard,
        limits=settings.limits,
        token=settings.token,
        local=settings.local,
        origins=settings.origins,
        metrics=metrics,
    )
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-Api-Key", "Content-Type"],
            expose_headers=["*"],  # what remove.bg's clients read of an answer is told in several
        )
    return app


def _add_errors(app: FastAPI) -> None:
    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)  # it is registered for nothing else
        return error.response(request.url.path)

    async def explain(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # it is registered for nothing else
        headers = dict(error.headers or {})
        if error.status_code == 405 and headers.get("Allow", "GET") == "GET":
            headers["Allow"] = "GET, HEAD"  # files do not say it, and other routes say the first alone
        lines = {
            404: "there is nothing here: see /openapi.json",
            405: f"{request.method} does nothing here: use {headers.get('Allow')}",
        }
        line = lines.get(error.status_code, error.detail)
        return ProblemError(error.status_code, line, headers=headers).response(request.url.path)

    app.add_exception_handler(ProblemError, refuse)
    app.add_exception_handler(HTTPException, explain)


def _add_routes(app: FastAPI, pool: Pool, limits: Limits, place: Workplace, metrics: Metrics) -> None:
    def known() -> Known:
        tasks = ("matte", "segment")
        return {task: [one["name"] for one in pool.models if one["task"] == task] for task in tasks}

    def route(path: str, make: Callable[[Request], Coroutine[Any, Any, Job]], about: dict[str, Any]) -> None:
        async def answer(request: Request) -> Response:
            return await _answered(request, pool, await make(request))

        app.post(path, **about)(answer)

    async def cut(request: Request) -> Job:
        return cut_job(await read_form(request, limits, raw="image"), known())

    async def segment(request: Request) -> Job:
        return segment_job(await read_form(request, limits, raw="image"), known())

    async def remove_bg(request: Request) -> Job:
        form = await read_form(request, limits, long="image_file_b64")
        accept = ",".join(request.headers.getlist("accept"))
        return remove_bg_job(form, known(), as_json=prefers_json(accept))

    async def rembg(request: Request) -> Job:
        return rembg_job(await read_form(request, limits), known())

    def show(path: str, **about: Any) -> Callable[[Callable[[], Coroutine[Any, Any, Response]]], None]:
        def add(answer: Callable[[], Coroutine[Any, Any, Response]]) -> None:
            app.get(path, **about)(answer)
            # Load balancers and monitors ask for the head alone; the document would tell each route twice.
            app.head(path, include_in_schema=False)(answer)

        return add

    route("/v1/cut", cut, documents.CUT)
    route("/v1/segment", segment, documents.SEGMENT)
    route("/v1.0/removebg", remove_bg, documents.REMOVE_BG)
    route("/api/remove", rembg, documents.REMBG)

    @show("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(STATIC / "index.html")

    @show("/v1/models", **documents.MODELS)
    async def models() -> Response:
        return JSONResponse({"models": pool.models, "limits": documents.limits_told(limits, place)})

    @show("/healthz", **documents.HEALTH)
    async def healthz() -> Response:
        return JSONResponse({"status": "alive"})

    @show("/readyz", **documents.READY)
    async def readyz() -> Response:
        if not pool.ready:
            raise ProblemError(503, "no worker is ready: try again in a moment", retry_after=2)
        return JSONResponse({"status": "ready"})

    @show("/metrics", **documents.METRICS)
    async def measures() -> Response:
        return Response(metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _answered(request: Request, pool: Pool, job: Job) -> Response:
    """The answer to a job, unless the client leaves first."""
    work = asyncio.ensure_future(pool.do(job))
    left = asyncio.ensure_future(_departure(request))
    try:
        await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            await asyncio.wait((work,))  # the request's bytes are counted until no worker has them
            return Response(status_code=499)  # for the log: nobody reads it
        answer = work.result()
        return Response(answer.body, media_type=answer.media_type, headers=dict(answer.headers))
    finally:
        for task in (work, left):
            task.cancel()


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
