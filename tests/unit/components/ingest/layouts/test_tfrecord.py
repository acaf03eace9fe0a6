"""TFRecord framing against Beam's own writer, Example messages against protocol buffers' encoder."""

from __future__ import annotations

import io as memory
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from components.ingest.layouts.tfrecord import FILE_NAME, parse_example, records
from vim_core.errors import DataError


def messages() -> Any:
    """The class of TensorFlow's `Example`, made from its published definition."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    repeated, single = 3, 1
    for name, kind in (("BytesList", 12), ("FloatList", 2), ("Int64List", 3)):
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=repeated)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("BytesList", "FloatList", "Int64List"), start=1):
        feature.field.add(
            name=name.lower(), number=number, type=11, label=single, type_name=f".t.{name}", oneof_index=0
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=9, label=single)
    entry.field.add(name="value", number=2, type=11, label=single, type_name=".t.Feature")
    features.field.add(name="feature", number=1, type=11, label=repeated, type_name=".t.Features.FeatureEntry")
    outer = file.message_type.add(name="Example")
    outer.field.add(name="features", number=1, type=11, label=single, type_name=".t.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


EXAMPLE = messages()
VALUES = st.one_of(st.binary(max_size=300), st.integers(-(2**40), 2**40), st.floats(width=32, allow_nan=False))


@settings(deadline=None)
@given(st.dictionaries(st.text("abc/é€", max_size=20), VALUES, max_size=6))
def test_features_are_those_of_protocol_buffers(features: dict[str, bytes | int | float]) -> None:
    message = EXAMPLE()
    for name, value in features.items():
        kind = {bytes: "byteslist", int: "int64list", float: "floatlist"}[type(value)]
        getattr(message.features.feature[name], kind).value.append(value)
    data = message.SerializeToString()
    found = parse_example(data)
    assert {name: [data[v] if isinstance(v, slice) else v for v in values] for name, values in found.items()} == {
        name: [value] for name, value in features.items()
    }


def written(records_data: list[bytes]) -> bytes:
    """A file of these records by Beam's own writer, which takes seconds to import."""
    from apache_beam.io.tfrecordio import _TFRecordUtil

    stream = memory.BytesIO()
    for data in records_data:
        _TFRecordUtil.write_record(stream, data)
    return stream.getvalue()


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_records_of_beams_writer_are_read_where_they_lie(given_data: list[bytes]) -> None:
    whole = written(given_data)
    found = list(records("file", memory.BytesIO(whole), 100))
    assert [record.data for record in found] == given_data
    assert [whole[r.offset : r.offset + len(r.data)] for r in found] == given_data


def test_damage_is_one_image_or_a_refusal() -> None:
    whole = written([b"one" * 9, b"two" * 9, b"three" * 9])
    flipped = bytearray(whole)
    flipped[12 + 27 + 4 + 12 + 5] ^= 4
    found = list(records("file", memory.BytesIO(bytes(flipped)), 100))
    assert [bool(record.reason) for record in found] == [False, True, False]
    found = list(records("file", memory.BytesIO(whole), 30))
    assert found[2].reason == "a record of 45 bytes is more than ingest.max_bytes allows"
    for cut, message in ((len(whole) - 1, "ends inside the record"), (30, "ends inside"), (50, "no record begins at")):
        with pytest.raises(DataError, match=f"shard-7: {message}"):
            list(records("shard-7", memory.BytesIO(whole[:cut]), 100))
    with pytest.raises(DataError, match="no record begins at byte 0"):
        list(records("shard-7", memory.BytesIO(b"\x1f\x8b" + bytes(40)), 100))


@pytest.mark.parametrize("data", [b"\xff" * 30, b"\x0a\x7f", b"\x0b", b"\x0a\x05\x0a\x03\x0a"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        parse_example(data)


def test_names_of_tfrecord_files() -> None:
    for name in (
        "train-00000-of-01024",
        "validation-00127-of-00128",
        "a.tfrecord",
        "a.tfrecords",
        "a.tfrecord-00001-of-00002",
        "a.tfrecord.gz",
        "train-00000-of-01024.gz",
    ):
        assert FILE_NAME.match(name), name
    for name in ("train-00000-of-00294.parquet", "train-000000.tar", "notes.txt", "a.tfrecord.md", "a.gz"):
        assert not FILE_NAME.match(name), name
