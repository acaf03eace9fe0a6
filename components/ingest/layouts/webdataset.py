"""WebDataset shards: tars in which the files of one sample follow each other and share a name up to the first dot.

A shard may be compressed as a whole (.tar.gz, .tgz).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import IO, Any

from components.ingest.layouts import archives, gzipped
from components.ingest.layouts.archives import Member
from components.ingest.layouts.base import Container, Found, Job, by_side, state_of
from components.ingest.locator import UNKNOWN, Located, ilsvrc_stem, keyed
from vim_core.data import folders

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
LABELS = ("cls", "json")
TARS = (".tar", ".tar.gz", ".tgz")
MOST = 1 << 20
"""Bytes of a label file that are read at most."""


def find(job: Job) -> Found:
    """One part a shard. Raises `DataError` for a missing or empty source."""
    tars = [entry for entry in folders.list_files(job.config.source) if entry.path.endswith(TARS)]
    taken, left_out = by_side(job.config, tars)
    return Found([Container(e.path, state_of(e), split) for e, split in taken], left_out)


def scan(job: Job, container: Container) -> Iterator[Located]:
    """Every sample of a shard; one without an image, or without a class where classes are wanted, has a reason."""
    with gzipped.opened(job, container, "webdataset") as (stream, blank):
        for sample, members in groupby(archives.walk(container.path, stream), key=lambda member: _parts(member)[0]):
            yield _sample(job, stream, blank, sample, list(members))


def _parts(member: Member) -> tuple[str, str]:
    folder, slash, name = member.name.rpartition("/")
    stem, _, suffix = name.partition(".")
    return folder + slash + stem, suffix.lower()


def _sample(job: Job, stream: IO[bytes], blank: Located, sample: str, members: list[Member]) -> Located:
    found = {_parts(member)[1]: member for member in members}
    picture = next((found[suffix] for suffix in IMAGES if suffix in found), None)
    source = f"{blank.source}#{picture.name if picture else sample}"
    reason = next((member.reason for member in members if member.reason), "")
    if picture is None:
        reason = reason or f"no image among its files ({', '.join(sorted(found))})"
        return keyed(blank._replace(source=source, reason=reason), job.config, sample)
    said: dict[str, Any] = {}
    if not reason:
        try:
            said = _labels(stream, found)
        except ValueError as error:
            reason = f"its label cannot be read ({error})"
    name, label = _class_of(said)
    if job.config.labelled and not (reason or name or label != UNKNOWN):
        reason = "no class in its .cls or .json"
    image = blank._replace(
        name=name, label=label, source=source, offset=picture.offset, size=picture.size, reason=reason
    )
    filename = str(said.get("filename", ""))
    return keyed(image, job.config, filename if ilsvrc_stem(filename) else sample)


def _labels(stream: IO[bytes], found: dict[str, Member]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for suffix in LABELS:
        if suffix in found:
            if found[suffix].size > MOST:
                raise ValueError(f"{found[suffix].size} bytes of .{suffix}")
            text = archives.read(stream, found[suffix]).decode("utf-8").strip()
            said |= {"cls": text} if suffix == "cls" else _mapping(text)
    return said


def _mapping(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f".json holds a {type(value).__name__} instead of fields")
    return {key: entry for key, entry in value.items() if key != "cls"} | (
        {"label": value["cls"]} if "cls" in value and "label" not in value else {}
    )


def _class_of(said: dict[str, Any]) -> tuple[str, int]:
    """A class name (wnid) before a number; `.cls` before what `.json` says."""
    for key in ("wnid", "synset"):
        if isinstance(said.get(key), str) and said[key]:
            return said[key], UNKNOWN
    value = said.get("cls", said.get("label"))
    if isinstance(value, bool) or value is None or value == "":
        return "", UNKNOWN
    text = str(value)
    return ("", int(text)) if text.isdigit() else (text, UNKNOWN)
