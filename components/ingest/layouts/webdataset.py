"""WebDataset shards: tars in which the files of one sample follow each other and share a name up to the first dot.

A shard may be compressed as a whole (.tar.gz, .tgz).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import IO, Any

from components.ingest.labels import parse_label
from components.ingest.layouts import archives
from components.ingest.layouts.archives import Member
from components.ingest.layouts.base import ScanContext, SourcePart, SourceParts, file_parts
from components.ingest.source_images import NO_LABEL, SourceImage, ilsvrc_stem, with_key

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
TARS = (".tar", ".tar.gz", ".tgz")
MAX_LABEL_BYTES = 1 << 20
SHOWN = 3
"""Files of a sample that a message names."""


def find_parts(context: ScanContext) -> SourceParts:
    """One part a shard. Raises `DataError` for a missing or empty source."""
    return file_parts(context, lambda path: path.endswith(TARS))


def scan_part(context: ScanContext, part: SourcePart) -> Iterator[SourceImage]:
    """Every sample of a shard; one without an image, or without a class where classes are wanted, has a reason.

    A name that comes again begins another sample. Where no file has the suffix of an image alone, each that ends in
    one is named with the reason.
    """
    with archives.open_plain(context, part, "webdataset") as (stream, template):
        members = archives.walk(part.path, stream, left_out=context.left_out)
        for sample, by_suffix in _samples(members):
            pictures = [suffix for suffix in by_suffix if suffix.rpartition(".")[2] in IMAGES]
            if pictures and not set(pictures) & set(IMAGES):
                reason = (
                    f"a sample's name ends at its first dot, so .{{}} is not an image of {sample!r}: rename the files"
                )
                for suffix in pictures:
                    source = f"{template.source}#{by_suffix[suffix].name}"
                    image = template._replace(source=source, reason=reason.format(suffix))
                    yield with_key(image, context.config, by_suffix[suffix].name)
                continue
            if len(pictures) > 1:
                context.left_out["further pictures of a sample"] += len(pictures) - 1
            yield _source_image(context, stream, template, sample, by_suffix)


def _samples(members: Iterable[Member]) -> Iterator[tuple[str, dict[str, Member]]]:
    """Name and files by suffix of each sample: neighbours with one name, until a suffix comes again."""
    current, by_suffix = "", dict[str, Member]()
    for member in members:
        folder, slash, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        sample, suffix = folder + slash + stem, suffix.lower()
        if by_suffix and (sample != current or suffix in by_suffix):
            yield current, by_suffix
            by_suffix = {}
        current, by_suffix[suffix] = sample, member
    if by_suffix:
        yield current, by_suffix


def _source_image(
    context: ScanContext, stream: IO[bytes], template: SourceImage, sample: str, by_suffix: dict[str, Member]
) -> SourceImage:
    picture = next((by_suffix[suffix] for suffix in IMAGES if suffix in by_suffix), None)
    source = f"{template.source}#{picture.name if picture else sample}"
    reason = next((member.reason for member in by_suffix.values() if member.reason), "")
    if picture is None:
        shown = ", ".join(sorted(by_suffix)[:SHOWN]) + (", …" if len(by_suffix) > SHOWN else "")
        reason = reason or f"no image among its files ({shown})"
        return with_key(template._replace(source=source, reason=reason), context.config, sample)
    labels: dict[str, Any] = {}
    name, label = "", NO_LABEL
    if not reason:
        try:
            labels = _read_labels(stream, by_suffix)
            name, label = _class_of(labels)
        except ValueError as error:
            reason = f"its label cannot be read ({error})" if context.config.labelled else ""
    if context.config.labelled and not (reason or name or label != NO_LABEL):
        reason = "no class in its .cls or .json"
    image = template._replace(
        name=name, label=label, source=source, offset=picture.offset, size=picture.size, reason=reason
    )
    filename = str(labels.get("filename", ""))
    return with_key(image, context.config, filename if ilsvrc_stem(filename) else sample)


def _read_labels(stream: IO[bytes], by_suffix: dict[str, Member]) -> dict[str, Any]:
    """The text of `.cls` as field `cls` and the fields of `.json`, whose own `cls` is taken for a missing `label`.

    Raises:
        ValueError: a file is too large, not UTF-8, or no JSON object.
    """
    labels: dict[str, Any] = {}
    for suffix in ("cls", "json"):
        if suffix not in by_suffix:
            continue
        if by_suffix[suffix].size > MAX_LABEL_BYTES:
            raise ValueError(f"{by_suffix[suffix].size} bytes of .{suffix}")
        text = archives.read(stream, by_suffix[suffix]).decode("utf-8").strip()
        if suffix == "cls":
            labels["cls"] = text
            continue
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError(f".json holds a {type(fields).__name__} instead of fields")
        if "cls" in fields:
            fields.setdefault("label", fields.pop("cls"))
        labels |= fields
    return labels


def _class_of(labels: dict[str, Any]) -> tuple[str, int]:
    """Class name and number: a wnid before a number, the field `cls` before `label`."""
    for key in ("wnid", "synset"):
        if isinstance(labels.get(key), str) and labels[key]:
            return labels[key], NO_LABEL
    return parse_label(labels.get("cls", labels.get("label")))
