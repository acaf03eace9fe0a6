"""The same images in every layout that `ingest` reads, written by means that share nothing with its readers."""

from __future__ import annotations

import io as memory
import json
import struct
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq

from vim_core.data.image_tables import ImageRow, write_images
from vim_core.data.images import image_size


@dataclass(frozen=True)
class Photo:
    """An image of a data set: name without suffix, wnid, 'train' or 'val', bytes."""

    stem: str
    wnid: str
    side: str
    data: bytes

    @property
    def file(self) -> str:
        """Its name as ImageNet has it."""
        return f"{self.stem}.JPEG"


def class_folders(root: Path, photos: Sequence[Photo]) -> Path:
    """`train/<wnid>/<name>` and `val/<wnid>/<name>`."""
    for photo in photos:
        path = root / photo.side / photo.wnid / photo.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo.data)
    return root


def tar(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """A tar of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, memory.BytesIO(data))
    return path


def ilsvrc(root: Path, photos: Sequence[Photo]) -> Path:
    """Train as a tar of a tar per class, val as a flat tar, with a ground-truth file of ILSVRC's own numbers.

    The numbers run against the wnids' order, as the real ones differ from it. The val images must be called
    ILSVRC2012_val_00000001 and so on.
    """
    wnids = sorted({photo.wnid for photo in photos})
    inner = []
    for wnid in wnids:
        files = [(photo.file, photo.data) for photo in photos if (photo.side, photo.wnid) == ("train", wnid)]
        inner.append((f"{wnid}.tar", tar(root.parent / f"{root.name}-inner.tar", files).read_bytes()))
    tar(root / "ILSVRC2012_img_train.tar", inner)
    held = sorted((photo for photo in photos if photo.side == "val"), key=lambda photo: photo.stem)
    tar(root / "ILSVRC2012_img_val.tar", ((photo.file, photo.data) for photo in held))
    numbers = {wnid: len(wnids) - index for index, wnid in enumerate(wnids)}
    truth = "".join(f"{numbers[photo.wnid]}\n" for photo in held)
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    (root / "classes.txt").write_text("".join(f"{numbers[w]} {w} the {w[-3:]}, so called\n" for w in wnids))
    return root


def webdataset(root: Path, photos: Sequence[Photo], as_json: bool = False) -> Path:
    """Shards `train-000000.tar` and `val-000000.tar` with a label file beside every image."""
    wnids = sorted({photo.wnid for photo in photos})
    for side in ("train", "val"):
        files = []
        for photo in (photo for photo in photos if photo.side == side):
            said = json.dumps({"wnid": photo.wnid, "filename": photo.file}) if as_json else wnids.index(photo.wnid)
            files += [(f"{photo.stem}.{'json' if as_json else 'cls'}", str(said).encode())]
            files += [(f"{photo.stem}.jpg", photo.data)]
        for shard in range(2):
            tar(
                root / f"{side}-{shard:06d}.tar",
                files[2 * shard * (len(files) // 4) :][: None if shard else 2 * (len(files) // 4)],
            )
    return root


def varint(value: int) -> bytes:
    """An integer as protocol buffers write it."""
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field of a message."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(features: Mapping[str, Any]) -> bytes:
    """An `Example` message of bytes, whole numbers and floats, or lists of them."""
    entries = b""
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        if isinstance(values[0], bytes):
            kind = field(1, b"".join(field(1, each) for each in values))
        elif isinstance(values[0], float):
            kind = field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
        else:
            kind = field(3, field(1, b"".join(varint(each % 2**64) for each in values)))
        entries += field(1, field(1, name.encode()) + field(2, kind))
    return field(1, entries)


def record(data: bytes) -> bytes:
    """A TFRecord's frame around its data."""

    def masked(part: bytes) -> bytes:
        check = google_crc32c.value(part)
        return struct.pack("<I", ((check >> 15 | check << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    size = struct.pack("<Q", len(data))
    return size + masked(size) + data + masked(data)


def tfrecord(root: Path, photos: Sequence[Photo], synset: bool = True) -> Path:
    """`train-00000-of-00001` and `validation-00000-of-00001`, labels counted from 1."""
    root.mkdir(parents=True)
    wnids = sorted({photo.wnid for photo in photos})
    for side, name in (("train", "train"), ("val", "validation")):
        with open(root / f"{name}-00000-of-00001", "wb") as stream:
            for photo in (photo for photo in photos if photo.side == side):
                features: dict[str, bytes | int] = {"image/height": 1, "image/format": b"JPEG"}
                features |= {"image/class/label": wnids.index(photo.wnid) + 1}
                features |= {"image/class/synset": photo.wnid.encode()} if synset else {}
                features |= {"image/filename": photo.file.encode(), "image/encoded": photo.data}
                stream.write(record(example(features)))
    return root


def hugging_face(root: Path, photos: Sequence[Photo], names: bool = True) -> Path:
    """`data/train-00000-of-00001.parquet` and `data/validation-…` with the metadata of `datasets`."""
    (root / "data").mkdir(parents=True)
    wnids = sorted({photo.wnid for photo in photos})
    features = {"image": {"_type": "Image"}, "label": {"names": wnids, "_type": "ClassLabel"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()} if names else {}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("label", pa.int64())], metadata=metadata)
    for side, name in (("train", "train"), ("val", "validation")):
        rows: list[Any] = [
            {"image": {"bytes": p.data, "path": f"{p.stem}_{p.wnid}.JPEG"}, "label": wnids.index(p.wnid)}
            for p in photos
            if p.side == side
        ]
        table = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(table, root / "data" / f"{name}-00000-of-00001.parquet", row_group_size=7)
    return root


def image_table(root: Path, photos: Sequence[Photo]) -> Path:
    """`train-….parquet` and `test-….parquet` with the columns of an image table."""
    root.mkdir(parents=True)
    wnids = sorted({photo.wnid for photo in photos})
    for side, name in (("train", "train"), ("val", "test")):
        rows = [
            ImageRow(photo.stem, wnids.index(photo.wnid), photo.data, *image_size(photo.data), photo.file)
            for photo in photos
            if photo.side == side
        ]
        write_images(str(root / f"{name}-00000-of-00001.parquet"), rows)
    return root


ALL = {
    "folders": class_folders,
    "ilsvrc": ilsvrc,
    "webdataset": webdataset,
    "tfrecord": tfrecord,
    "parquet": hugging_face,
    "table": image_table,
}
"""Writers by the name of their layout."""
