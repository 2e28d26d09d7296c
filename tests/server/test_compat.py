"""The routes of remove.bg and rembg, called as their documentation and their clients call them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tracemalloc
import zipfile

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request

from decoupe.inference.results import Matte
from decoupe.server.compat import RemoveBg, prefers_json
from decoupe.server.forms import read_form
from decoupe.server.guard import Limits
from decoupe.server.problems import ProblemError
from inference import icc
from server.running import png, squares

SQUARES = squares()


def remove_bg(client: httpx.Client, data: bytes = SQUARES, **fields: str) -> httpx.Response:
    """The documentation's request: curl -H 'X-API-Key: …' -F 'image_file=@file' -F 'size=auto'."""
    files = {"image_file": ("file.jpg", data)}
    return client.post("/v1.0/removebg", headers={"X-API-Key": "INSERT_HERE"}, files=files, data=fields)


def opened(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


def test_the_documented_examples(client: httpx.Client) -> None:
    answer = remove_bg(client, size="auto")
    image = opened(answer)
    assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (96, 64))
    told = {name: answer.headers[name] for name in ("x-width", "x-height", "x-type", "x-credits-charged")}
    assert told == {"x-width": "96", "x-height": "64", "x-type": "other", "x-credits-charged": "0"}
    assert int(answer.headers["x-foreground-left"]) == pytest.approx(8, abs=6)  # its edge is soft
    encoded = {"image_file_b64": base64.b64encode(SQUARES).decode(), "size": "auto"}
    for body in ({"json": encoded}, {"data": encoded}):
        assert client.post("/v1.0/removebg", **body).content == answer.content
    lines = {**encoded, "image_file_b64": base64.encodebytes(SQUARES).decode()}  # as base64(1) writes it
    for body in (
        {"json": lines},
        {"data": lines},
        {"files": {name: (None, one) for name, one in lines.items()}},
    ):
        assert client.post("/v1.0/removebg", **body).content == answer.content
    as_json = client.post("/v1.0/removebg", json=encoded, headers={"Accept": "application/json"}).json()
    assert base64.b64decode(as_json["data"]["result_b64"]) == answer.content
    assert as_json["data"]["foreground_left"] == int(answer.headers["x-foreground-left"])


@pytest.mark.parametrize(
    ("accept", "as_json"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/json, text/javascript, */*; q=0.01", True),  # jQuery's, of a page that wants JSON
        ("application/json, image/png;q=0.5", True),
        ("application/json, text/plain, */*", False),  # axios's, whatever is wanted
        ("application/json, image/*", False),
        ("image/png, application/json;q=0.9", False),
        ("application/json;q=0", False),
        ("application/json;q=high", True),
        ("text/plain", False),
        ("", False),
    ],
)
def test_json_is_for_who_wants_no_picture(accept: str, as_json: bool) -> None:
    assert prefers_json(accept) == as_json


def test_the_node_sample_of_remove_bg_gets_its_picture(client: httpx.Client) -> None:
    answer = client.post(
        "/v1.0/removebg",
        headers={"Accept": "application/json, text/plain, */*", "User-Agent": "axios/1.7.9"},
        files={"image_file": ("a.jpg", SQUARES)},
        data={"size": "auto"},
    )
    assert answer.headers["content-type"] == "image/png"
    assert opened(answer).format == "PNG"


def test_a_recorded_call_of_the_ruby_client(client: httpx.Client) -> None:
    """The head of remove-bg-ruby 1.4.1's request, as its own test recorded it."""
    boundary = "-----------RubyMultipartPost-7371fb881d0c533fa2f93ee874193993"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="image_file"; filename="person.jpg"\r\n'
        f"Content-Length: {len(SQUARES)}\r\nContent-Type: image/jpeg\r\n"
        "Content-Transfer-Encoding: binary\r\n\r\n"
    )
    body = head.encode() + SQUARES + f"\r\n--{boundary}--\r\n\r\n".encode()
    headers = {
        "User-Agent": "remove-bg-ruby-1.4.1",
        "X-Api-Key": "key",
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Accept-Encoding": "gzip;q=1.0,deflate;q=0.6,identity;q=0.3",
        "Accept": "*/*",
    }
    answer = client.post("/v1.0/removebg", content=body, headers=headers)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-width"] == "96"


