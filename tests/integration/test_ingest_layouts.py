"""Every layout of the same images gives the same keys, labels and digests, with nothing unaccounted for."""

from __future__ import annotations

import gzip
import io as memory
import random
import tarfile
import zlib
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.contract.api import Outcome
from components.ingest import component as ingest
from components.ingest import index as listing
from tests.support import layouts
from tests.support.ingested import contents
from tests.support.layouts import Photo
from tests.support.synthetic import context_of
from tests.unit.vim_core.data.test_images import encoded
from vim_core.config import IngestConfig
from vim_core.data.image_tables import ImageTable, image_digest
from vim_core.data.images import decode
from vim_core.errors import DataError

WNIDS = ("n01440764", "n01443537", "n01484850")


def picture(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise).resize((30, 36)), "JPEG")


def bomb() -> bytes:
    """A small PNG that says it has 60,000 x 60,000 pixels."""
    made = bytearray(encoded(Image.new("RGB", (8, 8)), "PNG"))
    made[16:24] = (60_000).to_bytes(4, "big") * 2
    made[29:33] = zlib.crc32(made[12:29]).to_bytes(4, "big")
    return bytes(made)


def photos(train: int = 5, held: int = 2, named: bool = True) -> list[Photo]:
    """A few images of three classes with ILSVRC's names, or with names that say nothing; two have equal bytes."""
    made = []
    for index, wnid in enumerate(WNIDS):
        for each in range(train):
            stem = f"{wnid}_{each * 7}" if named else f"photo-{index}-{each}"
            made.append(Photo(stem, wnid, "train", picture(100 if each == 0 else 10 * index + each)))
    for number, wnid in enumerate(WNIDS * held, start=1):
        stem = f"ILSVRC2012_val_{number:08d}"
        made.append(Photo(stem, wnid, "val", picture(200 + number)))
    random.Random(0).shuffle(made)
    return made


def settings(source: Path, **changes: Any) -> IngestConfig:
    given = {"source": str(source), "split": "folders", "shards": 2}
    if (source / "classes.txt").exists():
        given |= {"class_list": str(source / "classes.txt")}
    return IngestConfig(**{**given, **changes})


def run_ingest(root: Path, config: IngestConfig) -> tuple[Outcome, Any]:
    ctx = context_of(root, "ingest")
    return ingest.run(config, {}, ctx), ctx


def tables(ctx: Any) -> dict[str, ImageTable]:
    return {
        split: ImageTable([str(path) for path in sorted(Path(ctx.out, "images").glob(f"{split}-*"))])
        for split in ("train", "test")
    }


