"""TFRecord files with ImageNet's feature names, read without TensorFlow: framing with checksums, Example messages.

Record: length (8 bytes, little endian), masked crc32c of it (4), data, masked crc32c of the data (4); see
tensorflow.org/tutorials/load_data/tfrecord. Example is protocol-buffer message `Features{map<string, Feature>}`.
A file may be compressed as a whole by gzip, whatever its name: TensorFlow's writer adds no suffix.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import IO, NamedTuple

from components.ingest.labels import parse_label
from components.ingest.layouts import archives
from components.ingest.layouts.base import ScanContext, SourcePart, SourceParts, file_parts, unreadable
from components.ingest.source_images import NO_LABEL, SourceImage, with_key
from vim_core.errors import ConfigError

FILE_NAME = re.compile(r"(.*\.tfrecords?|.*\.tfrecords?-\d+-of-\d+|[^.]*-\d{5}-of-\d{5})(\.gz)?$")
"""Names of TFRecord files; ImageNet's are `train-00000-of-01024` and `validation-00000-of-00128`."""

ENCODED, LABEL, SYNSET, NAME = "image/encoded", "image/class/label", "image/class/synset", "image/filename"
MASK = 0xA282EAD8
HEAD = 12
"""Bytes of a record's length and its checksum."""
OTHER_BYTES = 1 << 20
"""Bytes that a record may have beside its image."""


Value = slice | int | float
"""A value of a feature: where its bytes lie in the record, or the number itself."""


class Record(NamedTuple):
    """One record: the offset of its data in the file, the data, or the reason why it cannot be read."""

    offset: int
    data: bytes
    reason: str = ""


def find_parts(context: ScanContext) -> SourceParts:
    """One part a file. Raises `DataError` for a missing or empty source, `ConfigError` without google-crc32c."""
    _masked_checksum(b"")
    return file_parts(context, lambda path: bool(FILE_NAME.match(path.rsplit("/", 1)[-1])))


def scan_part(context: ScanContext, part: SourcePart) -> Iterator[SourceImage]:
    """Every record of a file; a damaged one has a reason."""
    with archives.open_plain(context, part, "tfrecord", is_compressed) as (stream, template):
        for number, record in enumerate(records(part.path, stream, context.config.max_bytes + OTHER_BYTES)):
            yield _source_image(context, template._replace(source=f"{part.path}#{number}"), record)


def is_compressed(head: bytes) -> bool:
    """True for the first bytes of a gzip stream; a record's length may look like one, but its checksum agrees."""
    return archives.is_gzip(head) and not _is_record_head(head)


def _is_record_head(head: bytes) -> bool:
    return len(head) == HEAD and _masked_checksum(head[:8]) == struct.unpack("<I", head[8:])[0]


def _source_image(context: ScanContext, template: SourceImage, record: Record) -> SourceImage:
    reason, name, label, start, size, filename = record.reason, "", NO_LABEL, 0, 0, ""
    if not reason:
        try:
            features = parse_example(record.data)
            picture = _one(features, ENCODED)
            if not isinstance(picture, slice):
                raise ValueError(f"{ENCODED} holds no bytes")
            start, size = picture.start, picture.stop - picture.start
            name, filename = (str(_value(record, features, key) or "") for key in (SYNSET, NAME))
            if not name and context.config.labelled:
                # As it stands: from where the labels count is known once all are (see `plan`).
                name, label = parse_label(_value(record, features, LABEL))
        except KeyError:
            reason = f"a record without {ENCODED}"
        except (ValueError, IndexError, struct.error) as error:
            reason = f"not an Example message of an image ({error})"
    if context.config.labelled and not (reason or name or label != NO_LABEL):
        reason = f"neither {SYNSET} nor a {LABEL}"
    image = template._replace(name=name, label=label, offset=record.offset + start, size=size, reason=reason)
    return with_key(image, context.config, filename)


def records(path: str, stream: IO[bytes], most: int) -> Iterator[Record]:
    """The records of an open file, their checksums checked; records of more than `most` bytes are skipped unread.

    Raises:
        DataError: the file ends inside a record, or something else than a record follows.
    """
    offset = 0
    while head := stream.read(HEAD):
        if not _is_record_head(head):
            raise unreadable(path, f"no record begins at byte {offset}")
        (size,) = struct.unpack("<Q", head[:8])
        start, offset = offset + 12, offset + 16 + size
        if size > most:
            stream.seek(offset)
            yield Record(start, b"", f"a record of {size} bytes is more than ingest.max_bytes allows")
            continue
        data, check = stream.read(size), stream.read(4)
        if len(check) < 4:
            raise unreadable(path, f"ends inside the record at byte {start}")
        if _masked_checksum(data) != struct.unpack("<I", check)[0]:
            yield Record(start, b"", "the record's checksum does not agree with its data")
            continue
        yield Record(start, data)


def _one(features: dict[str, list[Value]], key: str) -> Value:
    """The only value of a feature. Raises `KeyError` for none, `ValueError` for several."""
    if len(features[key]) > 1:
        raise ValueError(f"{len(features[key])} values of {key}")
    return features[key][0]


def _value(record: Record, features: dict[str, list[Value]], key: str) -> str | int | float | None:
    """The only value of a feature, bytes as text; None without one. Raises `ValueError` for several."""
    if key not in features:
        return None
    value = _one(features, key)
    return record.data[value].decode() if isinstance(value, slice) else value


def parse_example(data: bytes) -> dict[str, list[Value]]:
    """The values of an Example's features by name; empty features are left out.

    Raises:
        ValueError, IndexError: the data are no such message.
    """
    features = {}
    for number, start, stop in _fields(data, 0, len(data)):
        if number != 1:
            continue
        for _, first, last in _fields(data, start, stop):  # one entry of the map
            entry = {field: (begin, end) for field, begin, end in _fields(data, first, last)}
            if 1 in entry and 2 in entry:
                values = list(_values(data, *entry[2]))
                if values:
                    features[data[slice(*entry[1])].decode()] = values
    return features


def _values(data: bytes, start: int, stop: int) -> Iterator[Value]:
    """The first values of a Feature, two at most: a feature of an image has one."""
    for kind, first, last in _fields(data, start, stop):
        for count, (_, begin, end) in enumerate(_fields(data, first, last)):
            if kind == 1:
                yield slice(begin, end)
            position = begin if kind != 1 else end
            while position < end and count < 2:
                if kind == 2:  # packed floats are a run of bytes, a single one is four
                    yield float(struct.unpack_from("<f", data, position)[0])
                    position += 4
                else:
                    value, position = _varint(data, position)
                    yield value - (1 << 64) if value >> 63 else value
                count += 1


def _fields(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of every field of a message; of integers those of their own bytes."""
    position = start
    while position < stop:
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == 0:
            end = _varint(data, position)[1]
        elif kind == 2:
            size, position = _varint(data, position)
            end = position + size
        elif kind in (1, 5):
            end = position + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"wire type {kind}")
        if end > stop:
            raise ValueError("a field that leaves its message")
        yield tag >> 3, position, end
        position = end


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The integer at a position, and the position behind it."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise ValueError("an integer of more than 64 bits")


def _masked_checksum(data: bytes) -> int:
    try:
        import google_crc32c
    except ImportError as error:
        raise ConfigError("ingest.layout='tfrecord': needs the package google-crc32c; install it") from error
    check = int(google_crc32c.value(data))
    return (((check >> 15) | (check << 17)) + MASK) & 0xFFFFFFFF