def test_sizes_formats_and_grounds(client: httpx.Client) -> None:
    large = png(Image.open(io.BytesIO(SQUARES)).resize((960, 640)))
    assert opened(remove_bg(client, large)).size == (612, 408)  # preview: a quarter of a megapixel
    assert opened(remove_bg(client, large, size="full")).size == (960, 640)
    over = opened(remove_bg(client, bg_color="81d4fa", format="png"))
    assert over.mode == "RGB"
    assert opened(remove_bg(client, bg_color="red")).format == "JPEG"  # auto: nothing is transparent
    assert opened(remove_bg(client, bg_color="81d4fa77")).mode == "RGBA"
    assert opened(remove_bg(client, format="webp")).format == "WEBP"
    assert opened(remove_bg(client, channels="alpha")).mode == "L"
    blue = png(Image.new("RGB", (9, 9), "blue"))
    files = {"image_file": SQUARES, "bg_image_file": blue}
    below = opened(client.post("/v1.0/removebg", files=files, data={"format": "png"})).getpixel((90, 60))
    assert below[2] > 150 > below[0]
    archive = zipfile.ZipFile(io.BytesIO(remove_bg(client, format="zip").content))
    assert sorted(archive.namelist()) == ["alpha.png", "color.jpg"]


@pytest.mark.parametrize("side", [586, 703, 1001])
def test_the_subject_is_told_inside_the_picture_that_is_answered(side: int) -> None:
    """A crop that is made smaller is all subject; rounded by itself, its box was a pixel wider."""
    alpha = np.zeros((side + 40, side + 31), np.float32)
    alpha[20:-20, 20:-9] = 1
    matte = Matte(alpha, np.zeros((*alpha.shape, 3), np.uint8))
    told = RemoveBg(b"", "tiny", crop=True).answer(matte).headers
    assert (told["X-Foreground-Width"], told["X-Foreground-Height"]) == (told["X-Width"], told["X-Height"])


def test_a_ground_is_in_the_colours_of_the_photographs_profile() -> None:
    """Under a profile whose red and blue are exchanged, sRGB's red is written as blue."""
    alpha = np.zeros((40, 60), np.float32)
    alpha[:9, :9] = 1
    matte = Matte(alpha, np.zeros((40, 60, 3), np.uint8), icc.exchanged_rgb())
    red = png(Image.new("RGB", (9, 9), "red"))
    below = Image.open(io.BytesIO(RemoveBg(b"", "tiny", form="png", background=red).answer(matte).body))
    assert below.info["icc_profile"] == icc.exchanged_rgb()
    assert below.getpixel((50, 30))[2] > 200 > 60 > below.getpixel((50, 30))[0]


def test_regions_crops_and_places(client: httpx.Client) -> None:
    left = np.asarray(opened(remove_bg(client, roi="0 0 50% 100%", size="auto")).getchannel("A"))
    assert left[24, 24] > 200
    assert not left[:, 50:].any()
    plain = opened(remove_bg(client, roi="0 0 50 64", crop="true"))
    wide = opened(remove_bg(client, roi="0 0 50 64", crop="true", crop_margin="10px 20px"))
    assert (wide.width - plain.width, wide.height - plain.height) == (40, 20)
    answer = remove_bg(client, roi="0 0 50 64", scale="50%", position="100% 0%")
    box = opened(answer).getchannel("A").point(lambda value: 255 * (value > 100)).getbbox()
    assert box is not None
    assert (box[1], box[2]) == (pytest.approx(0, abs=3), pytest.approx(96, abs=3))
    assert answer.headers["x-foreground-height"] == "32"
    assert int(answer.headers["x-foreground-top"]) == 0
    assert opened(remove_bg(client, add_shadow="true", shadow_opacity="80")).mode == "RGBA"


