"""WebDataset shards: tars in which the files of one sample follow each other and share a name up to the first dot.

A shard may be compressed as a whole (.tar.gz, .tgz).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import IO, Any

from components.ingest.layouts import archives
from components.ingest.layouts.archives import Member
from components.ingest.layouts.base import ScanContext, SourcePart, SourceParts, file_parts
from components.ingest.source_images import NO_LABEL, SourceImage, ilsvrc_stem, with_key
from vim_core.data import folders

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
TARS = (".tar", ".tar.gz", ".tgz")
MAX_LABEL_BYTES = 1 << 20


def find_parts(context: ScanContext) -> SourceParts:
    """One part a shard. Raises `DataError` for a missing or empty source."""
    return file_parts(context.config, (e for e in folders.list_files(context.config.source) if e.path.endswith(TARS)))


def scan_part(context: ScanContext, part: SourcePart) -> Iterator[SourceImage]:
    """Every sample of a shard; one without an image, or without a class where classes are wanted, has a reason."""
    with archives.open_plain(context, part, "webdataset") as (stream, template):
        members = archives.walk(part.path, stream)
        for sample, group in groupby(members, key=lambda member: _split_name(member)[0]):
            yield _source_image(context, stream, template, sample, list(group))


def _split_name(member: Member) -> tuple[str, str]:
    """The name of a member's sample, and the rest behind the first dot in lower case."""
    folder, slash, name = member.name.rpartition("/")
    stem, _, suffix = name.partition(".")
    return folder + slash + stem, suffix.lower()


def _source_image(
    context: ScanContext, stream: IO[bytes], template: SourceImage, sample: str, members: list[Member]
) -> SourceImage:
    by_suffix = {_split_name(member)[1]: member for member in members}
    picture = next((by_suffix[suffix] for suffix in IMAGES if suffix in by_suffix), None)
    source = f"{template.source}#{picture.name if picture else sample}"
    reason = next((member.reason for member in members if member.reason), "")
    if picture is None:
        reason = reason or f"no image among its files ({', '.join(sorted(by_suffix))})"
        return with_key(template._replace(source=source, reason=reason), context.config, sample)
    labels: dict[str, Any] = {}
    if not reason:
        try:
            labels = _read_labels(stream, by_suffix)
        except ValueError as error:
            reason = f"its label cannot be read ({error})"
    name, label = _class_of(labels)
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
    value = labels.get("cls", labels.get("label"))
    if isinstance(value, bool) or value is None or value == "":
        return "", NO_LABEL
    text = str(value)
    return ("", int(text)) if text.isdigit() else (text, NO_LABEL)
