"""`ingest` beside a bare loop that reads, decodes and writes the same images in one process.

Images are the original ones of `VIM_TEST_DATA` where it is set, each under several names, else made up. Needs Beam.
"""

from __future__ import annotations

import io as memory
import os
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks.harness import Bench, Row, installed

ARCHIVE = "imagenet_jpegs_250.tar"
COUNT, TOY = 4000, 24
ROWS = 256
PEER = "bare loop: read, decode, write Parquet"


def ingest_images(bench: Bench) -> list[Row]:
    """Images a second through the whole component, by names that are keys and by names that say nothing."""
    count = TOY if bench.toy else COUNT
    real = bool(os.environ.get("VIM_TEST_DATA")) and not bench.toy
    shape = f"{count} {'ImageNet JPEGs' if real else 'made-up JPEGs'} in class folders, one process"
    if not installed("apache_beam"):
        return [bench.absent("ingest", "images/s", PEER, shape, "Beam is not installed")]
    files = {rule: _photos(bench.folder / rule, count, real, rule == "ilsvrc") for rule in ("ilsvrc", "content")}
    runs = {rule: (lambda rule=rule: _ingested(bench.folder, rule, count)) for rule in files}
    seconds = bench.medians({"bare": lambda: bare(files["ilsvrc"], bench.folder / "bare.parquet"), **runs})
    names = {"ilsvrc": "ingest, keys by name", "content": "ingest, keys by content (bytes are read twice)"}
    rates = {side: count / value for side, value in seconds.items()}
    return [bench.faster(names[rule], "images/s", (rates[rule], rates["bare"]), PEER, shape) for rule in files]


def bare(files: list[Path], target: Path) -> int:
    """What anybody would write: every image read, decoded to RGB and put into one Parquet file as it is."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    schema = pa.schema([("key", pa.string()), ("image", pa.binary()), ("height", pa.int32()), ("width", pa.int32())])
    written = 0
    with pq.ParquetWriter(target, schema, compression="zstd", use_dictionary=False) as writer:
        for start in range(0, len(files), ROWS):
            rows = []
            for path in files[start : start + ROWS]:
                data = path.read_bytes()
                height, width = np.asarray(Image.open(memory.BytesIO(data)).convert("RGB")).shape[:2]
                rows.append((path.name, data, height, width))
            columns = [
                pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), schema.types, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            written += len(rows)
    return written


def _ingested(folder: Path, rule: str, count: int) -> None:
    from components.ingest import component as ingest
    from tests.support.synthetic import context_of
    from vim_core.config import IngestConfig

    ctx = context_of(Path(tempfile.mkdtemp(dir=folder)), "ingest")
    config = IngestConfig(source=str(folder / rule), test_fraction=0.2, shards=4)
    if ingest.run(config, {}, ctx).properties["written"] != count:
        raise RuntimeError("the benchmark lost images")


def _photos(folder: Path, count: int, real: bool, named: bool) -> list[Path]:
    """The files, in their order on disk."""
    sources = real_photos() if real else made_photos(min(count, 64))
    files = []
    for index in range(count):
        wnid = f"n{index % 100:08d}"
        path = folder / wnid / (f"{wnid}_{index}.JPEG" if named else f"photo{index}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sources[index % len(sources)])
        files.append(path)
    return sorted(files)


def real_photos() -> list[bytes]:
    """The original JPEGs below `VIM_TEST_DATA`."""
    with tarfile.open(Path(os.environ["VIM_TEST_DATA"]) / ARCHIVE) as tar:
        return [stream.read() for member in tar if (stream := tar.extractfile(member)) is not None]


def made_photos(count: int) -> list[bytes]:
    """JPEGs of ImageNet's usual size, made up."""
    return [_made(seed) for seed in range(count)]


def _made(seed: int) -> bytes:
    from PIL import Image

    noise = np.random.default_rng(seed).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    stream = memory.BytesIO()
    Image.fromarray(noise).resize((500, 375)).save(stream, "JPEG", quality=95)
    return stream.getvalue()
