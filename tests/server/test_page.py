"""The page in real Chromium: by pointer and keyboard, on a phone, in the dark, and by the rules of axe."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright

from server.running import Running, png, squares

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"
)

SQUARES = squares()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        with playwright.chromium.launch(executable_path=CHROMIUM, args=options) as one:
            yield one


PERMISSIONS = ["camera", "clipboard-read", "clipboard-write"]


@pytest.fixture(scope="module")
def usual(browser: Browser) -> Iterator[BrowserContext]:
    """In it a tab remembers nothing of another: what the page keeps is the tab's own."""
    with browser.new_context(permissions=PERMISSIONS) as one:
        one.new_page()  # while a tab is open, Chromium opens the next in half the time
        yield one
        assert one.storage_state() == {"cookies": [], "origins": []}


Open = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser, usual: BrowserContext, server: Running) -> Iterator[Open]:
    """The page in a fresh tab; it must ask nobody but its server, and complain of nothing."""
    opened: list[Page | BrowserContext] = []
    complaints = []

    def check(request: Request) -> None:
        if not request.url.startswith((server.address, "blob:")):
            complaints.append(request.url)

    def one(**options: Any) -> Page:
        context = browser.new_context(permissions=PERMISSIONS, **options) if options else usual
        page = context.new_page()
        opened.append(context if options else page)
        page.set_default_timeout(15000)
        page.on("request", check)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(server.address)
        page.get_by_role("button", name="Use the camera").wait_for()  # which the page's script shows
        return page

    yield one
    for each in opened:
        each.close()
    assert complaints == []


def give(page: Page, *names: str, data: bytes = SQUARES) -> None:
    """Choose files, and wait until they are cut."""
    files = [{"name": name, "mimeType": "image/png", "buffer": data} for name in names]
    page.set_input_files("#files", files)
    settled(page)


def settled(page: Page) -> None:
    page.wait_for_selector("#download:enabled")


def downloaded(page: Page, button: str) -> tuple[str, bytes]:
    with page.expect_download() as found:
        page.get_by_role("button", name=button, exact=True).click()
    return found.value.suggested_filename, Path(found.value.path()).read_bytes()


def api(server: Running, **options: str) -> bytes:
    with server.client() as client:
        answer = client.post("/v1/cut", params=options, content=SQUARES)
    assert answer.status_code == 200, answer.text
    return answer.content


def test_what_is_downloaded_is_what_the_api_answers(visit: Open, server: Running) -> None:
    page = visit()
    give(page, "mug.jpg.png")
    assert downloaded(page, "Download PNG") == ("mug.jpg.cut.png", api(server))
    assert downloaded(page, "WebP") == ("mug.jpg.cut.webp", api(server, format="webp"))
    page.get_by_label("Colour", exact=True).check()
    page.get_by_label("Sky").click()
    page.get_by_label("Feather").fill("2")
    page.get_by_label("Grow").fill("-3")
    settled(page)
    assert downloaded(page, "Download PNG")[1] == api(server, over="#8fb4d9", feather="2", shrink="3")
    page.get_by_label("Blur").check()
    settled(page)
    assert downloaded(page, "Download PNG")[1] == api(server, over="blur", feather="2", shrink="3")


def test_a_picture_behind(visit: Open) -> None:
    page = visit()
    give(page, "a.png")
    blue = {"name": "sea.png", "mimeType": "image/png", "buffer": png(Image.new("RGB", (9, 9), "blue"))}
    page.get_by_label("Picture", exact=True).check()
    page.set_input_files("#background-file", [blue])
    settled(page)
    pixels = np.asarray(Image.open(io.BytesIO(downloaded(page, "Download PNG")[1])))
    assert pixels.shape == (64, 96, 3)
    assert page.locator("#background-name").inner_text() == "sea.png"


