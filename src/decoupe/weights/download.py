"""Weights from the hub: downloaded once, verified before they are handed out, kept in a cache.

`huggingface_hub` does the transfer: progress, retries that resume where the connection broke, mirrors
(``HF_ENDPOINT``), offline mode (``HF_HUB_OFFLINE``), access tokens (``HF_TOKEN``). This module adds the check
of the hash and errors of one line. ``DECOUPE_CACHE`` names another cache folder than the hub's own.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import urllib.parse
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decoupe.errors import DownloadError
from decoupe.notices import warn
from decoupe.weights.registry import ModelSpec

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

_SHA256 = re.compile(r"[0-9a-f]{64}")


def cache_dir() -> Path:
    """The folder of downloaded weights: ``DECOUPE_CACHE`` where set, else the hub's own cache.

    Raises:
        DownloadError: ``HF_ENDPOINT`` is no address.
    """
    _check_endpoint()
    chosen = os.environ.get("DECOUPE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def cached_path(spec: ModelSpec) -> Path | None:
    """Where the weights of ``spec`` are on this machine, or None; uses no network, verifies nothing."""
    if spec.repo is None:
        embedded = Path(__file__).with_name(spec.file)
        return embedded if embedded.is_file() else None
    if not cache_dir().is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(spec.repo, spec.file, cache_dir=cache_dir(), revision=spec.revision)
    return Path(found) if isinstance(found, str) else None


def fetch(spec: ModelSpec, *, progress: bool = True) -> Path:
    """The weights file of ``spec``, downloaded where it is not cached, and verified.

    Args:
        spec: row of the catalogue.
        progress: whether a progress bar is drawn on standard error.

    Raises:
        DownloadError: the download failed, was refused, did not fit the disk, or its sha256 is wrong; a file
            with a wrong hash is deleted first.
    """
    path = cached_path(spec)
    if spec.repo is None:
        if path is None:
            raise DownloadError(f"{spec.file} is missing from the package: reinstall decoupe")
        return path
    if path is None:
        path = _download(spec, spec.repo, progress)
    _verify(spec, spec.repo, path)
    for file in spec.beside:
        _fetch_beside(replace(spec, file=file, sha256=None, megabytes=0), spec.repo)
    return path


def _fetch_beside(spec: ModelSpec, repo: str) -> None:
    """A small file that belongs to the weights; outside the catalogue it may be absent."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if cached_path(spec) is not None or (not spec.family and _known_absent(spec, repo)):
        return
    try:
        _download(spec, repo, progress=False)
    except DownloadError as error:
        # A hub that does not answer says nothing of the file: without it the next run would differ from this.
        reached = not isinstance(error.__cause__, LocalEntryNotFoundError)
        absent = reached and isinstance(error.__cause__, EntryNotFoundError)
        if spec.family or not (absent or _offline()):
            raise
        if not absent:
            warn(
                f"{spec.file} of {repo} is not in the cache and HF_HUB_OFFLINE is set: "
                "what it says of the model is guessed",
                UserWarning,
            )


def _known_absent(spec: ModelSpec, repo: str) -> bool:
    """Whether the cache holds the hub's word that there is no such file; uses no network."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    found = try_to_load_from_cache(repo, spec.file, cache_dir=cache_dir(), revision=spec.revision)
    return found is _CACHED_NO_EXIST


def _download(spec: ModelSpec, repo: str, progress: bool) -> Path:
    """One file from the hub into the cache; every failure as one line."""
    from huggingface_hub import hf_hub_download

    _check_space(spec)
    snapshots = _repository(repo) / "snapshots"
    before = {folder.name for folder in snapshots.glob("*") if (folder / spec.file).exists()}
    try:
        with _progress_bar(progress), _quiet_log(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Not enough free disk space")  # _explain says it
            _check_reached(spec, repo)
            found = hf_hub_download(
                repo,
                spec.file,
                revision=spec.revision,
                cache_dir=cache_dir(),
                endpoint=_endpoint(),
                local_files_only=_offline(),
            )
    except _transport_errors() as error:
        raise DownloadError(_explain(error, spec, repo)) from error
    path = Path(found)
    revision = path.parents[spec.file.count("/")].name
    if revision not in before:
        marker = downloaded_marker(_repository(repo), revision, spec.file)
        with contextlib.suppress(OSError):  # `decoupe cache list` leaves it out, no more
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
    return path


def _repository(repo: str) -> Path:
    """The folder of a repository in the cache."""
    from huggingface_hub.file_download import repo_folder_name

    return cache_dir() / repo_folder_name(repo_id=repo, repo_type="model")


def downloaded_marker(repository: Path, revision: str, file: str = "") -> Path:
    """Where it is remembered that decoupe, not another program, downloaded a file of a revision.

    Args:
        repository: its folder in the cache.
        revision: the commit.
        file: its path in the repository; without it, the folder of the revision's marks.
    """
    return repository / ".decoupe" / revision / file


def _check_reached(spec: ModelSpec, repo: str) -> None:
    """Ask for the file once: `hf_hub_download` asks six times more, for half a minute, where nobody answers.

    Raises:
        DownloadError: the hub cannot be reached. What it answers is left to the download.
    """
    from huggingface_hub.errors import HfHubHTTPError

    if _offline():
        return
    try:
        _metadata(spec, repo)
    except HfHubHTTPError:
        return
    except _transport_errors() as error:
        raise DownloadError(_unreachable(spec, error)) from error


def _metadata(spec: ModelSpec, repo: str) -> HfFileMetadata:
    """What the hub says of a file; DownloadError where the environment keeps it from being asked."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo, spec.file, revision=spec.revision, endpoint=_endpoint())
    _check_proxies()
    return get_hf_file_metadata(url)