@pytest.mark.parametrize(
    ("fields", "code", "title"),
    [
        ({"image_url": "http://169.254.169.254/"}, "invalid_image_url", "This server fetches nothing"),
        ({"bg_image_url": "http://localhost/"}, "invalid_image_url", "This server fetches nothing"),
        ({"size": "huge"}, "invalid_parameter", "size is 'huge', expected one of preview"),
        ({"roi": "0 0 50%"}, "invalid_parameter", "roi is '0 0 50%', expected 4 lengths"),
        ({"roi": "50px 0 20px 64px"}, "invalid_parameter", "roi is 50,0,20,64 in pixels, expected left"),
        ({"roi": "0 0 999 100%"}, "invalid_parameter", "inside the picture of 96×64"),
        ({"crop_margin": "900px"}, "invalid_parameter", "crop_margin is '900px', expected at most"),
        ({"scale": "5%"}, "invalid_parameter", "scale is '5%', expected a percentage from 10% to 100%"),
        ({"position": "a b"}, "invalid_parameter", "position is 'a'"),
        ({"bg_color": "nocolour"}, "invalid_parameter", "bg_color is 'nocolour'"),
        ({"semitransparency": "false"}, "invalid_parameter", "semitransparency=false is not supported"),
        ({"shadow_type": "3D"}, "invalid_parameter", "shadow_type is '3D'"),
        ({"crop": "maybe"}, "invalid_parameter", "crop is 'maybe', expected true or false"),
        ({"colour": "red"}, "unknown_parameter", "unknown parameter 'colour'"),
        ({"channels": "alpha", "bg_color": "red"}, "invalid_parameter", "channels=alpha has no background"),
        ({"channels": "alpha", "format": "zip"}, "invalid_parameter", "format=zip has alpha.png already"),
        ({"image_file_b64": "AA=="}, "multiple_sources", "Multiple image sources given"),
    ],
)
def test_errors_have_the_form_that_clients_read(
    client: httpx.Client, fields: dict[str, str], code: str, title: str
) -> None:
    answer = remove_bg(client, **fields)
    (error,) = answer.json()["errors"]
    assert (answer.status_code, error["code"]) == (400, code)
    assert title in error["title"]


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b'{"size":[' + b"[]," * 200_000 + b"[]]}", "not a flat JSON object"),
        (b'{"size":{' + b'"a":{},' * 100_000 + b'"b":1}}', "not a flat JSON object"),
        (b"{" + b",".join(b'"%d":1' % each for each in range(41)) + b"}", "more than 40 fields"),
        (b'{"size":["auto"]}', "'size' is a list or an object"),
        (b'{"size":{}}', "'size' is a list or an object"),
        (b'{"scale":1.' + b"1" * 900_000 + b"}", "'scale' is longer than 4096 characters"),
    ],
    ids=["lists", "objects", "fields", "list", "object", "digits"],
)
def test_json_is_one_flat_object(client: httpx.Client, body: bytes, line: str) -> None:
    answer = client.post("/v1.0/removebg", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert line in answer.json()["errors"][0]["title"]


def test_json_may_hold_a_large_picture_numbers_and_an_address() -> None:
    picture = base64.b64encode(bytes(6_000_000)).decode()
    fields = {
        "image_file_b64": f"data:image/png;base64,{picture}",
        "image_url": "https://a/?q=[1,2,{3}]",
        "scale": 12.5,
        "shadow_opacity": 30,
        "crop": True,
        "format": None,
    }

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": json.dumps(fields).encode()}

    headers = [(b"content-type", b"application/json")]
    request = Request({"type": "http", "query_string": b"", "headers": headers}, receive)
    form = asyncio.run(read_form(request, Limits(), long="image_file_b64"))
    assert form.fields == {
        "image_file_b64": [fields["image_file_b64"]],
        "image_url": ["https://a/?q=[1,2,{3}]"],
        "scale": ["12.5"],
        "shadow_opacity": ["30"],
        "crop": ["true"],
    }


def urlencoded(body: bytes) -> Request:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body}

    headers = [(b"content-type", b"application/x-www-form-urlencoded")]
    return Request({"type": "http", "query_string": b"", "headers": headers}, receive)


