"""Labels in the forms that people keep them in, and the classes that follow from them: without Beam."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.ingest import index
from components.ingest.class_lists import find_classes, first_label
from components.ingest.component import source_state
from components.ingest.detect_layout import LAYOUTS, detect_layout, scan_context
from components.ingest.index import count_images, write_chunks
from components.ingest.plan import IngestPlan, assigner
from components.ingest.source_images import SourceImage
from tests.support import layouts
from vim_core.config import IngestConfig
from vim_core.errors import DataError

Values = list[Any]


def pictures(labels: Values) -> list[tuple[str, bytes, Any]]:
    """Name, bytes and label of an image each."""
    return [(f"{number:03d}", b"picture %d" % number, label) for number, label in enumerate(labels)]


def cls(root: Path, labels: Values) -> Path:
    files = [[(f"{name}.jpg", data), (f"{name}.cls", str(label).encode())] for name, data, label in pictures(labels)]
    layouts.tar(root / "photos-0.tar", chain.from_iterable(files))
    return root


def as_json(root: Path, labels: Values) -> Path:
    said = [json.dumps({"label": label.decode() if isinstance(label, bytes) else label}) for label in labels]
    files = [[(f"{name}.jpg", data), (f"{name}.json", text.encode())] for name, data, text in pictures(said)]
    layouts.tar(root / "photos-0.tar", chain.from_iterable(files))
    return root


def parquet(root: Path, labels: Values) -> Path:
    root.mkdir()
    images = [data for _, data, _ in pictures(labels)]
    pq.write_table(pa.table({"image": images, "label": labels}), root / "photos.parquet")
    return root


def tfrecord(root: Path, labels: Values) -> Path:
    root.mkdir()
    with open(root / "photos.tfrecord", "wb") as stream:
        for _, data, label in pictures(labels):
            many = label if isinstance(label, list) else [label]
            values = [each.encode() if isinstance(each, str) else each for each in many]
            stream.write(layouts.record(layouts.example({"image/encoded": data, "image/class/label": values})))
    return root


WRITERS = {"cls": cls, "as_json": as_json, "parquet": parquet, "tfrecord": tfrecord}


def assigned(work: Path, source: Path, **changes: Any) -> tuple[tuple[str, ...], list[SourceImage]]:
    """The classes of a source, and its images in order with their labels."""
    config = IngestConfig(source=str(source), **changes)
    layout = detect_layout(config)
    context = scan_context(config, layout, str(work))
    parts = LAYOUTS[layout].find_parts(context)
    images = list(chain.from_iterable(LAYOUTS[layout].scan_part(context, part) for part in parts.parts))
    counts = count_images(write_chunks(iter(images), str(work / "chunks")))
    classes, numbers = find_classes(context, layout, parts, counts, first_label(layout, counts))
    plan = IngestPlan(layout, [], classes, len(images), 0, 0, label_numbers=numbers)
    return classes.ids, list(map(assigner(config, plan), images))


COUNTED, NEGATIVE = [0, 1, 2] * 8, [0, 1, -1] * 8
"""Labels from 0; and with -1 for those that have none."""


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("whole", COUNTED), ("negative", NEGATIVE), ("float", [float(label) for label in COUNTED]),
        ("list", [[label] for label in COUNTED]), ("text", [str(label) for label in COUNTED]),
        ("bytes", [str(label).encode() for label in COUNTED]),
        ("names", ["ant", "bee", "cat"] * 8), ("bytes of names", [b"ant", b"bee", b"cat"] * 8),
    ],
)  # fmt: skip
def test_labels_are_read_in_any_form(layout: str, kind: str, labels: Values, tmp_path: Path) -> None:
    if layout == "cls" and kind in ("list", "bytes", "bytes of names"):
        labels = [label[0] if kind == "list" else label.decode() for label in labels]
    classes, images = assigned(tmp_path, WRITERS[layout](tmp_path / "in", labels))
    known = 2 if kind == "negative" else 3
    assert classes == (("ant", "bee", "cat") if "names" in kind else ("0", "1", "2"))[:known]
    assert [image.label for image in images] == ([0, 1, -1] if kind == "negative" else [0, 1, 2]) * 8
    assert [bool(image.reason) for image in images] == [image.label < 0 for image in images]


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([*range(1_440_000, 1_440_024)], 24, r"24 labels occur, and they go up to 14400\d\d"),
        ([0, 1] * 11 + [0, 10**9], 3, r"3 labels occur, and they go up to 1000000000 \(1 images\)"),
        ([0, 1] * 11 + [0, 400], 3, r"3 labels occur, and they go up to 400"),
    ],
)
def test_wild_labels_are_refused_or_mapped(
    layout: str, labels: Values, classes: int, message: str, tmp_path: Path
) -> None:
    source = WRITERS[layout](tmp_path / "in", labels)
    with pytest.raises(DataError, match=message + r".*set ingest\.label_numbers=map"):
        assigned(tmp_path, source)
    known, images = assigned(tmp_path, source, label_numbers="map")
    assert known == tuple(str(label) for label in sorted(set(labels)))
    assert len(known) == classes
    assert [image.label for image in images] == [sorted(set(labels)).index(label) for label in labels]


def test_names_and_numbers_are_not_mixed(tmp_path: Path) -> None:
    source = cls(tmp_path / "in", ["ant", 0] * 12)
    with pytest.raises(DataError, match=r"some labels are names \(ant, …\), others are numbers \(0, …\)"):
        assigned(tmp_path, source)
    assert assigned(tmp_path, source, classes=["ant", "bee"])[0] == ("ant", "bee")


@pytest.mark.parametrize(
    ("layout", "label", "reason"),
    [
        ("parquet", [0, 1], "2 labels for one image"),
        ("tfrecord", [0, 1], "2 values of image/class/label"),
        ("as_json", 0.5, "'0.5' is neither a name nor a whole number"),
        ("as_json", True, "'True' is neither"),
        ("as_json", {"a": 1}, "is neither a name nor a whole number"),
        ("cls", "0.5", "0.5 is no whole number"),
        ("parquet", float("inf"), "'inf' is neither"),
    ],
)
def test_a_label_that_is_none_is_a_reason(layout: str, label: Any, reason: str, tmp_path: Path) -> None:
    _, images = assigned(tmp_path, WRITERS[layout](tmp_path / "in", [label] * 3))
    assert all(reason in image.reason for image in images)


@pytest.mark.parametrize("labels", [[0, 3] * 9, [*range(100, 1000, 20)], [7] * 4 + [0]])
def test_a_few_images_of_many_classes_keep_their_numbers(labels: list[int], tmp_path: Path) -> None:
    classes, images = assigned(tmp_path, cls(tmp_path / "in", labels))
    assert classes == tuple(map(str, range(max(labels) + 1)))
    assert [image.label for image in images] == labels


def test_more_labels_than_there_can_be_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MAX_CLASSES", 9)
    for layout, labels in (("cls", [*range(10)]), ("parquet", [f"photo {number}" for number in range(10)])):
        with pytest.raises(DataError, match=r"more than 9 different labels .*set ingest\.labelled=false"):
            assigned(tmp_path, WRITERS[layout](tmp_path / layout, labels))


def hugging_face_table(features: dict[str, Any], columns: dict[str, Any]) -> pa.Table:
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return pa.table(columns).replace_schema_metadata(metadata if features else None)


IMAGE, NAMES = {"_type": "Image"}, {"_type": "ClassLabel", "names": ["x", "y"]}
IMAGES = [data for _, data, _ in pictures([0] * 8)]
COUNT = [index % 2 for index in range(8)]


@pytest.mark.parametrize(
    ("features", "columns", "changes", "problem"),
    [
        ({}, {"md5": [b"\0"] * 8, "image": IMAGES, "label": COUNT}, {}, ""),
        ({"img": IMAGE, "fine": NAMES}, {"thumb": [b"\0"] * 8, "img": IMAGES, "fine": COUNT}, {}, ""),
        ({"img": IMAGE, "coarse": NAMES, "fine": NAMES}, {"img": IMAGES, "coarse": COUNT, "fine": COUNT}, {},
         r"coarse and fine may be the label; name one as ingest\.label_column"),
        ({"img": IMAGE, "coarse": NAMES, "fine": NAMES}, {"img": IMAGES, "coarse": [0] * 8, "fine": COUNT},
         {"label_column": "fine"}, ""),
        ({}, {"left": [b"\0"] * 8, "right": IMAGES, "label": COUNT}, {},
         r"left and right may be the image; name one as ingest\.image_column"),
        ({}, {"left": [b"\0"] * 8, "right": IMAGES, "label": COUNT}, {"image_column": "right"}, ""),
        ({}, {"image": IMAGES, "kind": COUNT}, {}, r"columns image, kind is known as label"),
        ({}, {"image": IMAGES, "kind": COUNT}, {"label_column": "sort"},
         r"ingest\.label_column=sort: .*columns image, kind"),
        ({}, {"image": IMAGES, "label": COUNT, "labels": COUNT}, {}, "label and labels may be the label"),
    ],
)  # fmt: skip
def test_columns_are_known_by_metadata_and_name(
    features: dict[str, Any], columns: dict[str, Any], changes: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    pq.write_table(hugging_face_table(features, columns), source / "photos.parquet")
    if problem:
        with pytest.raises(DataError, match=problem):
            assigned(tmp_path, source, **changes)
        return
    classes, images = assigned(tmp_path, source, **changes)
    assert [image.label for image in images] == COUNT
    assert classes == (("x", "y") if features else ("0", "1"))
    unpacked = (tmp_path / images[0].file).read_bytes()
    assert [unpacked[image.offset : image.offset + image.size] for image in images] == IMAGES
    states = {source_state(IngestConfig(source=str(source), **each)) for each in ({}, changes)}
    assert len(states) == 1 + bool(changes)
