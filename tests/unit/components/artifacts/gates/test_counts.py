"""Images accounted for: each gate passes on a right manifest and fails on one where images are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.artifacts.gates import counts as counting
from components.contract.api import Artifact, FileEntry
from tests.support.synthetic import artifact
from vim_core.config import PipelineConfig

CONFIG = PipelineConfig()
SPLITS = {"train": 5, "test": 3}


def table(
    root: Path,
    component: str,
    folder: str,
    rows: Mapping[str, list[int]],
    properties: Mapping[str, Any] = {},
    **fields: Any,
) -> Artifact:
    """An artifact whose manifest lists files of so many rows; nothing of it is read."""
    made = artifact(root, component, {}, properties=dict(properties), **fields)
    entries = [
        FileEntry(f"{folder}/{split}-{i:05d}-of-{len(counts):05d}.parquet", "somewhere", 1, "0" * 64, count)
        for split, counts in rows.items()
        for i, count in enumerate(counts)
    ]
    return Artifact(made.folder, replace(made.manifest, files=entries))


def ingested(root: Path, rows: Mapping[str, list[int]], **said: Any) -> Artifact:
    return table(root, "ingest", "images", rows, {"read": 9, "dead_letter": 1, "splits": SPLITS, **said})


def test_what_was_read_is_in_the_table_or_set_aside(tmp_path: Path) -> None:
    right = counting.check_ingest(CONFIG, ingested(tmp_path, {"train": [2, 3], "test": [3]}), {})
    assert right.passed, right.text
    assert right.figures == {"read": 9.0, "dead_letter": 1.0, "train": 5.0, "test": 3.0}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"train": [2, 2], "test": [3]}, {}),
        ({"train": [2, 3], "test": [3]}, {"dead_letter": 2}),
        ({"train": [2, 3], "test": [3]}, {"read": 10}),
        # As many in all, but not where the manifest says.
        ({"train": [3], "test": [3, 2]}, {}),
    ],
)
def test_a_lost_image_fails_ingest(tmp_path: Path, rows: dict[str, list[int]], said: dict[str, Any]) -> None:
    verdict = counting.check_ingest(CONFIG, ingested(tmp_path, rows, **said), {})
    assert not verdict.passed
    assert "vimctl run ingest --force" in verdict.remedy


def test_a_manifest_that_says_nothing_has_failed(tmp_path: Path) -> None:
    verdict = counting.check_ingest(CONFIG, table(tmp_path, "ingest", "images", {}), {})
    assert not verdict.passed
    assert "read, dead_letter, splits" in verdict.text


@pytest.mark.parametrize(("train", "test", "passed"), [(10, 3, True), (5, 3, False), (10, 6, False), (9, 3, False)])
def test_codes_of_every_view(tmp_path: Path, train: int, test: int, passed: bool) -> None:
    images = ingested(tmp_path, {"train": [5], "test": [3]})
    codes = table(tmp_path, "tokenize", "codes", {"train": [train], "test": [test]}, {"views": 2})
    assert counting.check_tokenize(CONFIG, codes, {"images": images}).passed is passed


LIMITS = [(0, 3, True), (0, 2, False), (2, 2, True), (7, 3, True), (2, 3, False)]


@pytest.mark.parametrize(("limit", "rows", "passed"), LIMITS)
def test_reconstructions_up_to_the_limit(tmp_path: Path, limit: int, rows: int, passed: bool) -> None:
    images = ingested(tmp_path, {"train": [5], "test": [3]})
    made = table(tmp_path, "reconstruct", "images", {"test": [rows]}, config={"limit": limit})
    assert counting.check_reconstruct(CONFIG, made, {"images": images}).passed is passed


@pytest.mark.parametrize(("rows", "passed"), [([4, 3], True), ([4], False), ([4, 4], False)])
def test_samples_are_as_many_as_asked_for(tmp_path: Path, rows: list[int], passed: bool) -> None:
    made = table(tmp_path, "sample", "images", {"samples": rows}, config={"count": 7})
    assert counting.check_sample(CONFIG, made, {}).passed is passed


@pytest.mark.parametrize(("rows", "passed"), [((6, 6), True), ((6, 5), False), ((6, 0), False)])
def test_as_many_accepted_of_a_class_at_every_rate(tmp_path: Path, rows: tuple[int, int], passed: bool) -> None:
    splits = {f"accepted-{rate}": [count] for rate, count in zip((1.0, 0.5), rows, strict=True)}
    said = {"rates": [1.0, 0.5], "classes": ["a", "b", "c"]}
    made = table(tmp_path, "select", "images", splits, said, config={"count": 2})
    assert counting.check_select(CONFIG, made, {}).passed is passed