@pytest.mark.parametrize(
    ("head", "unit", "line"),
    [
        (b"size=", b"%41", "'size' is longer than 4096 bytes"),
        (b"", b"%41", "longer than 4096 bytes"),
        (b"image_file_b64=", b"%41", "image_file_b64 is not base64"),
        (b"image_file_b64=", b"\xff", "image_file_b64 is not base64"),
        (b"", b"a=1&", "more than 40 fields"),
    ],
)
def test_a_hostile_form_is_refused_before_it_is_unquoted(head: bytes, unit: bytes, line: str) -> None:
    request = urlencoded(head + 1_000_000 * unit)
    tracemalloc.start()
    try:
        with pytest.raises(ProblemError, match=line):
            asyncio.run(read_form(request, Limits(), long="image_file_b64"))
        assert tracemalloc.get_traced_memory()[1] < 15_000_000  # unquoted, the first takes 200 MB
    finally:
        tracemalloc.stop()


def multipart(*parts: bytes, charset: str = "") -> Request:
    """A form of parts, each with the rest of its head."""
    body = b"".join(b"--x\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts)

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body + b"--x--\r\n"}

    kind = f"multipart/form-data; {charset}boundary=x".encode()
    return Request({"type": "http", "query_string": b"", "headers": [(b"content-type", kind)]}, receive)


def test_no_form_chooses_the_codec_that_reads_it() -> None:
    """Python's punycode takes time by the square of the length, and each unknown name stays in memory."""
    for charset in ("punycode", "utf-7", "idna", "x" * 10_000):
        request = multipart(b'name="over"\r\n\r\n' + 1_000 * b"a", charset=f"charset={charset}; ")
        with pytest.raises(ProblemError, match="the form is not in UTF-8: send it so") as raised:
            asyncio.run(read_form(request, Limits()))
        assert raised.value.status == 415
    for charset in ("", "charset=UTF-8; ", "charset=utf8; ", "charset=US-ASCII; ", "charset=ISO-8859-1; "):
        request = multipart(b'name="over"\r\n\r\nred', charset=charset)
        assert asyncio.run(read_form(request, Limits())).fields == {"over": ["red"]}


def test_a_long_field_is_refused_before_it_has_come() -> None:
    text = 4096 * "\N{CAT}"
    request = multipart(b'name="what"\r\n\r\n' + text.encode())
    assert asyncio.run(read_form(request, Limits())).fields == {"what": [text]}
    part = b'name="%s"\r\n\r\n' + "\N{CAT}".encode() + 20_000_000 * b"a"
    request = multipart(part % b"what")
    tracemalloc.start()
    try:
        with pytest.raises(ProblemError, match="'what' is longer than 4096 characters: make it shorter"):
            asyncio.run(read_form(request, Limits(), long="image_file_b64"))
        assert tracemalloc.get_traced_memory()[1] < 50_000_000  # read and decoded it takes 140 MB
    finally:
        tracemalloc.stop()
    request = multipart(part % b"image_file_b64")
    form = asyncio.run(read_form(request, Limits(), long="image_file_b64"))
    assert [len(value) for value in form.fields["image_file_b64"]] == [20_000_001]


@pytest.mark.parametrize(
    "quoted",
    ["a+/=", "a%2B%2F%3D", "a%2b%2f%3d", "data%3Aimage%2Fpng%3Bbase64%2Ca%2B%2F%3D"],
)
def test_base64_in_a_form_is_unquoted(quoted: str) -> None:
    request = urlencoded(f"image_file_b64={quoted}&bg_color=%23fff&roi=0%25+0".encode())
    form = asyncio.run(read_form(request, Limits(), long="image_file_b64"))
    assert form.fields["image_file_b64"][0].rpartition("base64,")[2] == "a+/="
    assert (form.fields["bg_color"], form.fields["roi"]) == (["#fff"], ["0% 0"])


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"bg_color": b"red"}, "bg_color is sent as a file, expected text"),
        ({"image_url": b"x"}, "image_url is sent as a file, expected text"),
        ({"bg_image_file": (None, b"hello")}, "bg_image_file is sent as text, expected a file"),
    ],
)
def test_files_and_text_are_not_taken_for_each_other(
    client: httpx.Client, files: dict[str, object], line: str
) -> None:
    answer = client.post("/v1.0/removebg", files={"image_file": SQUARES, **files})
    assert (answer.status_code, answer.json()["errors"][0]["title"]) == (400, line)


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"bogus": b"x"}, "unknown option 'bogus'"),
        ({"bgc": b"1,2,3,255"}, "bgc is sent as a file, expected text"),
    ],
)
def test_rembg_does_not_drop_files_in_silence(
    client: httpx.Client, files: dict[str, object], line: str
) -> None:
    answer = client.post("/api/remove", files={"file": SQUARES, **files})
    assert answer.status_code == 400
    assert line in answer.json()["detail"]


