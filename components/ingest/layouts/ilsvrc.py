"""ILSVRC's original archives: train is a tar of a tar per class, val one flat tar and a ground-truth file beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from components.ingest.labels import file_stem, label_resolver, read_truth
from components.ingest.layouts.archives import first_name, walk
from components.ingest.layouts.base import ScanContext, SourcePart, SourceParts, file_parts
from components.ingest.source_images import NO_LABEL, SourceImage, with_key
from vim_core.storage import io

GROUPS = 64
"""Groups that a thousand archives are scanned in: only their headers are read."""

WNID = re.compile(r"n\d{8}")


def find_parts(context: ScanContext) -> SourceParts:
    """One part a class of the training tar, one for a flat tar. Raises `DataError` for a missing or empty source."""
    source = context.config.source
    tars = file_parts(context, lambda path: path.endswith(".tar"))
    parts: list[SourcePart] = []
    for outer in tars.parts:
        if WNID.fullmatch(file_stem(outer.path)):
            parts.append(outer._replace(name=file_stem(outer.path)))
        elif first_name(io.join(source, outer.path)).endswith(".tar"):
            with io.open_read(io.join(source, outer.path)) as stream:
                for member in walk(outer.path, stream, left_out=context.left_out):
                    name, end = file_stem(member.name), member.offset + member.size
                    parts.append(outer._replace(name=name, kind=member.name, offset=member.offset, end=end))
        else:
            parts.append(outer)
    return SourceParts(parts, tars.left_out, group_size=1 + len(parts) // GROUPS)


def scan_part(context: ScanContext, part: SourcePart) -> Iterator[SourceImage]:
    """Every member of one tar."""
    shown = f"{part.path}#{part.kind}" if part.kind else part.path
    resolve = label_resolver(context.classes, read_truth(context.truth)) if context.truth else None
    with io.open_read(io.join(context.config.source, part.path)) as stream:
        for member in walk(shown, stream, part.offset, part.end, context.left_out):
            name, label, reason = part.name, NO_LABEL, member.reason
            if not (name or reason) and context.config.labelled:
                stem = file_stem(member.name)
                if WNID.match(stem):
                    name = stem[:9]
                elif resolve:
                    name, label, reason = resolve(stem)
                else:
                    reason = "no class: name a ground-truth file as ingest.val_labels"
            source = f"{shown}#{member.name}"
            image = SourceImage(
                "", "", part.split, name, label, source, "ilsvrc", part.path, member.offset, member.size, reason
            )
            yield with_key(image, context.config, member.name)
