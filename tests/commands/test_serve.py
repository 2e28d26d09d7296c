"""``decoupe serve`` and ``decoupe ui`` before they serve: what they refuse, and what they open."""

from __future__ import annotations

import ast
import json
import re
import socket
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from decoupe.cli import app
from decoupe.commands import serve as serve_command
from decoupe.commands.serve import listening, named, origin
from decoupe.errors import DeviceError, InputError, OutputError
from decoupe.runtimes import open_runtime
from decoupe.server.loopback import is_loopback
from decoupe.weights import download
from inference.tiny import write_onnx

TOKEN = "correct-horse-battery"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 can be reached from elsewhere: set DECOUPE_TOKEN, or give"),
        (["--host", "example.org"], "example.org can be reached from elsewhere"),
        (["--token", "short"], "--token is too easy to guess: give at least 16 printable characters"),
        (["--token", TOKEN, "--no-auth"], "--token and --no-auth exclude each other"),
        (
            ["--cors", "shop.example"],
            "--cors shop.example is not an origin, scheme://host[:port]: give it",
        ),
        (["--timeout", "inf"], "--timeout is inf, expected a number: such as 60"),
        (["--max-megabytes", "inf"], "--max-megabytes is inf, expected a number"),
        (["-m", "birefnet", "--precision", "float61"], "unknown dtype 'float61'; did you mean 'float16'?"),
        (["-m", "birefnt"], "unknown model 'birefnt'; did you mean 'birefnet'?"),
        (["-m", "pocket", "-m", "pocket"], "two models are called pocket"),
    ],
)
def test_wrong_usage_is_one_line(options: list[str], line: str) -> None:
    refused = CliRunner().invoke(app, ["serve", *options])
    assert refused.exit_code == 2
    assert line in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_an_origin_is_what_a_browser_sends() -> None:
    assert origin("https://Shop.example:443/") == "https://shop.example"
    for kept in ("http://localhost:3000", "https://[::1]:8443", "https://a:80", "tauri://localhost"):
        assert origin(kept) == kept
    for wrong in ("https://shop.example/cart", "https://a:99999", "https://a@b", "https://", "*", "null", ""):
        with pytest.raises(InputError, match="is not an origin"):
            origin(wrong)


def test_an_address_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = CliRunner().invoke(app, ["serve", "--port", str(port)])
    assert refused.exit_code == 2
    line = f"cannot listen on 127.0.0.1:{port} (Address already in use): name another --host or --port"
    assert refused.stderr == f"decoupe: {line}\n"


