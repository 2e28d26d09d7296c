"""The server's own routes: the installed command, asked by a real client."""

from __future__ import annotations

import io
import json
import mimetypes
import socket
import struct
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from decoupe.cli import app
from decoupe.server.app import Settings, create_app
from decoupe.server.forms import Form
from decoupe.server.options import cut_job
from decoupe.server.problems import ProblemError
from server.running import Running, png, running, squares, until

SQUARES = squares()


def detail(answer: httpx.Response) -> str:
    """The one line of a problem."""
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert "\n" not in problem["detail"]
    assert "Traceback" not in problem["detail"]
    return str(problem["detail"])


def cut(client: httpx.Client, data: bytes = SQUARES, **options: object) -> httpx.Response:
    return client.post("/v1/cut", files={"image": ("photo.png", data)}, data=options)


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, []),
        ({"over": "white", "format": "jpg"}, ["--over", "white", "--format", "jpg"]),
        ({"matte": "true", "grow": "2"}, ["--matte", "--grow", "2"]),
        ({"threshold": "0.5", "keep_largest": "1"}, ["--threshold", "0.5", "--keep-largest"]),
        (
            {"crop": "true", "margin": "10%", "aspect": "1:1", "shadow": "0.4"},
            ["--crop", "--margin", "10%", "--aspect", "1:1", "--shadow", "0.4"],
        ),
        ({"box": "0,0,50,50", "shrink": "1"}, ["--box", "0,0,50,50", "--shrink", "1"]),
        ({"point": "62,12", "feather": "1.5"}, ["--point", "62,12", "--feather", "1.5"]),
        ({"over": "blur", "invert": "yes"}, ["--over", "blur", "--invert"]),
        ({"format": "webp", "quality": "70"}, ["--format", "webp", "--quality", "70"]),
        ({"side_by_side": "on"}, ["--side-by-side"]),
        (
            {"minmax": "true", "guided": "true", "keep_hidden": "true"},
            ["--minmax", "--guided", "--keep-hidden"],
        ),
    ],
)
def test_the_answer_is_the_file_that_the_command_writes(
    client: httpx.Client, tiny: Path, tmp_path: Path, options: dict[str, str], arguments: list[str]
) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    photo.write_bytes(SQUARES)
    suffix = f".{options.get('format', 'png')}"
    target = out.with_suffix(suffix)
    done = CliRunner().invoke(app, ["cut", str(photo), "-o", str(target), "-m", str(tiny), *arguments])
    assert done.exit_code == 0, done.stderr
    in_form = cut(client, **options)
    raw = client.post("/v1/cut", params=options, content=SQUARES, headers={"Content-Type": "image/png"})
    for answer in (in_form, raw):
        assert answer.status_code == 200, answer.text
        assert answer.content == target.read_bytes()
        assert (
            answer.headers["content-type"]
            == {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}[suffix]
        )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"format": "JPEG", "over": "red"}, {"format": "jpg", "over": "red"}),
        ({"format": ".TIF"}, {"format": "tiff"}),
        ({"box": "0, 0, 50, 50"}, {"box": "0,0,50,50"}),
        ({"point": "62, 12"}, {"point": "62,12"}),
        ({"size": "64X96"}, {"size": "64x96"}),
    ],
)
def test_options_may_be_written_as_for_the_command(
    client: httpx.Client, written: dict[str, str], meant: dict[str, str]
) -> None:
    answer = cut(client, **written)
    assert (answer.status_code, answer.content) == (200, cut(client, **meant).content)


