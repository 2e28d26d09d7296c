"""``decoupe serve`` and ``decoupe ui``: pictures cut over HTTP, and the page in a browser."""

from __future__ import annotations

import importlib.util
import math
import re
import socket as sockets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from decoupe.commands.console import hush_downloads, imported, say, told
from decoupe.commands.options import MaxPixels, Precision, known_models
from decoupe.cores import cores
from decoupe.errors import DeviceError, InputError, OutputError, unknown
from decoupe.runtimes import DTYPES, find_spec
from decoupe.server.loopback import is_loopback
from decoupe.weights import download
from decoupe.weights.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    from decoupe.server.app import Settings

Host = Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="0 takes a free one.")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "-m",
        "--model",
        metavar="MODEL",
        help="Model that clients may use; may be repeated, the first is the default.",
        autocompletion=known_models,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN", envvar="DECOUPE_TOKEN", help="What clients must send; safer in the environment."
    ),
]
NoAuth = Annotated[bool, typer.Option("--no-auth", help="Let in everybody who can reach the address.")]
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, …; repeated, a worker on each."),
]
Batch = Annotated[int, typer.Option(min=1, metavar="N", help="Most pictures that a model sees at once.")]
Waiting = Annotated[int, typer.Option("--queue", min=1, metavar="N", help="Most pictures that wait.")]
Seconds = Annotated[float, typer.Option("--timeout", min=1, metavar="S", help="Most seconds for a picture.")]
MaxMegabytes = Annotated[float, typer.Option(min=0.1, metavar="N", help="Largest request.")]
MaxFrames = Annotated[int, typer.Option(min=1, metavar="N", help="Most frames of an animation.")]
Memory = Annotated[
    int, typer.Option(min=0, metavar="MB", help="Memory of a worker on a CPU beyond its models; 0: no limit.")
]
Origins = Annotated[
    list[str] | None,
    typer.Option("--cors", metavar="ORIGIN", help="Site whose pages may ask too, as https://example.org."),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Log no requests.")]


def serve(
    host: Host = "127.0.0.1",
    port: Port = 7000,
    model: Models = None,
    token: Token = None,
    no_auth: NoAuth = False,
    device: Devices = None,
    precision: Precision = "auto",
    batch: Batch = 4,
    waiting: Waiting = 64,
    seconds: Seconds = 60,
    max_megabytes: MaxMegabytes = 25,
    max_pixels: MaxPixels = 50_000_000,
    max_frames: MaxFrames = 100,
    memory: Memory = 4096,
    cors: Origins = None,
    quiet: Quiet = False,
) -> None:
    """Cut pictures over HTTP, and show the page. Requests are logged as JSON on standard error."""
    with told():
        server = _imported()
        if token is not None and no_auth:
            raise InputError("--token and --no-auth exclude each other: give one of them")
        if token is not None and (len(token) < 16 or not token.isascii() or not token.isprintable()):
            raise InputError("--token is too easy to guess: give at least 16 printable characters")
        if not is_loopback(host) and token is None and not no_auth:
            raise InputError(
                f"{host} can be reached from elsewhere: set DECOUPE_TOKEN, or give --no-auth to let all in"
            )
        for option, number in {"--timeout": seconds, "--max-megabytes": max_megabytes}.items():
            if not math.isfinite(number):
                raise InputError(f"{option} is {number}, expected a number: such as 60")
        if precision not in ("auto", *DTYPES):
            raise InputError(unknown("dtype", precision, ("auto", *DTYPES)))
        models = named(model or [DEFAULT_MODEL])
        place = server.Workplace(
            models=models,
            dtype=precision,
            batch=batch,
            threads=max(2, cores()),
            max_pixels=max_pixels,
            max_frames=max_frames,
            memory=memory,
        )
        settings = server.Settings(
            devices=device or ["auto"],
            limits=server.Limits(megabytes=max_megabytes, seconds=seconds, waiting=waiting),
            workplace=place,
            token=token,
            local=token is None and not no_auth,
            origins=[origin(one) for one in cors or ()],
        )
        hush_downloads(quiet)
        run(settings, host, port, log=not quiet)


def ui(model: Models = None, port: Port = 0) -> None:
    """Open the page in the browser. It works on this machine alone, until Ctrl-C."""
    with told():
        server = _imported()
        place = server.Workplace(models=named(model or [DEFAULT_MODEL]))
        run(server.Settings(workplace=place), "127.0.0.1", port, log=False, browser=True)


def run(settings: Settings, host: str, port: int, *, log: bool, browser: bool = False) -> None:
    """Serve until SIGTERM or Ctrl-C; what has been accepted is finished first.

    Raises:
        OutputError: the address cannot be listened on.
        DownloadError: a model cannot be downloaded.
        ModelError: a model cannot be opened.
        DeviceError: a device that is not there.
    """
    import logging

    logging.getLogger("decoupe.server").setLevel(logging.INFO if log else logging.WARNING)
    with listening(host, port) as socket:
        _fetch(settings)
        _imported().serve(settings, socket, lambda address: _tell(address, browser))


def listening(host: str, port: int) -> sockets.socket:
    """A socket that listens on an address.

    Raises:
        OutputError: it cannot.
    """
    try:
        family, *_, address = sockets.getaddrinfo(host, port, type=sockets.SOCK_STREAM)[0]
        socket = sockets.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        # What create_server says repeats the address; the C library of Windows has no words for it.
        reason = (error.strerror or str(error)).partition(" (while attempting")[0]
        raise OutputError(
            f"cannot listen on {host}:{port} ({reason}): name another --host or --port"
        ) from None
    # Connections inherit it. Without, an answer's body waits 40 ms until its head is acknowledged.
    socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
    return socket


def origin(text: str) -> str:
    """An origin as browsers send it: in lower case, without a trailing slash or the scheme's default port.

    Raises:
        InputError: it is none.
    """
    found = text.removesuffix("/").lower()
    try:
        url = urlsplit(found)
        usable = bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:  # a port, or an IPv6 address, that is none
        usable = False
    if not (
        usable and re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@\\,*]+", found) and not found.endswith(":")
    ):
        raise InputError(
            f"--cors {text} is not an origin, scheme://host[:port]: give it as https://shop.example"
        )
    own = {"http": ":80", "https": ":443"}.get(url.scheme)
    return found.removesuffix(own) if own else found


