"""The built-in handwritten digits."""

from __future__ import annotations

from collections.abc import Iterator

from components.ingest.layouts.base import ScanContext, SourcePart, SourceParts
from components.ingest.source_images import NO_LABEL, SourceImage


def find_parts(context: ScanContext) -> SourceParts:
    """All digits are one part."""
    return SourceParts([SourcePart("builtin:digits")])


def scan_part(context: ScanContext, part: SourcePart) -> Iterator[SourceImage]:
    """Every digit by its number."""
    from vim_core.data import digits

    for index in range(digits.count()):
        name, source = digits.CLASSES[digits.label(index)], f"{part.path}/{index}"
        yield SourceImage(digits.key(index), "digits", "", name, NO_LABEL, source, "digits", str(index))