def reasons_by_source(ctx: Any) -> dict[str, str]:
    table = pq.read_table(ctx.path("dead_letter.parquet"))
    return dict(zip(table["source"].to_pylist(), table["reason"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the class folders."""
    root = tmp_path_factory.mktemp("reference")
    return str(run_ingest(root, settings(layouts.class_folders(root / "photos", photos())))[0].digest)


@pytest.mark.parametrize("layout", layouts.ALL)
def test_every_layout_is_recognised_and_gives_the_same_table(layout: str, reference: str, tmp_path: Path) -> None:
    source = layouts.ALL[layout](tmp_path / "source", photos())
    outcome, ctx = run_ingest(tmp_path, settings(source))
    assert outcome.properties["layout"] == layout
    assert outcome.digest == reference == image_digest(tables(ctx))
    by_stem = {photo.stem: photo for photo in photos()}
    for split, table in tables(ctx).items():
        assert set(table.keys) == {p.stem for p in photos() if (p.side == "train") == (split == "train")}
        for row in table:
            assert row.image == by_stem[row.key].data
            assert row.label == WNIDS.index(by_stem[row.key].wnid)
    properties = outcome.properties
    assert (properties["read"], properties["written"], properties["dead_letter"]) == (21, 21, 0)
    assert sum(properties["key_rule"].values()) == 21
    assert properties["class_counts"] == {"train": [5, 5, 5], "test": [2, 2, 2]}
    if layout != "table":
        assert properties["classes"] == (list(WNIDS) if layout != "webdataset" else ["0", "1", "2"])


def compressed(source: Path, suffix: str = ".gz") -> Path:
    """Every file compressed as a whole, in place of the plain one."""
    for path in [path for path in source.rglob("*") if path.is_file()]:
        name = path.name.removesuffix(".tar") if suffix == ".tgz" else path.name
        path.with_name(name + suffix).write_bytes(gzip.compress(path.read_bytes()))
        if suffix:
            path.unlink()
    return source


@pytest.mark.parametrize(("layout", "suffix"), [("webdataset", ".tgz"), ("tfrecord", "")])
def test_compressed_files_give_the_same_table(layout: str, suffix: str, reference: str, tmp_path: Path) -> None:
    """Also without a suffix that says that they are compressed."""
    source = compressed(layouts.ALL[layout](tmp_path / "source", photos()), suffix)
    outcome, ctx = run_ingest(tmp_path, settings(source))
    assert (outcome.properties["layout"], outcome.digest) == (layout, reference)
    unpacked = {path: path.stat().st_mtime_ns for path in Path(ctx.work, "unpacked").iterdir()}
    assert len(unpacked) == len(list(source.iterdir()))
    again = ingest.run(settings(source), {}, ctx)
    assert again.digest == reference
    assert {path: path.stat().st_mtime_ns for path in unpacked} == unpacked


@pytest.mark.parametrize("layout", ["webdataset", "tfrecord", "ilsvrc", "parquet"])
def test_bad_images_are_dead_letters_in_every_layout(layout: str, tmp_path: Path) -> None:
    """The first two in compressed files."""
    given = photos()
    big = 1 << 21
    bad = {0: picture(0) + random.Random(0).randbytes(big), 1: bomb(), 2: given[2].data[:-300]}
    given = [Photo(p.stem, p.wnid, p.side, bad.get(i, p.data)) for i, p in enumerate(given)]
    source = layouts.ALL[layout](tmp_path / "source", given)
    if layout in ("webdataset", "tfrecord"):
        source = compressed(source)
    outcome, ctx = run_ingest(tmp_path, settings(source, max_bad_share=0.2, max_bytes=big))
    assert (outcome.properties["read"], outcome.properties["written"]) == (21, 18)
    letters = pq.read_table(ctx.path("dead_letter.parquet"))
    assert letters["key"].to_pylist() == sorted(given[index].stem for index in bad)
    reasons = sorted(reason.split(": ")[0] for reason in letters["reason"].to_pylist())
    assert reasons[0].startswith(f"{len(bad[0])} bytes are more than the {big} of ingest.max_bytes")
    assert reasons[1].startswith("60000x60000 is more than the 100000000 pixels")
    assert reasons[2].startswith("damaged image")


@pytest.fixture(scope="module")
def nameless(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run over class folders of images whose names say nothing."""
    root = tmp_path_factory.mktemp("nameless")
    return run_ingest(root, settings(layouts.class_folders(root / "photos", photos(named=False))))


@pytest.mark.parametrize(
    ("layout", "at_once"), [("webdataset", False), ("tfrecord", False), ("parquet", True), ("webdataset", True)]
)
def test_without_names_the_content_is_the_key(
    layout: str, at_once: bool, nameless: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of the images have equal bytes and different classes: their occurrences fall to the same classes.

    With `at_once` keys follow listing without a shuffle between them, as with many files: content is read after all of
    it is unpacked.
    """
    source = layouts.ALL[layout](tmp_path / "source", photos(named=False))
    if at_once:
        monkeypatch.setattr(listing, "CHUNK_IMAGES", 2)
        monkeypatch.setattr(listing, "FEW_GROUPS", 0)
        source = compressed(source) if layout == "webdataset" else source
    outcome, ctx = run_ingest(tmp_path, settings(source))
    assert (outcome.properties["dead_letter"], outcome.digest) == (0, nameless[0].digest)
    assert sorted(outcome.properties["key_rule"].values()) == [6, 15]
    keys = tables(ctx)["train"].keys
    assert len({key.rsplit("-", 1)[0] for key in keys}) == 13
    assert {key.rsplit("-", 1)[1] for key in keys} == {"0", "1", "2"}


def test_a_split_by_hash_keeps_equal_images_together_in_any_layout(tmp_path: Path) -> None:
    digests = set()
    for layout in ("folders", "parquet", "tfrecord"):
        source = layouts.ALL[layout](tmp_path / layout, photos(named=False))
        config = settings(source / "train" if layout == "folders" else source, split="hash", test_fraction=0.4)
        if layout == "folders":
            for path in (source / "val").rglob("*.JPEG"):
                path.rename(source / "train" / path.parent.name / path.name)
        outcome, ctx = run_ingest(tmp_path / f"{layout}-out", config)
        digests.add(outcome.digest)
        sides = {split: {key.rsplit("-", 1)[0] for key in table.keys} for split, table in tables(ctx).items()}
        assert not sides["train"] & sides["test"]
    assert len(digests) == 1


def test_an_image_table_of_ingest_goes_through_again(nameless: Any, tmp_path: Path) -> None:
    first, ctx = nameless
    again, other = run_ingest(tmp_path / "again", settings(Path(ctx.out), shards=3))
    assert again.properties["layout"] == "table"
    assert again.digest == first.digest
    assert tables(other)["test"].keys


def killed(*_: Any) -> None:
    raise RuntimeError("killed")


@pytest.mark.parametrize(
    ("layout", "module", "function"), [("parquet", ingest, "write_shard"), ("webdataset", listing, "key_by_content")]
)
def test_an_interrupted_run_goes_on(
    layout: str, module: Any, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks with keys and unpacked files are kept; chunks without keys do not count as finished."""
    source = layouts.ALL[layout](tmp_path / "source", photos(named=False))
    _, whole = run_ingest(tmp_path / "whole", settings(source))
    ctx = context_of(tmp_path, "ingest")
    with monkeypatch.context() as patch:
        patch.setattr(module, function, killed)
        with pytest.raises(RuntimeError, match="killed"):
            ingest.run(settings(source), {}, ctx)
    folders = ("index", "unpacked") if function == "write_shard" else ()
    done = {path: path.stat().st_mtime_ns for name in folders for path in Path(ctx.work, name).iterdir()}
    assert {path.parent.name for path in done} == set(folders)
    ingest.run(settings(source), {}, ctx)
    assert contents(ctx) == contents(whole)
    assert {path: path.stat().st_mtime_ns for path in done} == done


@pytest.mark.parametrize("layout", ["folders", "webdataset", "parquet"])
def test_a_remote_source_gives_the_same(layout: str, reference: str, tmp_path: Path) -> None:
    local, fs = layouts.ALL[layout](tmp_path / "source", photos()), fsspec.filesystem("memory")
    fs.pipe({f"/bucket/{path.relative_to(local)}": path.read_bytes() for path in local.rglob("*") if path.is_file()})
    try:
        config = IngestConfig(source="memory://bucket", split="folders", shards=2)
        outcome, _ = run_ingest(tmp_path, config)
        assert outcome.digest == reference
        assert outcome.properties["layout"] == layout
        assert len(ingest.source_state(config)) == 64
    finally:
        fs.rm("/bucket", recursive=True)


def test_images_are_listed_and_shuffled_without_their_bytes(nameless: Any) -> None:
    _, ctx = nameless
    lines = [line for part in Path(ctx.work, "index").glob("*.jsonl") for line in part.read_text().splitlines()]
    rows = [line for line in lines if "photo-" in line or "ILSVRC" in line]
    assert len(rows) == 21
    assert max(map(len, rows)) < 250


def test_ingest_labels_may_lie_beside_flat_validation_images(tmp_path: Path) -> None:
    """As in Tiny ImageNet: val/images/*.JPEG with a list of names and classes, wnids.txt beside it."""
    source = tmp_path / "source"
    lines = []
    for photo in photos():
        flat = photo.side == "val"
        path = source / photo.side / ("images" if flat else f"{photo.wnid}/images") / photo.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo.data)
        lines += [f"{photo.file}\t{photo.wnid}\t0\t0\t30\t36\n"] if flat else []
    (tmp_path / "val_annotations.txt").write_text("".join(lines[1:]))
    (tmp_path / "wnids.txt").write_text("".join(f"{wnid} the {wnid[-2:]}\n" for wnid in reversed(WNIDS)))
    named = {"class_list": str(tmp_path / "wnids.txt"), "val_labels": str(tmp_path / "val_annotations.txt")}
    outcome, ctx = run_ingest(tmp_path, settings(source, max_bad_share=0.1, **named))
    assert outcome.properties["classes"] == list(reversed(WNIDS))
    assert outcome.properties["class_names"][0] == "the 50"
    assert list(reasons_by_source(ctx).values()) == ["not in ingest.val_labels"]
    assert sum(outcome.properties["class_counts"]["test"]) == 5
    by_stem = {photo.stem: photo.wnid for photo in photos()}
    for row in tables(ctx)["test"]:
        assert list(reversed(WNIDS))[row.label] == by_stem[row.key]


def test_broken_archives_are_refused_by_name(tmp_path: Path) -> None:
    tars = layouts.webdataset(tmp_path / "tars", photos())
    cut = tars / "train-000001.tar"
    cut.write_bytes(cut.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"train-000001\.tar: .*; download it again, or remove it"):
        run_ingest(tmp_path / "1", settings(tars))
    records = layouts.tfrecord(tmp_path / "records", photos())
    cut = records / "train-00000-of-00001"
    cut.write_bytes(cut.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"train-00000-of-00001: ends inside the record"):
        run_ingest(tmp_path / "2", settings(records))
    parquet = layouts.hugging_face(tmp_path / "parquet", photos())
    (parquet / "data/validation-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"validation-00000-of-00001\.parquet"):
        run_ingest(tmp_path / "3", settings(parquet))


def test_a_missing_layout_is_refused(tmp_path: Path) -> None:
    source = layouts.class_folders(tmp_path / "source", photos())
    with pytest.raises(
        DataError, match=r"ingest\.layout=tfrecord: no such files at .*source for ingest\.split=folders"
    ):
        run_ingest(tmp_path, settings(source, layout="tfrecord"))


def test_unusual_images_of_imagenet_are_taken_byte_for_byte(tmp_path: Path) -> None:
    """Grey and CMYK JPEGs, PNG and BMP under a .JPEG name, a rotation in EXIF, sides of one pixel and of thousands."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    odd = {
        "grey": encoded(noise.convert("L"), "JPEG"),
        "cmyk": encoded(noise.convert("CMYK"), "JPEG"),
        "png": encoded(noise, "PNG"),
        "bmp": encoded(noise, "BMP"),
        "turned": encoded(noise, "JPEG", exif=exif),
        "tiny": encoded(noise.resize((1, 1)), "JPEG"),
        "long": encoded(noise.resize((6000, 3)), "JPEG"),
    }
    given = [Photo(f"{WNIDS[0]}_{i}", WNIDS[0], "train", data) for i, data in enumerate(odd.values())]
    extra = [
        Photo(f"{WNIDS[0]}_77", WNIDS[0], "train", bomb()),
        Photo("ILSVRC2012_val_00000001", WNIDS[0], "val", picture(1)),
    ]
    outcome, ctx = run_ingest(tmp_path, settings(layouts.ilsvrc(tmp_path / "source", given + extra), max_bad_share=0.2))
    rows = {row.key: row for row in tables(ctx)["train"]}
    for photo in given:
        assert rows[photo.stem].image == photo.data
        assert (rows[photo.stem].width, rows[photo.stem].height) == Image.open(memory.BytesIO(photo.data)).size
        assert decode(photo.data).shape == (rows[photo.stem].height, rows[photo.stem].width, 3)
    (reason,) = reasons_by_source(ctx).values()
    assert reason.startswith("60000x60000 is more than the 100000000 pixels")
    assert outcome.properties["read"] == 9 == outcome.properties["written"] + 1
    assert "ignored" in outcome.properties["exif_rule"]


def test_a_damaged_record_costs_one_image(tmp_path: Path) -> None:
    source = layouts.tfrecord(tmp_path / "source", photos())
    path = source / "train-00000-of-00001"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(bytes(data))
    outcome, ctx = run_ingest(tmp_path, settings(source, max_bad_share=0.1))
    assert reasons_by_source(ctx) == {"train-00000-of-00001#0": "the record's checksum does not agree with its data"}
    assert (outcome.properties["read"], outcome.properties["written"]) == (21, 20)


def test_real_images_of_imagenet_in_two_layouts(test_data: Path, tmp_path: Path) -> None:
    """250 original JPEGs, grey ones, small sides and an EXIF rotation among them, are taken byte for byte."""
    given = []
    with tarfile.open(test_data / "imagenet_jpegs_250.tar") as tar:
        for index, member in enumerate(member for member in tar if member.isfile()):
            wnid = Path(member.name).name[:9]
            side = "val" if index % 5 == 0 else "train"
            wnid = f"n{int(wnid[1:]) % 7:08d}"
            given.append(Photo(f"{wnid}_{index}", wnid, side, tar.extractfile(member).read()))  # type: ignore[union-attr]
    found = {}
    for layout in ("folders", "tfrecord"):
        outcome, ctx = run_ingest(tmp_path / layout, settings(layouts.ALL[layout](tmp_path / f"in-{layout}", given)))
        assert (outcome.properties["read"], outcome.properties["written"]) == (250, 250)
        found[layout] = outcome.digest
    assert len(set(found.values())) == 1
    rows = {row.key: row for table in tables(ctx).values() for row in table}
    for photo in given:
        assert rows[photo.stem].image == photo.data
        with Image.open(tmp_path / "in-folders" / photo.side / photo.wnid / photo.file) as image:
            assert (rows[photo.stem].width, rows[photo.stem].height) == image.size
    assert ctx.tracker.pictures["contact_sheet"] == Path(ctx.path("contact_sheet.png")).read_bytes()
