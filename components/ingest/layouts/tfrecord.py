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

from components.ingest.layouts import gzipped
from components.ingest.layouts.base import Container, Found, Job, by_side, state_of, unreadable
from components.ingest.locator import UNKNOWN, Located, keyed
from vim_core.data import folders
from vim_core.errors import ConfigError

NAMED = re.compile(r"(.*\.tfrecords?|.*\.tfrecords?-\d+-of-\d+|[^.]*-\d{5}-of-\d{5})(\.gz)?$")
"""Names of TFRecord files; ImageNet's are `train-00000-of-01024` and `validation-00000-of-00128`."""

ENCODED, LABEL, SYNSET, NAME = "image/encoded", "image/class/label", "image/class/synset", "image/filename"
MASK = 0xA282EAD8
HEAD = 12
EXTRA = 1 << 20
"""Bytes a record may have beside its image."""


class Record(NamedTuple):
    """One record: where its data begin, the data, or why it cannot be read."""

    offset: int
    data: bytes
    reason: str = ""


def find(job: Job) -> Found:
    """One part a file. Raises `DataError` for a missing or empty source, `ConfigError` without google-crc32c."""
    _checksum(b"")
    files = [entry for entry in folders.list_files(job.config.source) if NAMED.match(entry.path.rsplit("/", 1)[-1])]
    taken, left_out = by_side(job.config, files)
    return Found([Container(e.path, state_of(e), split) for e, split in taken], left_out)


def scan(job: Job, container: Container) -> Iterator[Located]:
    """Every record of a file; a damaged one has a reason."""
    with gzipped.opened(job, container, "tfrecord", _packed) as (stream, blank):
        for number, record in enumerate(records(container.path, stream, job.config.max_bytes + EXTRA)):
            yield _image(job, blank._replace(source=f"{container.path}#{number}"), record)


def _packed(head: bytes) -> bool:
    """A length of the right size looks like gzip's first bytes, but its checksum agrees."""
    return gzipped.compressed(head) and not _begins(head)


def _begins(head: bytes) -> bool:
    return len(head) == HEAD and _masked(head[:8]) == struct.unpack("<I", head[8:])[0]


def _image(job: Job, blank: Located, record: Record) -> Located:
    reason, name, label, place, size, filename = record.reason, "", UNKNOWN, 0, 0, ""
    if not reason:
        try:
            found = example(record.data)
            place, size = found[ENCODED]
            name, filename = (_text(record.data, found.get(key)) for key in (SYNSET, NAME))
            # TensorFlow's conversion counts classes from 1: 0 is the background
            label = UNKNOWN if name or LABEL not in found else found[LABEL][0] - 1
        except KeyError:
            reason = f"a record without {ENCODED}"
        except (ValueError, IndexError) as error:
            reason = f"not an Example message ({error})"
    if job.config.labelled and not (reason or name or label >= 0):
        reason = f"neither {SYNSET} nor a {LABEL} from 1 on"
    image = blank._replace(name=name, label=label, offset=record.offset + place, size=size, reason=reason)
    return keyed(image, job.config, filename)


def records(path: str, stream: IO[bytes], most: int) -> Iterator[Record]:
    """The records of an open file with their checksums checked; more than `most` bytes are passed over unread.

    Raises:
        DataError: the file ends inside a record, or something else than a record follows.
    """
    offset = 0
    while head := stream.read(HEAD):
        if not _begins(head):
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
        if _masked(data) != struct.unpack("<I", check)[0]:
            yield Record(start, b"", "the record's checksum does not agree with its data")
            continue
        yield Record(start, data)


def example(data: bytes) -> dict[str, tuple[int, int]]:
    """The features of an Example by name: place and size of the first bytes value, or the first integer and 0.

    Raises:
        ValueError, IndexError: the data are no such message.
    """
    found = {}
    for number, start, stop in _fields(data, 0, len(data)):
        if number != 1:
            continue
        for _, first, last in _fields(data, start, stop):  # one entry of the map
            entry = {field: (begin, end) for field, begin, end in _fields(data, first, last)}
            if 1 in entry and 2 in entry:
                value = _value(data, *entry[2])
                if value is not None:
                    found[data[slice(*entry[1])].decode()] = value
    return found


def _value(data: bytes, start: int, stop: int) -> tuple[int, int] | None:
    for kind, first, last in _fields(data, start, stop):
        for _, begin, end in _fields(data, first, last):
            if kind == 1:
                return begin, end - begin
            if kind == 3:  # packed integers are a run of bytes, a single one begins where its own bytes do
                return _varint(data, begin)[0], 0
    return None


def _fields(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Number and extent of every field of a message; of integers the extent of their own bytes."""
    place = start
    while place < stop:
        tag, place = _varint(data, place)
        kind = tag & 7
        if kind == 0:
            end = _varint(data, place)[1]
        elif kind == 2:
            size, place = _varint(data, place)
            end = place + size
        elif kind in (1, 5):
            end = place + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"wire type {kind}")
        if end > stop:
            raise ValueError("a field that leaves its message")
        yield tag >> 3, place, end
        place = end


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
        if shift > 63:
            raise ValueError("an integer of more than 64 bits")


def _text(data: bytes, extent: tuple[int, int] | None) -> str:
    return "" if extent is None else data[extent[0] : sum(extent)].decode()


def _masked(data: bytes) -> int:
    check = _checksum(data)
    return (((check >> 15) | (check << 17)) + MASK) & 0xFFFFFFFF


def _checksum(data: bytes) -> int:
    try:
        import google_crc32c
    except ImportError as error:
        raise ConfigError("ingest.layout='tfrecord': needs the package google-crc32c; install it") from error
    return int(google_crc32c.value(data))
