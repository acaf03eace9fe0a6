"""ILSVRC's original archives: train is a tar of a tar per class, val one flat tar and a ground-truth file beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from components.ingest.labels import read_truth, resolver, stem_of
from components.ingest.layouts import archives
from components.ingest.layouts.base import Container, Found, Job, by_side, state_of
from components.ingest.locator import UNKNOWN, Located, keyed
from vim_core.data import folders
from vim_core.storage import io

GROUPS = 64
"""Workers that a thousand archives are spread over: only their headers are read."""

WNID = re.compile(r"n\d{8}")


def find(job: Job) -> Found:
    """One part a class of the training tar, one for a flat tar. Raises `DataError` for a missing or empty source."""
    source = job.config.source
    tars = [entry for entry in folders.list_files(source) if entry.path.endswith(".tar")]
    taken, left_out = by_side(job.config, tars)
    parts: list[Container] = []
    for entry, split in taken:
        whole = Container(entry.path, state_of(entry), split)
        if WNID.fullmatch(stem_of(entry.path)):
            parts.append(whole._replace(name=stem_of(entry.path)))
        elif archives.first(io.join(source, entry.path)).endswith(".tar"):
            parts += _classes(source, whole)
        else:
            parts.append(whole)
    return Found(parts, left_out, together=1 + len(parts) // GROUPS)


def _classes(source: str, whole: Container) -> Iterator[Container]:
    with io.open_read(io.join(source, whole.path)) as stream:
        for member in archives.walk(whole.path, stream):
            end = member.offset + member.size
            yield whole._replace(name=stem_of(member.name), kind=member.name, offset=member.offset, end=end)


def scan(job: Job, container: Container) -> Iterator[Located]:
    """Every member of one tar."""
    here = f"{container.path}#{container.kind}" if container.kind else container.path
    resolve = resolver(job.classes, read_truth(job.truth)) if job.truth else None
    with io.open_read(io.join(job.config.source, container.path)) as stream:
        for member in archives.walk(here, stream, container.offset, container.end):
            name, label, reason = container.name, UNKNOWN, member.reason
            if not (name or reason) and job.config.labelled:
                stem = stem_of(member.name)
                if WNID.match(stem):
                    name = stem[:9]
                elif resolve:
                    name, label, reason = resolve(stem)
                else:
                    reason = "no class: name a ground-truth file as ingest.val_labels"
            source = f"{here}#{member.name}"
            place = (container.path, member.offset, member.size, reason)
            found = Located("", "", container.split, name, label, source, "ilsvrc", *place)
            yield keyed(found, job.config, member.name)
