"""The first pass of `ingest`: every image is located and keyed, and the lists are kept in the work folder by parts.

A part lists at most `PART` images, first a line about all of them, then a line each. No process ever holds the list of
all images, and the parts of an earlier attempt serve the next one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from components.contract.api import Context
from components.ingest.detect_layout import layout
from components.ingest.layouts.base import Container, Found, Job
from components.ingest.locator import Located, Reader, content_key
from vim_core.errors import DataError
from vim_core.storage import io

PART = 1000
"""Images a part lists at most."""

FEW = 16
"""Groups of parts below which naming by content is spread anew: a flat folder is one group."""


class Part(NamedTuple):
    """The first line of a part: what was asked, how many images, how many cannot be used, classes and rules of keys."""

    asked: str
    images: int
    dead: int
    names: dict[str, dict[str, int]]
    highest: int
    rules: dict[str, int]


def locate(job: Job, name: str, found: Found, ctx: Context) -> list[str]:
    """List and key all images through Beam; the URIs of the parts, in the order of the source."""
    import apache_beam as beam

    from components.engines.beam.runner import run_pipeline

    groups = list(enumerate(found.groups()))

    def build(pipeline: Any) -> None:
        parts = pipeline | "parts of the source" >> beam.Create(groups) | "spread" >> beam.Reshuffle()
        waiting = parts | "list" >> beam.FlatMapTuple(lambda number, group: scan(job, name, number, group))
        if len(groups) < FEW:
            waiting = waiting | "spread again" >> beam.Reshuffle()
        _ = waiting | "key" >> beam.Map(lambda uri: key_part(job, uri))

    run_pipeline(ctx.run, build)
    return [uri for number, _ in groups for uri in _uris(job, number, _record(job, number)["parts"])]


def scan(job: Job, name: str, number: int, group: Sequence[Container]) -> Iterator[str]:
    """List some parts of the source; gives the URIs of lists whose images still have to be named by their content."""
    known = all(container.state for container in group)
    state = repr((group, job.config.labelled, job.config.keys, job.truth)) if known else ""
    record = _record(job, number)
    if state and record.get("state") == state:
        yield from (uri for uri in _uris(job, number, record["parts"]) if not io.exists(uri))
        return
    images = chain.from_iterable(layout(name).scan(job, container) for container in group)
    count, waiting = 0, list[str]()
    while batch := list(islice(images, PART)):
        (uri,) = _uris(job, number, count + 1)[count:]
        if _list(uri, batch):
            waiting.append(uri)
        count += 1
    # only now: what a layout unpacks can be read once it is closed
    yield from waiting
    io.write_bytes(_record_uri(job, number), json.dumps({"state": state, "parts": count}).encode())


def _list(uri: str, batch: list[Located]) -> bool:
    """Write a part unless it is there already; whether its images still have to be named by their content."""
    asked = hashlib.sha256(repr(batch).encode()).hexdigest()
    head = read_head(uri)
    if head is not None and head.asked == asked:
        return False
    waiting = any(not image.key for image in batch)
    if waiting:
        io.remove_tree(uri)  # of other images: a part that is there has all its keys
    _write(uri + ".raw" if waiting else uri, asked, batch)
    return waiting


def key_part(job: Job, uri: str) -> None:
    """Name the images of a listed part by their content."""
    with Reader(job.config, job.work) as reader:
        head, images = read_part(uri + ".raw")
        _write(uri, head.asked, list(reader.each(images, lambda image: _named(reader, image))))


def _named(reader: Reader, image: Located) -> Located:
    try:
        return image if image.key else image._replace(key=content_key(reader.read(image)))
    except DataError as error:
        return image._replace(key=image.source, rule="path", reason=str(error))


def write_part(uri: str, images: Sequence[Located]) -> None:
    """Write a part whose images have their keys."""
    _write(uri, hashlib.sha256(repr(images).encode()).hexdigest(), images)


def _write(uri: str, asked: str, images: Sequence[Located]) -> None:
    names: dict[str, Counter[str]] = {}
    usable = [image for image in images if not image.reason]
    for image in usable:
        names.setdefault(image.split, Counter())[image.name] += 1
    highest = max((image.label for image in usable), default=-1)
    rules = Counter(image.rule for image in images)
    counts = {split: dict(found) for split, found in names.items()}
    head = Part(asked, len(images), len(images) - len(usable), counts, highest, dict(rules))
    io.write_bytes(uri, "\n".join(json.dumps(line) for line in (head, *images)).encode())


def read_head(uri: str) -> Part | None:
    """What a part says of itself; None where there is none."""
    try:
        with io.open_read(uri) as stream:
            return Part(*json.loads(stream.readline()))
    except FileNotFoundError:
        return None


def read_part(uri: str) -> tuple[Part, Iterator[Located]]:
    """A part and its images."""
    lines = iter(io.read_bytes(uri).splitlines())
    head = Part(*json.loads(next(lines)))
    return head, (Located(*json.loads(line)) for line in lines)


def _uris(job: Job, number: int, count: int) -> list[str]:
    return [io.join(job.work, "index", f"{number:06d}-{part:06d}.jsonl") for part in range(count)]


def _record_uri(job: Job, number: int) -> str:
    return io.join(job.work, "index", f"{number:06d}.json")


def _record(job: Job, number: int) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(io.read_bytes(_record_uri(job, number)))
        return found
    except FileNotFoundError:
        return {}