def test_a_box_and_a_point_choose_the_subject(visit: Open, server: Running) -> None:
    page = visit()
    give(page, "a.png")
    page.get_by_label("Box", exact=True).check()
    sheet = page.locator("#sheet").bounding_box()
    assert sheet is not None
    scale = sheet["width"] / 96
    page.mouse.move(sheet["x"] + 2.5 * scale, sheet["y"] + 2.5 * scale)
    page.mouse.down()
    page.mouse.move(sheet["x"] + 50.5 * scale, sheet["y"] + 60.5 * scale, steps=4)
    page.mouse.up()
    settled(page)
    assert [page.locator(f"#{name}").input_value() for name in ("x0", "y0", "x1", "y1")] == [
        "2",
        "2",
        "51",
        "61",
    ]
    assert downloaded(page, "Download PNG")[1] == api(server, box="2,2,51,61")
    page.get_by_label("Point", exact=True).check()
    sheet = page.locator("#sheet").bounding_box()
    assert sheet is not None
    page.mouse.click(sheet["x"] + 63.5 * scale, sheet["y"] + 12.5 * scale)
    settled(page)
    assert [page.locator(f"#{name}").input_value() for name in ("px", "py")] == ["63", "12"]
    assert downloaded(page, "Download PNG")[1] == api(server, point="63,12")
    page.get_by_label("Automatic").check()
    settled(page)
    assert downloaded(page, "Download PNG")[1] == api(server)


def test_the_divider_and_the_zoom(visit: Open) -> None:
    page = visit()
    give(page, "a.png")
    handle = page.locator("#divider span").bounding_box()
    sheet = page.locator("#sheet").bounding_box()
    assert handle is not None
    assert sheet is not None
    page.mouse.move(handle["x"] + 20, handle["y"] + 20)
    page.mouse.down()
    page.mouse.move(sheet["x"] + sheet["width"] * 0.8, handle["y"], steps=3)
    page.mouse.up()
    assert float(page.locator("#split").input_value()) == pytest.approx(80, abs=2)
    for _ in range(20):
        page.get_by_role("button", name="Zoom in").click()
    assert page.locator("output#zoom").inner_text() == "800 %"
    page.get_by_role("button", name="Fit").click()
    assert page.locator("output#zoom").inner_text() == "100 %"
    page.mouse.move(sheet["x"] + 20, sheet["y"] + 20)
    page.mouse.wheel(0, -300)
    assert int(page.locator("output#zoom").inner_text().split()[0]) > 150


def test_several_pictures_and_all_of_them_as_a_zip(visit: Open, server: Running) -> None:
    page = visit()
    give(page, "a.png", "b.png", "a-2.png", "a.png")
    assert page.locator("#strip li").count() == 4
    page.wait_for_selector("#strip .waiting, #strip .sending, #strip .cutting", state="detached")
    name, data = downloaded(page, "All as ZIP")
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert archive.testzip() is None
    names = ["a.cut.png", "b.cut.png", "a-2.cut.png", "a-3.cut.png"]
    assert (name, archive.namelist()) == ("decoupe.zip", names)
    assert archive.read("b.cut.png") == api(server)
    page.get_by_label("b.png, cut").click()
    assert page.locator("#before").get_attribute("alt") == "b.png, before"


def test_the_example_and_taking_pictures_away(visit: Open) -> None:
    page = visit()
    page.get_by_role("button", name="Try the example").click()
    settled(page)
    assert downloaded(page, "Download PNG")[0] == "coffee.cut.png"
    give(page, "a.png", "b.png")
    page.get_by_label("a.png, cut").click()
    page.get_by_role("button", name="Remove", exact=True).click()
    assert page.locator("#before").get_attribute("alt") == "b.png, before"
    page.locator("#stage").press("Delete")
    assert page.locator("#before").get_attribute("alt") == "coffee.jpg, before"
    page.locator("#stage").press("Delete")
    page.get_by_role("heading", name="Drop pictures here").wait_for()


PASTE = """data => {
  const file = new File([Uint8Array.from(data)], "pasted.png", { type: "image/png" });
  const transfer = new DataTransfer();
  transfer.items.add(file);
  const paste = new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
  document.body.dispatchEvent(paste);
}"""
DROP = PASTE.replace('new ClipboardEvent("paste", { clipboardData', 'new DragEvent("drop", { dataTransfer')


@pytest.mark.parametrize("arrive", [PASTE, DROP], ids=["pasted", "dropped"])
def test_pictures_are_pasted_dropped_and_copied(visit: Open, arrive: str) -> None:
    page = visit()
    page.evaluate(arrive, list(SQUARES))
    settled(page)
    page.get_by_role("button", name="Copy").click()
    page.get_by_text("Copied.").wait_for()


def test_the_camera(visit: Open) -> None:
    page = visit()
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the picture").wait_for()
    page.wait_for_timeout(500)
    page.get_by_role("button", name="Take the picture").click()
    settled(page)
    assert downloaded(page, "Download PNG")[0] == "camera.cut.png"