def test_an_address_that_is_taken_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose C library has no words for the errors of sockets."""
    said = "Only one usage of each socket address is normally permitted"

    def taken(address: tuple[str, int], **_: Any) -> None:
        raise OSError(10048, f"{said} (while attempting to bind on address {address!r})")

    monkeypatch.setattr(socket, "create_server", taken)
    with pytest.raises(OutputError, match=rf"cannot listen on 127.0.0.1:7000 \({said}\): name another"):
        listening("127.0.0.1", 7000)


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with listening("127.0.0.1", 0) as one, socket.create_connection(one.getsockname()):
        accepted, _ = one.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_models_are_downloaded_before_workers_start(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Stub:
        from decoupe.server.running import Limits, Settings, Workplace

        @staticmethod
        def serve(settings: Any, listening: socket.socket, told: Any) -> None:
            order.append("serve")

    monkeypatch.setattr(serve_command, "_imported", lambda: Stub)
    monkeypatch.setattr(download, "cached_path", lambda spec: None if spec.name == "birefnet" else Path())
    monkeypatch.setattr(download, "fetch", lambda spec: order.append(spec.name))
    served = CliRunner().invoke(app, ["serve", "--port", "0", "-m", "pocket", "-m", "birefnet"])
    assert served.exit_code == 0, served.stderr
    assert order == ["birefnet", "serve"]


@pytest.mark.parametrize("device", ["cude", "cuda:9"])
def test_a_device_that_is_not_there_is_told_before_a_download(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "cached_path", lambda spec: None)
    monkeypatch.setattr(download, "fetch", lambda spec: pytest.fail("it was downloaded"))
    options = ["--port", "0", "-m", "birefnet", "--device", "cpu", "--device", device]
    refused = CliRunner().invoke(app, ["serve", *options])
    assert refused.exit_code == 2
    line = f"device '{device}' cannot be used here (no such device): use 'cpu', or 'auto'"
    assert refused.stderr == f"decoupe: {line}\n"


def test_a_precision_that_the_model_lacks_names_the_option() -> None:
    with pytest.raises(DeviceError, match="float32: leave dtype or --precision out"):
        open_runtime(None, dtype="float16")


def test_a_missing_extra_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in [name for name in sys.modules if name.startswith("decoupe.server")]:
        monkeypatch.delitem(sys.modules, name)
    refused = CliRunner().invoke(app, ["serve"])
    assert refused.exit_code == 2
    assert "decoupe serve needs the extra 'server': pip install 'decoupe[server]'" in refused.stderr


def test_addresses_of_this_machine() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.3.0.1", "::1", "localhost", "LOCALHOST")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example.org")))


def test_files_are_called_by_their_stems_and_nothing_else_is(tmp_path: Path) -> None:
    mugs = write_onnx(tmp_path / "mugs.onnx")
    expected = {name: name for name in ("pocket", "rmbg-2.0", "me/mugs-v1.5")}
    assert named([*expected, str(mugs)]) == {**expected, "mugs": str(mugs)}


def test_a_model_that_cannot_be_opened_ends_the_command(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    refused = CliRunner().invoke(app, ["serve", "--port", "0", "-m", str(broken)])
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
    assert "is not a usable ONNX model" in refused.stderr


def test_ui_serves_this_machine_and_opens_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    monkeypatch.setattr(serve_command.typer, "launch", launched.append)

    class Stub:
        from decoupe.server.running import Limits, Settings, Workplace

        @staticmethod
        def serve(settings: Any, listening: socket.socket, told: Any) -> None:
            assert settings.local
            assert listening.getsockname()[0] == "127.0.0.1"
            listening.close()
            told("http://127.0.0.1:7000")

    monkeypatch.setattr(serve_command, "_imported", lambda: Stub)
    assert CliRunner().invoke(app, ["ui"]).exit_code == 0
    assert launched == ["http://127.0.0.1:7000"]


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("file", ["Dockerfile", "compose.yaml", "deploy/decoupe.service"])
def test_options_in_deployment_files_exist(file: str) -> None:
    shown = CliRunner().invoke(app, ["serve", "--help"]).output
    text = re.sub(r"(?m)^ *#.*|(apt-get|venv|pip|HEALTHCHECK).*", "", (ROOT / file).read_text())
    for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", text):
        assert option in shown, option


def told_by_the_project(key: str) -> list[str]:
    """A list of strings of pyproject.toml."""
    found = re.search(rf"^{key} = (\[[^]]*\])", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    return json.loads(re.sub(r",\s*\]", "]", found[1]))


def test_the_container_carries_every_licence() -> None:
    copied = re.findall(r"^COPY (.*) /source/$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sent = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    for licence in told_by_the_project("license-files"):
        assert licence in copied[0].split()
        assert licence in sent


def test_a_source_distribution_holds_what_tests_read() -> None:
    include = [*told_by_the_project("include"), "pyproject.toml"]
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    named = {"compose.yaml", *re.findall(r'(?:ROOT|parents\[\d\]) / "([\w.-]+)', tests)}
    read = {name for name in named if (ROOT / name).exists()}
    assert "Dockerfile" in read
    for name in read:
        assert any(fnmatch(name, pattern) for pattern in include), name


def test_pages_link_to_nothing_outside_the_website() -> None:
    assert [page.name for page in (ROOT / "docs").glob("*.md") if "](../" in page.read_text()] == []


def test_no_client_writes_its_own_address_into_the_log() -> None:
    text = re.sub(r"(?m)#.*", "", (ROOT / "deploy" / "nginx.conf").read_text())
    locations = re.findall(r"location [^{]*\{([^}]*)\}", text)
    for location in locations:
        assert "proxy_set_header" not in location  # one there, and none of the server's holds
        text = text.replace(location, "")
    assert len(locations) == 3
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in text


def test_ray_serves_what_the_file_names() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "ray.yaml").read_text())
    (application,) = config["applications"]
    module, name = application["import_path"].split(":")
    tree = ast.parse((ROOT / "deploy" / f"{module}.py").read_text())
    assigned = {node.targets[0].id for node in tree.body if isinstance(node, ast.Assign)}
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert name in assigned
    assert {one["name"] for one in application["deployments"]} == classes