def test_a_picture_as_background(client: httpx.Client) -> None:
    blue = png(Image.new("RGB", (10, 10), "blue"))
    files = {"image": SQUARES, "over": ("b.png", blue)}
    answer = client.post("/v1/cut", files=files, data={"threshold": "0.5"})
    pixels = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert pixels[60, 90].tolist() == [0, 0, 255]
    broken = client.post("/v1/cut", files={"image": SQUARES, "over": ("b.png", b"text")})
    assert detail(broken).startswith("over is not a picture")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"grwo": "2"}, "unknown option 'grwo'; did you mean 'grow'?"),
        ({"grow": "x"}, "grow is 'x': input should be a valid integer"),
        ({"grow": "1", "shrink": "1"}, "grow and shrink undo each other"),
        ({"grow": ["1", "2"]}, "grow is given 2 times: give it once"),
        ({"threshold": "7"}, "threshold is '7': input should be less than or equal to 1"),
        ({"matte": "1", "overlay": "1"}, "matte and overlay exclude each other"),
        ({"margin": "5%"}, "margin and aspect go with crop: add crop"),
        ({"format": "jpg"}, "JPEG has no transparency: choose another format, or add over, such as white"),
        ({"feather": "101"}, "feather is '101': input should be less than or equal to 100"),
        ({"shrink": "101"}, "shrink is '101': input should be less than or equal to 100"),
        ({"format": "bmp"}, "format is 'bmp': input should be 'png', 'webp'"),
        ({"quality": "80"}, "PNG is lossless"),
        ({"box": "1,2,3"}, "box is '1,2,3', expected X0,Y0,X1,Y1 in whole pixels: such as 40,60,320,400"),
        ({"point": "1"}, "point is '1', expected X,Y in whole pixels: such as 180,220"),
        ({"size": "native"}, "size is 'native', expected N or WxH: such as 512 or 640x480"),
        ({"box": "0,0,5000,5"}, "box"),
        ({"point": "90,60"}, "point"),
        ({"what": "dog"}, "what needs a segment model, and this server has none"),
        ({"model": "birefnet"}, "unknown model 'birefnet'; known: tiny"),
        ({"over": "#ff000080"}, "'#ff000080' is translucent, expected an opaque colour"),
        ({"over": "/etc/passwd"}, "over is '/etc/passwd', expected a colour"),
        ({"over": "../examples/coffee.jpg"}, "over is '../examples/coffee.jpg', expected a colour"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    client: httpx.Client, options: dict[str, str | list[str]], line: str
) -> None:
    answer = cut(client, **options)
    assert answer.status_code == 400
    assert line in detail(answer)


def test_a_picture_that_curl_calls_a_form_is_a_picture(client: httpx.Client) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/v1/cut", content=SQUARES, headers=form, params={"matte": "1"}).status_code == 200
    assert "there is no picture" in detail(client.post("/v1/cut", content=b"matte=1", headers=form))


def test_requests_without_a_picture(client: httpx.Client) -> None:
    assert "there is no picture" in detail(client.post("/v1/cut"))
    assert "unknown file 'photo'" in detail(client.post("/v1/cut", files={"photo": SQUARES}))
    broken = client.post("/v1/cut", content=b"--x", headers={"Content-Type": "multipart/form-data"})
    assert "the form cannot be read" in detail(broken)
    assert "more than 40 fields" in detail(client.post("/v1/cut", params={f"a{n}": "1" for n in range(50)}))
    for path, method, allowed in (
        ("/v1/cut", "GET", "POST"),
        ("/static/page.js", "POST", "GET, HEAD"),
        ("/", "POST", "GET, HEAD"),
        ("/v1/models", "OPTIONS", "GET, HEAD"),
    ):
        wrong = client.request(method, path)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, allowed)
        assert detail(wrong) == f"{method} does nothing here: use {allowed}"
    assert client.get("/v2/cut").status_code == 404
    answer = client.post("/v1/segment", files={"image": SQUARES})
    assert (answer.status_code, detail(answer)[:32]) == (404, "this server has no segment model")