def test_cancelling_and_going_on(visit: Open, server: Running) -> None:
    page = visit()
    with server.stopped():
        page.set_input_files("#files", [{"name": "a.png", "mimeType": "image/png", "buffer": SQUARES}])
        page.get_by_text("Cutting…").wait_for()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Cancelled.").wait_for()
    page.get_by_role("button", name="Try again").click()
    settled(page)


def test_an_error_is_told_kindly(visit: Open) -> None:
    page = visit()
    page.set_input_files("#files", [{"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}])
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "Image is not a picture that can be read: expected JPEG, PNG, WebP, TIFF" in alert.inner_text()
    page.get_by_role("button", name="Remove the picture").click()
    page.get_by_role("heading", name="Drop pictures here").wait_for()


def test_a_format_that_the_browser_does_not_know(visit: Open) -> None:
    page = visit()
    give(page, "scan.tif", data=png(Image.open(io.BytesIO(SQUARES)), "TIFF"))
    page.wait_for_selector("#sheet:visible")
    sheet = page.locator("#sheet").bounding_box()
    assert sheet is not None
    assert (sheet["width"], sheet["height"]) == (96, 64)
    assert not page.locator("#divider").is_visible()


def test_by_keyboard_alone(visit: Open, server: Running) -> None:
    page = visit()
    page.on("filechooser", lambda _: None)  # from now on Chromium asks the test, not the desktop
    page.keyboard.press("Tab")
    page.wait_for_function("document.activeElement.classList.contains('choose')")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": SQUARES}])
    settled(page)
    reached: set[str] = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.name"))
    assert {
        "stage",
        "split",
        "zoom-in",
        "subject",
        "background",
        "feather",
        "grow",
        "download",
        "copy",
    } <= reached
    page.locator("#stage").focus()
    page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    assert page.locator("output#zoom").inner_text() == "125 %"
    page.keyboard.press("0")
    page.locator('[name="subject"][value="auto"]').focus()
    page.keyboard.press("ArrowRight")
    for name, value in (("x0", "0"), ("y0", "0"), ("x1", "50"), ("y1", "64")):
        page.locator(f"#{name}").focus()
        page.keyboard.type(value)
    page.keyboard.press("Tab")
    settled(page)
    with page.expect_download() as found:
        page.locator("#download").focus()
        page.keyboard.press("Enter")
    assert Path(found.value.path()).read_bytes() == api(server, box="0,0,50,64")


SIGHTS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "has_touch": True},
}


@pytest.mark.parametrize("sight", SIGHTS)
def test_axe_finds_nothing_in(visit: Open, sight: str) -> None:
    page = visit(bypass_csp=True, **SIGHTS[sight])  # axe is a script of the test's, not of the page
    for state in ("welcome", "work"):
        if state == "work":
            give(page, "a.png", "b.png")
            page.get_by_label("Box", exact=True).check()
            page.get_by_label("Colour", exact=True).check()
            settled(page)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(21, 23, 26)" if sight == "dark" else "rgb(246, 245, 242)")


def test_a_token_is_asked_for_until_it_is_right(visit: Open) -> None:
    page = visit()
    refusals = []

    def refuse(route: Any) -> None:
        if route.request.headers.get("authorization") == "Bearer correct-horse-battery":
            route.continue_()
        else:
            refusals.append(route.request.url)
            route.fulfill(status=401, json={"detail": "the token is missing or wrong"})

    page.route("**/v1/**", refuse)
    page.reload()
    token, wrong = page.get_by_role("textbox", name="Token"), page.get_by_text("That token is wrong.")
    token.wait_for()
    assert not wrong.is_visible()
    token.fill("a guess")
    page.get_by_role("button", name="Continue").click()
    wrong.wait_for()
    assert wrong.get_attribute("role") == "alert"
    assert token.input_value() == ""
    token.fill("correct-horse-battery")
    page.get_by_role("button", name="Continue").click()
    give(page, "a.png")
    assert len(refusals) == 2


@pytest.mark.parametrize(
    ("pasted", "right"), [("correct-horse-battery\u200b", True), ("correct\u2011horse", False)]
)
def test_a_token_with_a_sign_that_no_token_has(visit: Open, pasted: str, right: bool) -> None:
    page = visit()
    sent: list[str | None] = []

    def refuse(route: Any) -> None:
        sent.append(route.request.headers.get("authorization"))
        if sent[-1] == "Bearer correct-horse-battery":
            route.continue_()
        else:
            route.fulfill(status=401, json={"detail": "the token is missing or wrong"})

    page.route("**/v1/**", refuse)
    page.reload()
    token, wrong = page.get_by_role("textbox", name="Token"), page.get_by_text("That token is wrong.")
    token.fill(pasted)
    page.get_by_role("button", name="Continue").click()
    if not right:
        wrong.wait_for()
        page.reload()  # what is remembered does not lock the page either
        wrong.wait_for()
        token.fill("correct-horse-battery")
        page.get_by_role("button", name="Continue").click()
    give(page, "a.png")
    assert sent == [None, *2 * ["Bearer correct-horse-battery"]]


def test_the_example_of_a_server_that_is_gone(visit: Open) -> None:
    page = visit()
    page.route("**/example.jpg", lambda route: route.abort())
    page.get_by_role("button", name="Try the example").click()
    page.get_by_text("The server cannot be reached. Is it still running?").wait_for()
    page.get_by_role("heading", name="Drop pictures here").wait_for()


def test_choosing_no_other_background_keeps_the_one_before(visit: Open) -> None:
    page = visit()
    give(page, "a.png")
    blue = {"name": "sea.png", "mimeType": "image/png", "buffer": png(Image.new("RGB", (9, 9), "blue"))}
    page.get_by_label("Picture", exact=True).check()
    page.set_input_files("#background-file", [blue])
    page.set_input_files("#background-file", [])  # as Chromium does when its dialog is closed
    page.get_by_label("Feather").fill("1")
    settled(page)
    assert page.locator("#background-name").inner_text() == "sea.png"
    assert Image.open(io.BytesIO(downloaded(page, "Download PNG")[1])).mode == "RGB"


def test_what_was_not_taken_is_not_lost_unasked(visit: Open, server: Running) -> None:
    page = visit()
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.get_by_role("button", name="Try the example").click()
    settled(page)
    page.reload()  # nobody misses the example
    page.get_by_role("button", name="Try the example").click()
    give(page, "a.png", "b.png")
    page.wait_for_selector("#strip .waiting, #strip .sending, #strip .cutting", state="detached")
    downloaded(page, "Download PNG")
    assert asked == []
    page.evaluate("setTimeout(() => location.reload())")
    page.wait_for_timeout(500)
    assert asked == ["beforeunload"]
    assert page.locator("#strip li").count() == 3
    downloaded(page, "All as ZIP")
    page.reload()
    assert asked == ["beforeunload"]


OVER = """kind => {
  const transfer = new DataTransfer();
  if (kind === "file") transfer.items.add(new File([], "a.png", { type: "image/png" }));
  else transfer.setData("text/plain", "text");
  document.body.dispatchEvent(new DragEvent("dragover", { dataTransfer: transfer, bubbles: true }));
}"""


def test_only_files_are_asked_to_be_let_go(visit: Open) -> None:
    page = visit()
    page.evaluate(OVER, "text")
    assert not page.get_by_text("Let go to add").is_visible()
    page.evaluate(OVER, "file")
    assert page.get_by_text("Let go to add").is_visible()


def test_the_page_works_below_any_path(visit: Open, server: Running) -> None:
    page = visit()
    asked: list[str] = []
    page.route(
        "**/tools/cut/**", lambda route: route.continue_(url=route.request.url.replace("/tools/cut", ""))
    )
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server.address}/tools/cut/")
    page.get_by_role("button", name="Try the example").click()
    settled(page)
    assert {f"{server.address}/tools/cut/{path}" for path in ("v1/models", "v1/cut", "static/page.js")} <= {
        *asked
    }
    assert all(url.startswith((f"{server.address}/tools/cut/", "blob:")) for url in asked)


def test_models_and_labels_are_those_of_the_server(visit: Open) -> None:
    page = visit()
    models = [
        {"name": "tiny", "task": "matte"},
        {"name": "large", "task": "matte"},
        {"name": "maskformer", "task": "segment", "labels": ["cat", "dog"]},
    ]
    sent = []

    def answer(route: Any) -> None:
        sent.append(route.request.post_data_buffer)
        route.fulfill(body=SQUARES, content_type="image/png")

    page.route("**/v1/models", lambda route: route.fulfill(json={"models": models}))
    page.route("**/v1/cut", answer)
    page.reload()
    page.get_by_label("Model").select_option("large")
    give(page, "a.png")
    page.get_by_label("Label", exact=True).check()
    page.get_by_label("Cut what is called").fill("dog")
    page.keyboard.press("Tab")
    settled(page)
    assert [b'name="model"\r\n\r\nlarge' in body for body in sent] == [True, True]
    assert [b'name="what"\r\n\r\ndog' in body for body in sent] == [False, True]
