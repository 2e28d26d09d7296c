from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from decoupe.commands import doctor
from decoupe.errors import DownloadError
from decoupe.weights.download import cache_dir, cached_path, fetch
from decoupe.weights.registry import CATALOGUE, ModelSpec, Preprocessing
from weights.fake_hub import FakeHub

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes
SPEC = ModelSpec(
    name="tiny",
    family="birefnet",
    task="a test",
    licence="MIT",
    commercial=True,
    preprocessing=Preprocessing(size=(64, 64)),
    megabytes=0.3,
    repo="someone/tiny",
    file="model.safetensors",
)
KEY = "someone/tiny/model.safetensors"


def one_line(error: pytest.ExceptionInfo[DownloadError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_fetch_downloads_once_and_verifies(hub: FakeHub) -> None:
    hub.files[KEY] = CONTENT
    pinned = dataclasses.replace(SPEC, sha256=hashlib.sha256(CONTENT).hexdigest())

    assert cached_path(pinned) is None
    path = fetch(pinned)

    assert path.read_bytes() == CONTENT
    assert cached_path(pinned) == path
    asked = len(hub.requests)
    assert fetch(pinned) == path
    assert len(hub.requests) == asked  # the second time nothing is asked


def test_a_file_that_may_be_absent_is_asked_for_once(hub: FakeHub) -> None:
    hub.files[KEY] = CONTENT
    own = dataclasses.replace(SPEC, family="", beside=("config.json",))
    fetch(own)
    asked = len(hub.requests)
    fetch(own)
    assert len(hub.requests) == asked
    with pytest.raises(DownloadError, match=r"has no file 'config\.json'"):  # outside the catalogue alone
        fetch(dataclasses.replace(own, family="birefnet"))


def test_a_hub_that_falters_says_nothing_of_a_file_that_may_be_absent(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the model would be used with another input size once, and rightly the next time."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.files[KEY] = CONTENT
    fetch(SPEC)
    own = dataclasses.replace(SPEC, family="", beside=("preprocessor_config.json",))
    hub.refusals["someone/tiny"] = (503, "")
    with pytest.raises(DownloadError, match=r"answered 503 for tiny: try again later"):
        fetch(own)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.warns(UserWarning, match=r"preprocessor_config\.json of someone/tiny is not in the cache"):
        fetch(own)


def test_progress_is_drawn_on_request_only(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TQDM_POSITION", "-1")  # draw where there is no terminal, too
    hub.files[KEY] = hub.files["someone/other/model.safetensors"] = CONTENT
    fetch(SPEC, progress=False)
    assert capsys.readouterr().err == ""
    fetch(dataclasses.replace(SPEC, repo="someone/other"))
    output = capsys.readouterr()
    assert "model.safetensors" in output.err
    assert output.out == ""


def test_a_cache_that_is_a_file(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for cache in ("file", "file/deeper"):
        monkeypatch.setenv("DECOUPE_CACHE", str(tmp_path / cache))
        with pytest.raises(DownloadError, match="file is a file, expected the cache's folder") as error:
            fetch(SPEC, progress=False)
        one_line(error)
    assert hub.requests == []


def test_a_cache_on_a_drive_that_is_not_there(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows has it where a disk was pulled out: not even the root exists."""
    monkeypatch.setattr(Path, "exists", lambda path: False)
    monkeypatch.setattr(Path, "is_dir", lambda path: False)
    with pytest.raises(DownloadError, match="is on a disk that is not there: set") as error:
        fetch(SPEC, progress=False)
    one_line(error)
    assert hub.requests == []
    check = doctor._cache()
    assert not check.ok
    assert check.finding == f"{cache_dir()} is on a disk that is not there: set DECOUPE_CACHE"


def test_a_dropped_connection_resumes_where_it_broke(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)
    hub.files[KEY] = CONTENT
    hub.drop_after = [100_000, 50_000]

    for _ in range(2):  # before its release 1.0 the hub's library resumes when it is called again
        with contextlib.suppress(DownloadError):
            fetch(SPEC, progress=False)
    assert fetch(SPEC, progress=False).read_bytes() == CONTENT
    assert hub.gets() == [None, "bytes=98304-", "bytes=147456-"]  # whole chunks are kept


def test_a_connection_that_never_holds_is_one_line(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.files[KEY] = CONTENT
    hub.drop_after = [0] * 50

    with pytest.raises(DownloadError, match=r"download of tiny .* broke off .*run it again") as error:
        fetch(SPEC, progress=False)
    one_line(error)
    assert cached_path(SPEC) is None


@pytest.mark.parametrize("where", ["announced", "pinned"])
@pytest.mark.parametrize("relative", [False, True], ids=["", "relative"])
def test_a_wrong_hash_is_refused_and_deleted(
    hub: FakeHub, where: str, relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if relative:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("DECOUPE_CACHE", "cache")
    hub.files[KEY] = CONTENT
    spec = SPEC
    if where == "announced":
        hub.announced[KEY] = "ab" * 32
    else:
        spec = dataclasses.replace(SPEC, sha256="ab" * 32)

    with pytest.raises(DownloadError, match=r"sha256 is .*expected abab.*decoupe get tiny") as error:
        fetch(spec, progress=False)
    one_line(error)
    assert cached_path(spec) is None
    assert not [
        path
        for path in cache_dir().rglob("*")
        if path.is_symlink() or (path.is_file() and path.stat().st_size == len(CONTENT))
    ]

    hub.announced.clear()
    hub.requests.clear()
    assert fetch(SPEC, progress=False).read_bytes() == CONTENT  # nothing of the bad file is in the way


def test_a_verified_file_is_not_hashed_again_until_it_changes(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files[KEY] = CONTENT
    path = fetch(SPEC, progress=False)

    with monkeypatch.context() as patch:
        patch.delattr("decoupe.weights.download.sha256_of")
        assert fetch(SPEC, progress=False) == path

    with path.open("r+b") as file:
        file.write(b"damage")
    with pytest.raises(DownloadError, match="damaged and were deleted"):
        fetch(SPEC, progress=False)
    assert fetch(SPEC, progress=False).read_bytes() == CONTENT


def test_a_file_that_somebody_linked_into_the_cache_is_never_deleted(hub: FakeHub, tmp_path: Path) -> None:
    hub.files[KEY] = CONTENT
    path = fetch(SPEC, progress=False)
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"fine-tuned")
    path.unlink()
    path.symlink_to(mine)
    with pytest.raises(DownloadError, match=r"damaged and .*mine\.safetensors is linked no more") as error:
        fetch(dataclasses.replace(SPEC, sha256="ab" * 32), progress=False)
    one_line(error)
    assert mine.read_bytes() == b"fine-tuned"
    assert not path.is_symlink()
    assert fetch(SPEC, progress=False).read_bytes() == CONTENT


def test_a_blob_that_is_shared_between_repositories(hub: FakeHub) -> None:
    """As the hub's library keeps them since its release 2: named by another hash, behind a second link."""
    hub.files[KEY] = CONTENT
    path = fetch(SPEC, progress=False)
    blob = path.resolve()
    shared = cache_dir() / "blobs" / "cd" / ("cd" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(shared)
    blob.with_name(f"{blob.name}.verified").unlink()
    assert fetch(SPEC, progress=False) == path
    shared.write_bytes(CONTENT[::-1])
    with pytest.raises(DownloadError, match="damaged and were deleted"):
        fetch(SPEC, progress=False)
    assert not any(file.exists() or file.is_symlink() for file in (path, blob, shared))


def test_a_cache_without_links_asks_the_hub_for_the_hash(hub: FakeHub) -> None:
    hub.files[KEY] = CONTENT
    path = fetch(SPEC, progress=False)
    blob = path.resolve()
    path.unlink()
    blob.rename(path)  # as on a file system that has no symbolic links

    assert fetch(SPEC, progress=False) == path
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(DownloadError, match="damaged and were deleted"):
        fetch(SPEC, progress=False)


def test_a_copied_cache_without_links_works_offline(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.files[KEY] = CONTENT
    fetch(SPEC, progress=False)
    copied = tmp_path / "copied"
    shutil.copytree(cache_dir(), copied, symlinks=False)
    monkeypatch.setenv("DECOUPE_CACHE", str(copied))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()

    path = fetch(SPEC, progress=False)
    assert path.is_relative_to(copied)
    with monkeypatch.context() as patch:  # verified from now on, with the blobs or without
        patch.delattr("decoupe.weights.download.sha256_of")
        assert fetch(SPEC, progress=False) == path
    shutil.rmtree(path.parents[2] / "blobs")
    os.utime(path)
    assert fetch(SPEC, progress=False) == path

    path.with_name(f"{path.name}.verified").unlink()
    with pytest.raises(DownloadError, match="cannot be verified: no blob of the cache") as error:
        fetch(SPEC, progress=False)
    one_line(error)
    assert path.exists()
    assert hub.requests == []


def test_offline_uses_the_cache_and_says_what_is_missing(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files[KEY] = CONTENT
    path = fetch(SPEC, progress=False)
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    assert fetch(SPEC, progress=False) == path
    with pytest.raises(DownloadError, match=r"HF_HUB_OFFLINE is set: unset it, or run `decoupe get") as error:
        fetch(dataclasses.replace(SPEC, name="absent", repo="someone/absent"), progress=False)
    one_line(error)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "GatedRepo", r"someone/tiny is gated: accept its licence at http.*/someone/tiny, .*HF_TOKEN"),
        (401, "RepoNotFound", r"no repository 'someone/tiny'.*check the name"),
        (404, "RepoNotFound", r"no repository 'someone/tiny'.*check the name"),
        (404, "RevisionNotFound", r"someone/tiny has no revision 'main'"),
        (404, "EntryNotFound", r"someone/tiny has no file 'model.safetensors'"),
        (503, "", r"answered 503 for tiny: try again later"),
        (429, "", r"answered 429 for tiny: try again later"),
        (403, "", r"answered 403 for tiny: set HF_TOKEN, or run `hf auth login`"),
        (404, "", r"answered 404 for tiny: check the name, and HF_ENDPOINT"),
    ],
)
def test_every_refusal_is_one_line(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, status: int, code: str, message: str
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    hub.refusals["someone/tiny"] = (status, code)
    with pytest.raises(DownloadError, match=message) as error:
        fetch(SPEC, progress=False)
    one_line(error)


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_is_told(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    hub.refusals["someone/tiny"] = (status, "")
    hub.explanation = "Invalid credentials in Authorization header"
    with pytest.raises(
        DownloadError, match="your HF_TOKEN, or the login that hf stored, is refused"
    ) as error:
        fetch(SPEC, progress=False)
    assert "later" not in one_line(error)


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            ImportError("no socksio"),
            r"^ALL_PROXY names a SOCKS proxy, which needs .*pip install 'httpx\[socks\]'",
        ),
        (
            ValueError("Unknown scheme"),
            r"^ALL_PROXY names a proxy that cannot be used \(Unknown scheme\): exp",
        ),
    ],
)
def test_a_proxy_that_cannot_be_used_is_one_line(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, raised: Exception, message: str
) -> None:
    def get_session() -> None:
        raise raised

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.get_session", get_session)
    with pytest.raises(DownloadError, match=message) as error:
        fetch(SPEC, progress=False)
    one_line(error)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ALL_PROXY", "socks://127.0.0.1:9", "ALL_PROXY names a proxy that cannot be used (Unknown scheme"),
        ("HF_ENDPOINT", "http://[bad", "HF_ENDPOINT is 'http://[bad', expected an address such as https://"),
    ],
)
def test_a_bad_environment_is_one_line_of_the_command(
    tmp_path: Path, name: str, value: str, message: str
) -> None:
    """In a process of its own: the hub's library looks at the environment when it is imported."""
    proxies = ("all_proxy", "http_proxy", "https_proxy")
    clean = {key: word for key, word in os.environ.items() if key.lower() not in proxies}
    environment = {**clean, "DECOUPE_CACHE": str(tmp_path), name: value}
    command = [sys.executable, "-m", "decoupe", "get", "someone/tiny"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr.startswith(f"decoupe: {message}")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("address", ["http://a:notaport", "ftp://a", "hub.example", "http://", "http://a..b"])
def test_an_endpoint_that_is_no_address_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("DECOUPE_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match=r"HF_ENDPOINT is .*expected an address .*correct it") as error:
        fetch(SPEC, progress=False)
    one_line(error)


def test_nobody_listening_is_one_line(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    logged: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", logged.append)
    logging.getLogger("huggingface_hub").addHandler(handler)
    with pytest.raises(DownloadError, match=r"cannot reach http://127.0.0.1:9 for tiny \(.*: check") as error:
        fetch(SPEC, progress=False)
    assert slept == []  # told at once, not after half a minute of trying
    logging.getLogger("huggingface_hub").removeHandler(handler)
    one_line(error)
    assert logged == []


def test_a_download_larger_than_the_free_disk_is_not_begun(hub: FakeHub) -> None:
    hub.files[KEY] = CONTENT
    with pytest.raises(DownloadError, match=r"no room for tiny .*set DECOUPE_CACHE") as error:
        fetch(dataclasses.replace(SPEC, megabytes=1e12), progress=False)
    one_line(error)
    assert hub.requests == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 kB, smaller than the file and larger than nothing."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_is_one_line(
    hub: FakeHub, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files[KEY] = CONTENT
    monkeypatch.setenv("DECOUPE_CACHE", str(small_disk))
    with pytest.raises(DownloadError, match=r"no room for tiny .*set DECOUPE_CACHE") as error:
        fetch(dataclasses.replace(SPEC, megabytes=0.1), progress=False)
    one_line(error)
    assert cached_path(SPEC) is None


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "no room for tiny"), (errno.EACCES, r"cannot write to the cache .*set DECOUPE_CACHE")],
)
def test_a_failing_write_is_one_line(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    def write(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    hub.files[KEY] = CONTENT
    monkeypatch.setattr("huggingface_hub.file_download.http_get", write)
    with pytest.raises(DownloadError, match=message) as error:
        fetch(SPEC, progress=False)
    one_line(error)


def test_the_cache_folder_is_the_hubs_unless_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    monkeypatch.delenv("DECOUPE_CACHE", raising=False)
    assert cache_dir() == Path(HF_HUB_CACHE)
    monkeypatch.setenv("DECOUPE_CACHE", "~/weights")
    assert cache_dir() == Path.home() / "weights"


def test_the_embedded_model_needs_no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    pocket = CATALOGUE["pocket"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    missing = dataclasses.replace(pocket, file="absent.onnx")
    assert cached_path(missing) is None
    with pytest.raises(DownloadError, match="reinstall decoupe"):
        fetch(missing)
    present = dataclasses.replace(pocket, file="registry.py")
    assert fetch(present) == cached_path(present)
