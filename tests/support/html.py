"""Reading HTML in tests: tags, texts and attributes, embedded pictures; whether tags close in order."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from components.report.grids import Picture

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Checker(HTMLParser):
    """Collects tags, texts and attributes and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of all elements of this tag."""
        return [attributes for name, attributes in self.tags if name == tag]


def checked(html: str) -> Checker:
    """The content of a page or of a part of it, every tag of which is closed."""
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


def opened(picture: Picture) -> np.ndarray:
    """The pixels of an embedded picture, uint8 [H, W, 4]."""
    data = base64.b64decode(picture.source.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)))
