"""`vimctl compare`'s page: one self-contained file of several runs, made from their reports."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser

from components.report import compare, paper_comparison, templating
from components.report.compare import Run
from components.report.grids import Picture

EMBEDDED = "data:image/png;base64,"


def render(runs: Sequence[Run]) -> str:
    """The page as HTML without scripts or outside references. All text is escaped."""
    lines, refusals = compare.compare(runs)
    return templating.render(
        "compare.html",
        runs=runs,
        lines=lines,
        refusals=refusals,
        settings=compare.settings_that_differ(runs),
        recorded=all("settings" in run.record for run in runs),
        costs=compare.costs(runs),
        tables=paper_comparison.tables([(run.name, run.record) for run in runs]),
    )


def pictures(html: str) -> dict[str, tuple[Picture, ...]]:
    """Embedded pictures of a report's page by the section they are in; others are left out."""
    reader = _PictureReader()
    reader.feed(html)
    return {section: tuple(pictures) for section, pictures in reader.pictures.items()}


class _PictureReader(HTMLParser):
    """Collects the pictures of each section with their captions."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: dict[str, list[Picture]] = {}
        self._section = ""
        self._caption = ""
        self._in_caption = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "section":
            self._section = values.get("aria-labelledby", "")
        elif tag == "span" and values.get("class") == "class":
            self._caption, self._in_caption = "", True
        elif tag == "img" and values.get("src", "").startswith(EMBEDDED):
            width, height = (int(values[name]) if values.get(name, "").isdigit() else 0 for name in ("width", "height"))
            picture = Picture(values["src"], width, height, 1, values.get("alt", ""), self._caption)
            self.pictures.setdefault(self._section, []).append(picture)
            self._caption = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "span":
            self._in_caption = False

    def handle_data(self, data: str) -> None:
        if self._in_caption:
            self._caption += data
