"""Tables in a bucket and Beam's own file system: what `ingest` wrote it reads, what it wrote `ingest` takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from components.engines.beam import run_pipeline
from components.ingest import component as ingest
from tests.support.synthetic import context_of
from vim_core.config import IngestConfig, RunConfig
from vim_core.data.image_tables import ImageTable
from vim_core.storage import io

pytestmark = pytest.mark.slow

ASKED = IngestConfig(limit=24, shards=2, test_fraction=0.25)


@pytest.fixture(autouse=True)
def anonymous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks for the account of a machine in Google's cloud."""
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")


def ingested(config: IngestConfig, folder: str, here: Path) -> str:
    """The images' content after `ingest` into a bucket."""
    ctx = replace(context_of(here, "ingest"), out=f"{folder}/out", work=f"{folder}/work")
    digest = ingest.run(config, {}, ctx).digest
    assert digest
    return digest


def through_beam(build: Callable[[Any], Any]) -> None:
    """A pipeline of Beam's own sources and sinks."""
    run_pipeline(RunConfig(threads=1, device="cpu"), build)


def images(folder: str, split: str) -> ImageTable:
    """The table in the bucket, read by this project."""
    return ImageTable([f"{folder}/out/{name}" for name in io.find_files(f"{folder}/out") if f"/{split}-" in name])


def test_beam_reads_a_table_in_a_bucket(gcs: str, tmp_path: Path) -> None:
    import apache_beam as beam
    from apache_beam.testing.util import assert_that, equal_to

    folder = f"{gcs}/read-by-beam"
    ingested(ASKED, folder, tmp_path)
    table = images(folder, "train")
    wanted = [(table.keys[row], int(table.labels[row]), table.image(row)) for row in range(len(table))]
    assert len(wanted) > 12

    def build(pipeline: Any) -> None:
        rows = pipeline | beam.io.ReadFromParquet(f"{folder}/out/images/train-*.parquet")
        assert_that(rows | beam.Map(lambda row: (row["key"], row["label"], row["image"])), equal_to(wanted))

    through_beam(build)


def test_a_table_that_beam_wrote_in_a_bucket_is_ingested(gcs: str, tmp_path: Path) -> None:
    import apache_beam as beam

    folder = f"{gcs}/written-by-beam"
    ingested(ASKED, folder, tmp_path / "first")
    table = images(folder, "train")
    rows: list[dict[str, Any]] = [
        {"image": {"bytes": table.image(row)}, "label": int(table.labels[row])} for row in range(len(table))
    ]
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary())])), ("label", pa.int64())])

    def build(pipeline: Any) -> None:
        sink = beam.io.WriteToParquet(f"{folder}/made/train", schema, file_name_suffix=".parquet", num_shards=2)
        _ = pipeline | beam.Create(rows) | sink

    through_beam(build)
    config = IngestConfig(source=f"{folder}/made", layout="parquet", split="hash", test_fraction=0.25, shards=2)
    ingested(config, f"{folder}/again", tmp_path / "again")
    again = [images(f"{folder}/again", split) for split in ("train", "test")]
    found = sorted(table.image(row) for table in again for row in range(len(table)))
    assert found == sorted(row["image"]["bytes"] for row in rows)