def named(models: list[str]) -> dict[str, str]:
    """The models to open, by the names that clients use; a file's is its stem.

    Raises:
        UnknownModelError: no such name.
        InputError: two of one name.
    """
    found: dict[str, str] = {}
    for model in models:
        find_spec(model)  # an unknown name is told before anything else
        name = Path(model).stem if Path(model).is_file() else model
        if name in found:
            raise InputError(f"two models are called {name}: give one of them, or rename a file")
        found[name] = model
    return found


def _fetch(settings: Settings) -> None:
    """Download what is not here yet: workers have ten minutes to be ready, and would do it out of sight."""
    for model in settings.workplace.models.values():
        spec = find_spec(model)
        if spec is None or download.cached_path(spec) is not None:
            continue
        if spec.file.endswith(".onnx"):
            download.fetch(spec)
        # What PyTorch would compute is of no use without it: the worker says so.
        elif importlib.util.find_spec("torch"):
            for device in settings.devices:
                _check_device(device)
            download.fetch(spec)


def _check_device(device: str) -> None:
    """Raise DeviceError for a device that is not there. It is not used: that would take its memory here."""
    import torch

    if device == "auto":
        return
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if chosen is None or (chosen.type in there and (chosen.index or 0) >= there[chosen.type]):
        raise DeviceError(f"device {device!r} cannot be used here (no such device): use 'cpu', or 'auto'")


def _imported() -> Any:
    return imported("decoupe.server.running", "decoupe serve", "server")


def _tell(address: str, browser: bool) -> None:
    say(f"listening on {address}")
    if browser:
        typer.launch(address)
