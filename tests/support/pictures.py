"""`python -m tests.support.pictures REPORT.html PICTURE.png`: README's picture of a report."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image

from tests.cluster.conftest import FLAGS

WIDTH, GAP, COLOURS = 1060, 24, 64
SHOWN = ("header", "section[aria-labelledby=tradeoff] .chart.large", "section[aria-labelledby=tradeoff] .pairwise")


def picture(page: Path) -> bytes:
    """The parts of a report that are there, below each other, as a small PNG. Needs Debian's chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        opened = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        opened.goto(page.absolute().as_uri())
        parts = [opened.locator(name) for name in SHOWN]
        shots = [Image.open(io.BytesIO(part.first.screenshot())).convert("RGB") for part in parts if part.count()]
        browser.close()
    return stacked(shots)


def stacked(shots: list[Image.Image]) -> bytes:
    """Pictures below each other on the colour of the page, in few colours."""
    height = sum(shot.height + GAP for shot in shots) + GAP
    whole = Image.new("RGB", (max(shot.width for shot in shots) + 2 * GAP, height), shots[0].getpixel((0, 0)))
    top = GAP
    for shot in shots:
        whole.paste(shot, (GAP, top))
        top += shot.height + GAP
    stream = io.BytesIO()
    whole.quantize(COLOURS).save(stream, "PNG", optimize=True)
    return stream.getvalue()


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(picture(Path(sys.argv[1])))