@pytest.mark.parametrize(
    "moved",
    [{}, {"scale": "40%"}, {"scale": "40%", "position": "70% 30%"}, {"scale": "40%", "crop": "true"}],
    ids=lambda fields: " ".join(fields),
)
def test_the_shadow_lies_where_the_subject_is_moved_to(client: httpx.Client, moved: dict[str, str]) -> None:
    picture = Image.new("RGB", (96, 64), (0, 255, 255))
    picture.paste((255, 0, 0), (32, 16, 64, 48))
    before, after = (
        np.asarray(opened(remove_bg(client, png(picture), **moved, **more)).getchannel("A"), int)
        for more in ({}, {"add_shadow": "true", "shadow_opacity": "80"})
    )
    assert (after[before == 0] > 30).any()
    assert (after >= before).all()


def test_errors_about_pictures(client: httpx.Client) -> None:
    empty = remove_bg(client, png(Image.new("RGB", (64, 64), (0, 255, 255))))
    error = {"title": "Could not identify foreground in image.", "code": "unknown_foreground"}
    assert (empty.status_code, empty.json()) == (400, {"errors": [error]})
    assert remove_bg(client, b"text").status_code == 400
    files = {"image_file": SQUARES, "bg_image_file": b"text"}
    ground = client.post("/v1.0/removebg", files=files).json()["errors"][0]["title"]
    assert ground.startswith("bg_image_file is not a picture")
    none = client.post("/v1.0/removebg", data={"size": "auto"})
    assert none.json()["errors"][0]["code"] == "missing_source"
    broken = client.post("/v1.0/removebg", content=b"[1", headers={"Content-Type": "application/json"})
    assert "not a JSON object" in broken.json()["errors"][0]["title"]
    assert "errors" in client.get("/v1.0/removebg").json()


def test_rembgs_examples(client: httpx.Client) -> None:
    plain = client.post("/v1/cut", content=SQUARES).content
    for options in ({}, {"model": "u2net"}, {"a": "true", "af": "240", "ab": "10", "ae": "10"}):
        answer = client.post("/api/remove", files={"file": ("input.jpg", SQUARES)}, data=options)
        assert answer.content == plain
    mask = client.post("/api/remove", params={"om": "true"}, files={"file": SQUARES})
    assert opened(mask).mode == "L"
    hard = client.post("/api/remove", files={"file": SQUARES}, data={"om": "1", "ppm": "true"})
    assert set(np.unique(opened(hard))) == {0, 255}
    green = opened(client.post("/api/remove", files={"file": SQUARES}, data={"bgc": "0,255,0,255"}))
    assert green.mode == "RGB"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"url": "http://input.png"}, "this server fetches nothing"),
        ({"model": "u2netp"}, "unknown model 'u2netp'"),
        ({"extras": "{}"}, "extras belong to models that this server does not have"),
        ({"bgc": "1,2"}, "bgc is '1,2', expected R,G,B,A"),
        ({"bgc": "1,2,3,4"}, "bgc has the opacity 4"),
        ({"af": "x"}, "af is 'x', expected a whole number"),
        ({"crop": "1"}, "unknown option 'crop'"),
    ],
)
def test_what_rembg_has_and_this_server_does_not(
    client: httpx.Client, fields: dict[str, str], line: str
) -> None:
    answer = client.post("/api/remove", files={"file": SQUARES}, data=fields)
    assert answer.status_code == 400
    assert line in answer.json()["detail"]
