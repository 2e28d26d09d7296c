"""Draw docs/page*.png: the server's page in Chromium, with the photographs of this folder.

    python examples/page.py

Needs the extras server and test, and Chromium on the PATH.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

from served import served  # noqa: E402 - the path is set above

PHOTOS = [HERE / name for name in ("coffee.jpg", "chelsea.jpg", "astronaut.jpg")]
SIGHTS: dict[str, dict[str, Any]] = {
    "page": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "page-dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "page-phone": {
        "viewport": {"width": 360, "height": 740},
        "color_scheme": "light",
        "device_scale_factor": 2,
    },
}


def cut(page: Page, photos: list[Path]) -> None:
    """Give the page pictures and wait until they are cut."""
    page.set_input_files("#files", photos)
    page.wait_for_selector("#download:enabled")
    page.wait_for_selector("#strip .waiting, #strip .sending, #strip .cutting", state="detached")


def main() -> None:
    """Visit, and photograph."""
    with served("--quiet") as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, options in SIGHTS.items():
            page = browser.new_page(**options)
            page.goto(server.address)
            if name == "page-phone":
                cut(page, PHOTOS[2:])
            else:
                cut(page, PHOTOS)
                page.locator("#strip button").last.click()
            if name == "page-dark":
                page.get_by_label("Colour", exact=True).check()
                page.get_by_label("Sage").click()
                page.wait_for_timeout(500)
                page.wait_for_selector("#download:enabled")
            page.wait_for_selector("#told:empty", state="attached")
            page.screenshot(path=HERE.parent / "docs" / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