def test_segments_of_a_maskformer_over_http(tiny: Path, tmp_path: Path) -> None:

    import torch

    from decoupe.models import MaskFormer, MaskFormerConfig
    from decoupe.weights.checkpoint import save_model
    from decoupe.weights.labels import Vocabulary
    from decoupe.weights.registry import Preprocessing

    torch.manual_seed(0)
    small = {"queries": 6, "width": 16, "heads": 2, "feed_forward": 16, "layers": 1}
    model = MaskFormer(MaskFormerConfig("nano", classes=3, pyramid_width=64, mask_width=16, **small))
    with torch.no_grad():  # sure of something, whatever it is: random weights are sure of nothing
        model.class_head.weight.mul_(200)
    words = Vocabulary(("cat", "dog", "sky"), stuff=(2,))
    seen = Preprocessing(size=(64, 64), fit="stretch", size_range=(32, 256), multiple=32)
    save_model(
        model, tmp_path / "words.safetensors", family="maskformer", preprocessing=seen, vocabulary=words
    )
    with (
        running("-m", str(tiny), "-m", str(tmp_path / "words.safetensors")) as server,
        server.client() as one,
    ):
        (matte, told) = one.get("/v1/models").json()["models"]
        assert (matte["task"], told["task"], told["labels"]) == ("matte", "segment", ["cat", "dog", "sky"])
        files = {"image": SQUARES}
        semantic = one.post("/v1/segment", files=files, data={"reading": "semantic", "format": "labels"})
        assert semantic.status_code == 200, semantic.text
        found = semantic.json()["features"]
        assert found
        assert {feature["properties"]["label"] for feature in found} <= set(words.names)
        picture = one.post("/v1/segment", files=files, data={"format": "labels", "picture": "true"})
        assert Image.open(io.BytesIO(picture.content)).size == (96, 64)
        coco = one.post("/v1/segment", files=files, data={"format": "coco-panoptic"}).json()
        assert {"segments_info"} <= set(coco["annotations"][0])
        label = found[0]["properties"]["label"]
        cut = one.post("/v1/cut", files=files, data={"what": label, "score": "0"})
        assert cut.status_code == 400  # score is an option of segments
        wrong = one.post("/v1/cut", files=files, data={"what": "bird"})
        assert (wrong.status_code, "unknown label 'bird'" in detail(wrong)) == (400, True)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", head), (b"IDAT", b""), (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


GREYS = [Image.new("L", (8, 8), 50 * step) for step in range(5)]
ANIMATION = png(GREYS[0], "GIF", save_all=True, append_images=GREYS[1:])
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) (w) file\n"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"


@pytest.mark.parametrize(
    ("data", "status", "line"),
    [
        (
            png_header(30000, 30000),
            413,
            "30000×30000, 900,000,000 pixels; this server takes at most 1,000,000",
        ),
        (png(Image.new("1", (2000, 2000))), 413, "2000×2000"),
        (ANIMATION, 413, "has 5 frames; this server takes at most 3"),
        (SQUARES[:60], 400, "damaged or truncated"),
        (SVG, 400, "not a picture that can be read"),
        (b"<html><script>alert(1)</script>", 400, "not a picture that can be read"),
        (POSTSCRIPT, 400, "not a picture that can be read"),
        (b"PK\x03\x04" + bytes(100), 400, "not a picture that can be read"),
    ],
    ids=["header", "bomb", "frames", "half", "svg", "html", "postscript", "zip"],
)
def test_hostile_pictures_are_refused(client: httpx.Client, data: bytes, status: int, line: str) -> None:
    answer = cut(client, data)
    assert answer.status_code == status
    assert line in detail(answer)
    assert cut(client).status_code == 200


def test_heic_is_bounded_as_every_format(client: httpx.Client) -> None:
    heif = pytest.importorskip("pillow_heif")
    for size, status in (((1024, 1024), 413), ((64, 64), 200)):
        file = io.BytesIO()
        heif.from_pillow(Image.new("RGB", size, "red")).save(file)
        assert cut(client, file.getvalue()).status_code == status


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=6)), max_size=4),
    form=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF"]),
)
def test_mutated_pictures_never_fail_the_server(
    client: httpx.Client, cuts: list[tuple[int, bytes]], form: str
) -> None:
    data = bytearray(png(Image.open(io.BytesIO(SQUARES)), form))
    for place, other in cuts:
        data[place : place + len(other)] = other
    answer = cut(client, bytes(data))
    assert answer.status_code in (200, 400, 413), answer.text


def test_a_crop_cannot_be_made_larger_than_memory(client: httpx.Client) -> None:
    for options in ({"aspect": "1:100000"}, {"aspect": "1:1", "margin": "90000"}):
        answer = cut(client, crop="1", **options)
        assert answer.status_code == 413
        assert "the crop would be" in detail(answer)


