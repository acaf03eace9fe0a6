"""The memorisation check finds planted copies, and calls fresh samples what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.contract.api import Artifact, Outcome
from components.score.neighbours import summarise
from tests.support.synthetic import CLASSES, artifact, everything, image_files, pictures, rows
from tests.unit.components.score.test_sets import features_of, scored
from vim_core.data.image_tables import ImageTable
from vim_core.data.images import decode

TRAIN, COPIES = 60, (3, 7, 11)


def flow(root: Path, copied: tuple[int, ...]) -> dict[str, Artifact]:
    """Train images beside the usual ones; sample i of those in `copied` is training image 2 i with a pixel changed."""
    made = everything(root)
    train = pictures(TRAIN, 8)
    test = rows([f"image-{i:03d}" for i in range(12)], [i % 3 for i in range(12)], pictures(12, 0))
    files = image_files("test", test, 2)
    files |= image_files("train", rows([f"train-{i:03d}" for i in range(TRAIN)], [0] * TRAIN, train), 3)
    properties = {"classes": list(CLASSES), "splits": {"train": TRAIN, "test": 12}}
    ingest = artifact(root / "more", "ingest", files, config={"max_pixels": 10**6}, properties=properties)
    images = pictures(20, 3)
    for i in copied:
        images[i] = train[2 * i]
        images[i, 0, 0] ^= 1
    sample = artifact(
        root / "more", "sample",
        image_files("samples", rows([f"sample-{i:03d}" for i in range(20)], [i % 3 for i in range(20)], images), 2),
        properties=made["sample"].properties,
    )  # fmt: skip
    return made | {"ingest": ingest, "sample": sample}


def checked(root: Path, made: dict[str, Artifact], **settings: Any) -> tuple[Outcome, Path]:
    outcome = scored(root, made, groups=0, floor=False, **settings)
    return outcome, root / "out" / "score"


def test_planted_copies_are_found(tmp_path: Path) -> None:
    outcome, out = checked(tmp_path, flow(tmp_path, COPIES), neighbours=20)
    summary = json.loads((out / "neighbours.json").read_text())
    assert {pair["key"]: pair["train_key"] for pair in summary["nearest"][:3]} == {
        f"sample-{i:03d}": f"train-{2 * i:03d}" for i in COPIES
    }
    assert summary["near"] >= 3
    assert outcome.metrics["neighbours_near"] == summary["near"] / 20
    table = pq.read_table(out / "neighbours.parquet").to_pylist()
    assert len(table) == 60
    assert [row["rank"] for row in table[:3]] == [1, 2, 3]
    assert all(row["distance"] >= 0 for row in table)
    first = [row for row in table if row["rank"] == 1 and row["key"] == "sample-007"]
    assert first[0]["train_key"] == "train-014"
    assert (summary["samples"]["count"], summary["held_out"]["count"]) == (20, 12)
    assert decode((out / "pictures" / "neighbours.png").read_bytes()).ndim == 3
    assert outcome.extras == {"pictures/neighbours.png"}
    record = outcome.protocols["neighbours_near"]
    assert (record["reference_count"], record["network"]) == (TRAIN, "classifier")


def test_the_answer_is_that_of_a_search_by_hand(tmp_path: Path) -> None:
    made = flow(tmp_path, ())
    _, out = checked(tmp_path, made, neighbours=5)
    samples = ImageTable(made["sample"].uris("images/"))
    images = {row.key: decode(row.image) for row in samples}
    table = pq.read_table(out / "neighbours.parquet").to_pylist()
    train = features_of(made, pictures(TRAIN, 8)).astype(np.float64)
    asked = {row["key"] for row in table}
    assert len(asked) == 5
    for key in asked:
        own = features_of(made, images[key][None])[0].astype(np.float64)
        distances = np.linalg.norm(train - own, axis=1)
        found = [row for row in table if row["key"] == key]
        assert [row["train_key"] for row in found] == [f"train-{i:03d}" for i in np.argsort(distances)[:3]]
        assert [row["distance"] for row in found] == pytest.approx(np.sort(distances)[:3].tolist(), rel=1e-3)


def test_the_summary_by_hand() -> None:
    held_out, samples = np.linspace(1, 3, 201), np.array([0.0, 0.05, 1.0, 2.0, 4.0])
    found = summarise(samples, held_out)
    assert found["threshold"] == pytest.approx(1.02)
    assert (found["near"], found["copies"]) == (3, 2)
    assert found["ratio"] == pytest.approx(0.5)
    assert found["threshold_ratio"] == pytest.approx(0.51)
    assert found["held_out"]["quantiles"]["0.5"] == pytest.approx(2)
