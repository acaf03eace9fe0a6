"""The built-in handwritten digits."""

from __future__ import annotations

from collections.abc import Iterator

from components.ingest.layouts.base import Container, Found, Job
from components.ingest.locator import UNKNOWN, Located


def find(job: Job) -> Found:
    """All digits are one part."""
    return Found([Container("builtin:digits")])


def scan(job: Job, container: Container) -> Iterator[Located]:
    """Every digit by its number."""
    from vim_core.data import digits

    for index in range(digits.count()):
        name = digits.CLASSES[digits.label(index)]
        source = f"{container.path}/{index}"
        yield Located(digits.key(index), "digits", "", name, UNKNOWN, source, "digits", str(index))