def test_a_server_without_a_matte_model() -> None:
    known = {"matte": [], "segment": ["maskformer"]}
    with pytest.raises(ProblemError, match="no matte model: start it with one, such as -m pocket"):
        cut_job(Form({}, {"image": SQUARES}), known)


def test_bytes_are_counted_as_they_come(client: httpx.Client, server: Running) -> None:
    large = bytes(1_100_000)
    assert "larger than 1 MB" in detail(cut(client, large))

    def parts() -> object:
        for _ in range(20):
            yield bytes(100_000)

    chunked = client.post("/v1/cut", content=parts())  # without a length that tells beforehand
    assert (chunked.status_code, "larger than 1 MB" in detail(chunked)) == (413, True)
    assert server.gauge("decoupe_held_bytes") < 1000


def test_names_of_files_and_headers_lead_nowhere(client: httpx.Client) -> None:
    for name in ("../../etc/passwd", "a\r\nX-Evil: 1.png", "C:\\boot.ini", "x" * 500):
        answer = client.post("/v1/cut", files={"image": (name, SQUARES)})
        assert answer.status_code in (200, 400)
        assert "x-evil" not in answer.headers
    for path in (
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fguard.py",
        "/static//etc/passwd",
    ):
        assert client.get(path).status_code == 404


def test_browsers_run_the_page_whatever_the_registry_of_windows_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many programs enter .js there as text, and a module of that type is not run."""
    monkeypatch.setattr(mimetypes, "_db", mimetypes.MimeTypes())
    kinds = {"page.js": "text/javascript", "page.css": "text/css", "icon.svg": "image/svg+xml"}
    for name in kinds:
        mimetypes.add_type("text/plain", Path(name).suffix)
    client = TestClient(create_app(Settings()), base_url="http://127.0.0.1")  # whose workers are not started
    for name, kind in kinds.items():
        assert client.get(f"/static/{name}").headers["content-type"].partition(";")[0] == kind


def test_every_answer_is_guarded(client: httpx.Client) -> None:
    for answer in (
        client.get("/"),
        client.get("/static/page.js"),
        client.get("/nothing"),
        cut(client),
        cut(client, b"x"),
    ):
        headers = answer.headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


def test_pages_of_the_web_cannot_reach_a_server_on_this_machine(client: httpx.Client) -> None:
    assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
    for host in ("localhost:7000", "LOCALHOST", "127.0.0.2:80", "[::1]:7000"):
        assert client.get("/v1/models", headers={"Host": host}).status_code == 200
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    assert client.post("/v1/cut", files={"image": SQUARES}, headers=foreign).status_code == 403


def test_browsers_that_tell_their_pages_origin_alone(client: httpx.Client) -> None:
    def status(origin: str, **headers: str) -> int:
        return client.post("/v1/cut", content=SQUARES, headers={"Origin": origin, **headers}).status_code

    evil = (
        "https://evil.example",
        "null",
        "https://localhost.evil.example",
        "https://evil.example/127.0.0.1",
    )
    assert {status(origin) for origin in evil} == {403}
    assert {status(f"http://127.0.0.1{port}") for port in ("", ":7000")} == {200}
    for host in ("localhost:7000", "LOCALHOST", "[::1]:7000", "[::1]"):
        assert status(f"http://{host}", Host=host) == 200
    assert status("https://127.0.0.1:8443", Host="127.0.0.1") == 200  # a proxy's port, which is not passed on
    assert status("null", **{"Sec-Fetch-Site": "same-origin"}) == 200


@pytest.mark.parametrize("parts", ["bytes=0-3", "bytes=999999-", "bytes=x"])
def test_files_come_whole(client: httpx.Client, parts: str) -> None:
    for path in ("/", "/static/example.jpg"):
        answer = client.get(path, headers={"Range": parts})
        assert (answer.status_code, answer.content) == (200, client.get(path).content)


def test_a_slash_too_many_is_told_and_not_redirected(client: httpx.Client) -> None:
    """A redirect would lead from TLS to plain HTTP, and out of the path that a proxy has the server under."""
    for path in ("/v1/models/", "/v1/cut/", "/static"):
        assert detail(client.get(path)) == "there is nothing here: see /openapi.json"


def test_what_the_server_tells(client: httpx.Client, server: Running) -> None:
    (model,) = client.get("/v1/models").json()["models"]
    assert (model["name"], model["task"], model["device"]) == ("tiny", "matte", "cpu")
    assert client.get("/v1/models").json()["limits"]["pixels"] == 1_000_000
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    cut(client)
    assert server.gauge(r'decoupe_requests_total\{route="/v1/cut",status="200"\}') >= 1
    logged = [json.loads(line) for line in server.lines if line.startswith("{")]
    assert {"route", "status", "seconds", "bytes_in", "id"} <= set(logged[-1])
    assert "photo.png" not in "".join(server.lines)


def test_what_is_no_request_is_logged_as_json_too(server: Running) -> None:
    """uvicorn and the parser of forms tell theirs as text, and who reads the log parses every line."""
    address = urlsplit(server.address)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(b"no request\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    until(lambda: any("Invalid HTTP request" in line for line in server.lines))
    logged = [json.loads(line) for line in server.lines if not line.startswith("decoupe: listening")]
    (told,) = (one for one in logged if one.get("warning") == "Invalid HTTP request received.")
    assert told["time"]


def test_a_field_for_files_that_was_left_alone_is_not_there(client: httpx.Client) -> None:
    parts = {'name="image"; filename="photo.png"': SQUARES, 'name="over"; filename=""': b""}  # as browsers do
    head = "--x\r\nContent-Disposition: form-data; {}\r\nContent-Type: application/octet-stream\r\n\r\n"
    body = (
        b"".join(head.format(name).encode() + data + b"\r\n" for name, data in parts.items()) + b"--x--\r\n"
    )
    answer = client.post("/v1/cut", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.content == cut(client).content
    named = client.post("/v1/cut", files={"image": SQUARES, "over": ("beach.jpg", b"")})
    assert "over is empty (0 bytes)" in named.json()["detail"]


@pytest.mark.parametrize("path", ["/", "/v1/models", "/healthz", "/readyz", "/metrics"])
def test_monitors_may_ask_for_the_head_alone(client: httpx.Client, path: str) -> None:
    head, whole = client.head(path), client.get(path)
    assert (head.status_code, head.headers["content-type"]) == (200, whole.headers["content-type"])
    assert head.content == b""
    assert client.head("/v1/cut").status_code == 405


def test_a_token_is_asked_for(tiny: Path) -> None:
    token = "correct-horse-battery"
    options = ("-m", str(tiny), "--cors", "https://shop.example", "--device", "cpu", "--device", "cpu")
    with running(*options, DECOUPE_TOKEN=token) as server, server.client() as client:
        assert client.get("/").status_code == client.get("/readyz").status_code == 200
        for path in ("/v1/models", "/metrics", "/nothing", "//v1/models"):
            assert client.get(path).status_code == 401
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"X-Api-Key": "wrong"},
            {"Authorization": token},
        ):
            refused = client.post("/v1/cut", files={"image": SQUARES}, headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert "the token is missing or wrong" in detail(refused)
        for headers in 4 * ({"Authorization": f"Bearer {token}"}, {"X-Api-Key": token}):
            assert client.post("/v1/cut", files={"image": SQUARES}, headers=headers).status_code == 200
        wrong = client.post("/v1.0/removebg", files={"image_file": SQUARES}, headers={"X-Api-Key": "wrong"})
        assert (wrong.status_code, wrong.json()) == (
            403,
            {"errors": [{"title": "API Key invalid", "code": "auth_failed"}]},
        )
        listed = client.options(
            "/v1/cut", headers={"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
        )
        assert listed.headers["access-control-allow-origin"] == "https://shop.example"
        seen = client.get("/healthz", headers={"Origin": "https://shop.example"})
        assert seen.headers["access-control-expose-headers"] == "*"
        assert token not in "".join(server.lines)