def _check_proxies() -> None:
    """Make the HTTP client, which raises errors of all kinds where a proxy's address is not to its liking."""
    from huggingface_hub import get_session

    try:
        get_session()
    except OSError:  # of the certificates
        raise
    except Exception as error:
        proxies = ("all_proxy", "http_proxy", "https_proxy")
        names = " or ".join(name for name in os.environ if name.lower() in proxies) or "the system"
        if isinstance(error, ImportError):
            raise DownloadError(
                f"{names} names a SOCKS proxy, which needs a library: pip install 'httpx[socks]'"
            ) from error
        raise DownloadError(
            f"{names} names a proxy that cannot be used ({_reason(error)}): "
            "expected http://HOST:PORT or socks5://HOST:PORT"
        ) from error


def _transport_errors() -> tuple[type[Exception], ...]:
    """What a transfer can raise.

    The base classes of HfHubHTTPError are those of the HTTP library beneath it (requests, httpx or httpx2, by
    release of the hub's), which also raises errors of its own while the body arrives; hf_xet raises
    RuntimeError.
    """
    from huggingface_hub.errors import HfHubHTTPError

    http = (base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
    return (OSError, RuntimeError, *http)


def _check_space(spec: ModelSpec) -> None:
    """Refuse a download that the cache cannot hold, before it begins."""
    folder = cache_dir()
    existing = standing(folder)
    if existing is None:
        raise DownloadError(f"{folder} is on a disk that is not there: set DECOUPE_CACHE")
    if not existing.is_dir():
        raise DownloadError(f"{existing} is a file, expected the cache's folder: set DECOUPE_CACHE")
    free = shutil.disk_usage(existing).free / 1e6
    if free < spec.megabytes and not _offline():
        raise DownloadError(_full_disk(spec))


def standing(folder: Path) -> Path | None:
    """A folder, or the nearest above it that exists; None on a drive of Windows that is not there."""
    return next((one for one in (folder, *folder.absolute().parents) if one.exists()), None)


def _full_disk(spec: ModelSpec) -> str:
    size = f"{spec.megabytes:.0f} MB" if spec.megabytes else "the file"
    return f"the disk of {cache_dir()} has no room for {spec.name} ({size}): free some, or set DECOUPE_CACHE"


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "true", "yes")


@contextlib.contextmanager
def _progress_bar(shown: bool) -> Iterator[None]:
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextlib.contextmanager
def _quiet_log() -> Iterator[None]:
    """Without what the hub's library logs of each of its retries: `_explain` says it in one line."""
    from huggingface_hub.utils.logging import get_verbosity, set_verbosity

    before = get_verbosity()
    set_verbosity(max(before, logging.ERROR))
    try:
        yield
    finally:
        set_verbosity(before)


