"""In a browser: the report and the comparison fit a desk, a phone and paper, in light and dark, without a mouse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import compare
from tests.conftest import SmokeRun
from tests.support import reported

pytestmark = [pytest.mark.cluster, pytest.mark.browser]

CONTRAST = """() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = c => { const v = c / 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const luminance = c => 0.2126 * light(c[0]) + 0.7152 * light(c[1]) + 0.0722 * light(c[2]);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const c = numbers(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const front = luminance(numbers(element.closest("svg") ? style.fill : style.color));
    const back = luminance(behind(element));
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    if (ratio < 4.5) bad.push(`${ratio.toFixed(2)} ${text.slice(0, 40)}`);
  }
  return bad;
}"""
"""Texts whose contrast is below 4.5 to 1, the bar of WCAG 2 (level AA) for text of usual size."""

A4 = 720
"""Pixels across the printed part of a page, at 96 to an inch."""

STOPS = "a[href], summary, [tabindex='0'], input"


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of everything it can show, and it beside another one with one figure of other protocol."""
    root = tmp_path_factory.mktemp("reported")
    page = reported.published(root / "one")
    other = reported.published(root / "other").parent
    text = (other / "results.json").read_text().replace('"count": 9,', '"count": 8,')
    (other / "results.json").write_text(text)
    compare.write([str(page.parent), str(other)], [], str(root / "compare.html"))
    return {"report": page, "compare": root / "compare.html"}


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page; at the end no page may have had an error or fetched anything."""
    pages: list[Any] = []
    problems: list[str] = []

    def visit(path: Path, width: int = 1200, **options: Any) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if _outside(request.url) else None)
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield visit
    for page in pages:
        page.close()
    assert problems == []


def _outside(url: str) -> bool:
    return not url.startswith(("file:", "data:"))


@pytest.mark.parametrize("width", [1200, 390, 320])
@pytest.mark.parametrize("name", ["report", "compare"])
def test_it_fits_the_screen_closed_and_open_and_its_pictures_have_words(
    opened: Callable[..., Any], made_up: dict[str, Path], name: str, width: int
) -> None:
    page = opened(made_up[name], width)
    assert page.evaluate("document.images.length") > 3
    assert page.evaluate("[...document.images].filter(image => image.naturalWidth === 0 || !image.alt).length") == 0
    assert page.evaluate("[...document.querySelectorAll('svg[role=img]')].filter(s => !s.ariaLabel).length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1200, 390])
def test_the_report_of_a_real_run_fits_and_shows_its_pictures(
    opened: Callable[..., Any], smoke_run: SmokeRun, width: int
) -> None:
    page = opened(Path(smoke_run.root, "reports", "smoke", "report.html"), width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter(image => !image.complete || image.naturalWidth === 0).length"
    assert page.evaluate("document.images.length") > 0
    assert page.evaluate(broken) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "compare"])
def test_texts_stand_out(opened: Callable[..., Any], made_up: dict[str, Path], name: str, scheme: str) -> None:
    page = opened(made_up[name], color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("name", ["report", "compare"])
def test_everything_is_reached_by_tab_in_the_order_of_the_page(
    opened: Callable[..., Any], made_up: dict[str, Path], name: str
) -> None:
    page = opened(made_up[name])
    wanted = page.evaluate(f"[...document.querySelectorAll({STOPS!r})].filter(e => e.checkVisibility()).length")
    page.evaluate(
        f"[...document.querySelectorAll({STOPS!r})].filter(e => e.checkVisibility()).forEach((e, i) => e.stop = i)"
    )
    reached = []
    for _ in range(wanted):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.stop ?? -1"))
    assert reached == list(range(wanted))


def test_enter_opens_a_row_and_the_first_link_skips_to_the_content(
    opened: Callable[..., Any], made_up: dict[str, Path]
) -> None:
    page = opened(made_up["report"])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    while page.evaluate("document.activeElement.tagName + document.activeElement.parentElement.open") != "SUMMARYfalse":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_paper_shows_the_tables_that_the_screen_folds(opened: Callable[..., Any], made_up: dict[str, Path]) -> None:
    page = opened(made_up["report"], A4)
    cell = page.locator("text=ViT-VQGAN + VIM-Large").first
    assert not cell.is_visible()
    page.emulate_media(media="print")
    assert cell.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator(".skip").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= A4
    assert page.pdf(format="A4").startswith(b"%PDF")