def _explain(error: Exception, spec: ModelSpec, repo: str) -> str:
    """What went wrong, what was expected, what to do about it, in one line."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        if not isinstance(error.__cause__, errors.HfHubHTTPError):
            return _unreachable(spec, error.__cause__)
        error = error.__cause__  # the hub was reached, and refused
    url = f"{_endpoint()}/{repo}"
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated: accept its licence at {url}, then set HF_TOKEN or run `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"no repository {repo!r} at {_endpoint()}, or it is private: check the name, or set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {spec.revision!r}: see {url}"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{repo} has no file {spec.file!r} at revision {spec.revision!r}: see {url}"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        return f"{_endpoint()} answered {status} for {spec.name}: {_remedy(status)}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _full_disk(spec)
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"cannot write to the cache {cache_dir()} ({error.strerror}): set DECOUPE_CACHE to another"
    return f"the download of {spec.name} from {_endpoint()} broke off ({_reason(error)}): run it again"


def _remedy(status: int) -> str:
    """What to do about a refusal that the hub does not explain."""
    from huggingface_hub import get_token

    if status == 429 or status >= 500:
        return "try again later"
    if status not in (401, 403):
        return "check the name, and HF_ENDPOINT where it is set"
    if get_token() is None:
        return "set HF_TOKEN, or run `hf auth login`"
    return "your HF_TOKEN, or the login that hf stored, is refused: renew it, or unset it (`hf auth logout`)"


def _reason(error: BaseException) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__


def _unreachable(spec: ModelSpec, error: BaseException | None) -> str:
    if _offline():
        return (
            f"{spec.name} is not in the cache {cache_dir()} and HF_HUB_OFFLINE is set: "
            f"unset it, or run `decoupe get {spec.name}` where there is a network and copy the cache"
        )
    reason = f" ({_reason(error)})" if error is not None else ""
    return (
        f"cannot reach {_endpoint()} for {spec.name}{reason}: "
        "check the connection, or set HF_ENDPOINT to a mirror"
    )


def _endpoint() -> str:
    from huggingface_hub.constants import ENDPOINT

    return (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def _check_endpoint() -> None:
    """Raise DownloadError where ``HF_ENDPOINT`` is no address: then the hub's library cannot be imported."""
    address = os.environ.get("HF_ENDPOINT")
    if not address:
        return
    try:
        parts = urllib.parse.urlsplit(address)
        host, _ = (parts.hostname or "").encode("idna"), parts.port
    except ValueError:
        host = b""
    if not host or parts.scheme not in ("http", "https"):
        raise DownloadError(
            f"HF_ENDPOINT is {address!r}, expected an address such as https://huggingface.co: "
            "correct it, or unset it"
        )


def _verify(spec: ModelSpec, repo: str, path: Path) -> None:
    """Compare the file's sha256 with the expected one; delete the file and raise where they differ.

    A hash once right is remembered beside the file with its size and time of change, so that a file that
    nobody touched is not read twice. Where somebody set a link out of the cache, only the link is deleted.
    """
    blob, real = _blob_of(path), path.resolve()
    marker = marker_of(blob if _is_cached(blob) else path)
    remembered = _remembered(marker)
    expected = spec.sha256 or remembered.get("sha256") or _announced_sha256(spec, repo, path)
    status = real.stat()
    fingerprint = {"sha256": expected, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    if remembered == fingerprint:
        return
    actual = sha256_of(real)
    if actual != expected:
        for file in filter(_is_cached, (marker, path, blob, real)):
            file.unlink(missing_ok=True)
        gone = "were deleted" if _is_cached(real) else f"{real} is linked no more"
        raise DownloadError(
            f"the weights of {spec.name} are damaged and {gone}: their sha256 is {actual[:12]}…, "
            f"expected {expected[:12]}…; run `decoupe get {spec.name}` to download them again"
        )
    with contextlib.suppress(OSError):  # a cache that cannot be written to costs a hash per load, no more
        marker.write_text(json.dumps(fingerprint))


def _blob_of(path: Path) -> Path:
    """What a file of a snapshot links to, named by its hash: itself where the cache has no links.

    It may be a link itself, to what the hub's library shares between repositories.
    """
    if not path.is_symlink():
        return path
    target = path.parent / path.readlink()
    return target.parent.resolve() / target.name


def _is_cached(file: Path) -> bool:
    """Whether a file, or a link, lies in the cache."""
    return file.parent.resolve().is_relative_to(cache_dir().resolve())


def marker_of(blob: Path) -> Path:
    """Where it is remembered that a blob of the cache was verified."""
    return blob.with_name(f"{blob.name}.verified")


def _announced_sha256(spec: ModelSpec, repo: str, path: Path) -> str:
    """The hash that the hub announced: the blob's name, or asked for where the cache has no links."""
    blob = _blob_of(path)
    if _SHA256.fullmatch(blob.name):
        return blob.name
    if _offline():
        return _announced_before(repo, path)
    try:
        etag = _metadata(spec, repo).etag
    except _transport_errors() as error:
        raise DownloadError(_explain(error, spec, repo)) from error
    if etag is None or not _SHA256.fullmatch(etag):
        raise DownloadError(
            f"{_endpoint()} announces no sha256 for {repo}/{spec.file}: it cannot be verified"
        )
    return etag


def _announced_before(repo: str, file: Path) -> str:
    """The hash as a blob of the same content is named: a copied cache may have files in place of links."""
    actual = sha256_of(file)
    if (_repository(repo) / "blobs" / actual).is_file():
        return actual
    raise DownloadError(
        f"{file} cannot be verified: no blob of the cache has its content, and HF_HUB_OFFLINE is set: "
        f"unset it once, or copy the whole cache again"
    )


def _remembered(marker: Path) -> dict[str, Any]:
    try:
        found = json.loads(marker.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
