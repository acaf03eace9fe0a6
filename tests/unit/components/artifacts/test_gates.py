"""Quality gates: each passes on a right manifest and fails on a wrong one, with figure, bound and remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import gates, verdicts
from components.artifacts.verdicts import Verdict, last_rows
from components.contract import registry
from components.contract.api import Artifact, FileEntry
from tests.support.synthetic import artifact, with_fields
from vim_core.config import GatesConfig, PipelineConfig

CONFIG = PipelineConfig()
SPLITS = {"train": 5, "test": 3}
A, B = "a" * 64, "b" * 64


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
    right = gates.check_ingest(CONFIG, ingested(tmp_path, {"train": [2, 3], "test": [3]}), {})
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
    verdict = gates.check_ingest(CONFIG, ingested(tmp_path, rows, **said), {})
    assert not verdict.passed
    assert "vimctl run ingest --force" in verdict.remedy


def test_a_manifest_that_says_nothing_has_failed(tmp_path: Path) -> None:
    verdict = gates.check_ingest(CONFIG, table(tmp_path, "ingest", "images", {}), {})
    assert not verdict.passed
    assert "read, dead_letter, splits" in verdict.text


@pytest.mark.parametrize(("train", "test", "passed"), [(10, 3, True), (5, 3, False), (10, 6, False), (9, 3, False)])
def test_codes_of_every_view(tmp_path: Path, train: int, test: int, passed: bool) -> None:
    images = ingested(tmp_path, {"train": [5], "test": [3]})
    codes = table(tmp_path, "tokenize", "codes", {"train": [train], "test": [test]}, {"views": 2})
    assert gates.check_tokenize(CONFIG, codes, {"images": images}).passed is passed


LIMITS = [(0, 3, True), (0, 2, False), (2, 2, True), (7, 3, True), (2, 3, False)]


@pytest.mark.parametrize(("limit", "rows", "passed"), LIMITS)
def test_reconstructions_up_to_the_limit(tmp_path: Path, limit: int, rows: int, passed: bool) -> None:
    images = ingested(tmp_path, {"train": [5], "test": [3]})
    made = table(tmp_path, "reconstruct", "images", {"test": [rows]}, config={"limit": limit})
    assert gates.check_reconstruct(CONFIG, made, {"images": images}).passed is passed


@pytest.mark.parametrize(("rows", "passed"), [([4, 3], True), ([4], False), ([4, 4], False)])
def test_samples_are_as_many_as_asked_for(tmp_path: Path, rows: list[int], passed: bool) -> None:
    made = table(tmp_path, "sample", "images", {"samples": rows}, config={"count": 7})
    assert gates.check_sample(CONFIG, made, {}).passed is passed


@pytest.mark.parametrize(("rows", "passed"), [((6, 6), True), ((6, 5), False), ((6, 0), False)])
def test_as_many_accepted_of_a_class_at_every_rate(tmp_path: Path, rows: tuple[int, int], passed: bool) -> None:
    splits = {f"accepted-{rate}": [count] for rate, count in zip((1.0, 0.5), rows, strict=True)}
    said = {"rates": [1.0, 0.5], "classes": ["a", "b", "c"]}
    made = table(tmp_path, "select", "images", splits, said, config={"count": 2})
    assert gates.check_select(CONFIG, made, {}).passed is passed


@pytest.fixture
def chain(tmp_path: Path) -> dict[str, Artifact]:
    """Images, a tokenizer, codes and a prior that belong together."""
    images = artifact(tmp_path, "ingest", {})
    tokenizer = artifact(tmp_path, "quantize", {}, properties={"images": images.digest, "encoder": A})
    by = {"tokenizer": tokenizer.digest, "encoder": A}
    codes = artifact(tmp_path, "tokenize", {}, properties={"images": images.digest, **by})
    prior = artifact(tmp_path, "prior", {}, properties={"codes": codes.digest, **by})
    return {"images": images, "tokenizer": tokenizer, "codes": codes, "prior": prior}


def judged(chain: dict[str, Artifact], name: str, *inputs: str, **properties: Any) -> Verdict:
    made = chain[name]
    made = with_fields(made, properties={**made.properties, **properties})
    return gates.check_lineage(CONFIG, made, {each: chain[each] for each in inputs})


def test_what_belongs_together_passes(chain: dict[str, Artifact]) -> None:
    assert judged(chain, "tokenizer", "images").passed
    assert judged(chain, "codes", "images", "tokenizer").passed
    assert judged(chain, "prior", "codes", "tokenizer", "images").passed
    assert judged(chain, "codes", "images", "tokenizer", tokenizer=B).passed, "another decoder behind the same codes"


def test_codes_of_another_tokenizer_fail(chain: dict[str, Artifact]) -> None:
    verdict = judged(chain, "codes", "images", "tokenizer", tokenizer=B, encoder=B)
    assert not verdict.passed
    assert "was made by tokenizer bbbbbbbbbbbb, not by digest-of-qu" in verdict.text
    assert "vimctl run tokenize --force" in verdict.remedy


def test_other_images_or_codes_fail(chain: dict[str, Artifact]) -> None:
    assert not judged(chain, "codes", "images", "tokenizer", images=B).passed
    assert not judged(chain, "prior", "codes", "tokenizer", codes=B).passed
    chain["codes"] = with_fields(chain["codes"], properties={"tokenizer": B, "encoder": B})
    assert not judged(chain, "prior", "codes").passed


def test_an_artifact_that_does_not_say_fails(chain: dict[str, Artifact]) -> None:
    silent = with_fields(chain["codes"], properties={})
    verdict = gates.check_lineage(CONFIG, silent, {"images": chain["images"]})
    assert not verdict.passed
    assert "images, tokenizer" in verdict.text


def test_a_refusal_names_the_artifact_and_every_failed_gate(chain: dict[str, Artifact]) -> None:
    verdicts = [
        Verdict("one", False, "3 of 4", "raise it"),
        Verdict("two", True, "fine"),
        Verdict("three", False, "no", "x"),
    ]
    refused = gates.gate_error(chain["codes"], verdicts)
    text = str(refused)
    assert text.startswith("tokenize/tokenize is kept, but nothing is made from it: ")
    assert "gate one: 3 of 4. raise it; gate three: no. x" in text
    assert "two" not in text
    assert gates.gate_error(chain["codes"], verdicts[1:2]) is None


def test_gates_are_of_components_and_run_by_name(chain: dict[str, Artifact]) -> None:
    assert set(gates.GATES) <= set(registry.NAMES)
    inputs = {"images": chain["images"], "tokenizer": chain["tokenizer"]}
    assert [each.gate for each in gates.evaluate("tokenize", CONFIG, chain["codes"], inputs)] == list(
        gates.GATES["tokenize"]
    )
    assert gates.evaluate("report", CONFIG, chain["codes"], {}) == []


def config(**bounds: float) -> PipelineConfig:
    return PipelineConfig(gates=GatesConfig(**bounds))


def trained(root: Path, *rows: dict[str, Any], skipped: list[int] | None = None, **fields: Any) -> Artifact:
    """A training's artifact with these logged figures, ten steps apart, and skipped updates."""
    lines = [json.dumps({"step": 10 * i + 9, "t": 0, "m": row}) + "\n" for i, row in enumerate(rows)]
    files = {"curves.jsonl": lambda uri: Path(uri).write_text("".join(lines))}
    if skipped is not None:
        faults = "".join(
            json.dumps({"step": step, "t": 0, "nonfinite": ["loss"], "samples": []}) + "\n" for step in skipped
        )
        files["nonfinite.jsonl"] = lambda uri: Path(uri).write_text(faults)
    return artifact(root, "quantize", files, **{"config": {"steps": 200}, **fields})


def test_finite_figures_pass(tmp_path: Path) -> None:
    made = trained(tmp_path, {"loss": float("nan")}, {"loss": 0.5}, metrics={"test_psnr_db": 20.0})
    assert gates.check_finite(config(), made, {}).passed, "only the end of the curves counts"


@pytest.mark.parametrize(
    ("row", "metrics", "named"),
    [
        ({"loss": float("nan")}, {}, "loss at step 9"),
        ({"loss": 1.0, "l2": float("inf")}, {}, "l2 at step 9"),
        ({"loss": 1.0}, {"test_psnr_db": float("nan")}, "test_psnr_db"),
    ],
)
def test_what_is_not_finite_fails_by_name(tmp_path: Path, row: Any, metrics: Any, named: str) -> None:
    verdict = gates.check_finite(config(), trained(tmp_path, row, metrics=metrics), {})
    assert not verdict.passed
    assert named in verdict.text


@pytest.mark.parametrize(("skipped", "passed"), [([3], True), ([3, 3, 4], True), ([3, 4, 5], False)])
def test_few_updates_may_be_skipped(tmp_path: Path, skipped: list[int], passed: bool) -> None:
    """One in a hundred of two hundred steps; a step that is listed twice counts once."""
    made = trained(tmp_path, {"loss": 0.5}, skipped=skipped)
    verdict = gates.check_finite(config(nonfinite_share=0.01), made, {})
    assert verdict.passed is passed
    assert f"{len(set(skipped))} of 200" in verdict.text
    blank = Artifact(made.folder, replace(made.manifest, config={}))
    assert not gates.check_finite(config(nonfinite_share=1.0), blank, {}).passed, "of how many steps is unknown"
    if not passed:
        accepted = float(verdict.remedy.rpartition("gates.nonfinite_share=")[2])
        assert gates.check_finite(config(nonfinite_share=accepted), made, {}).passed


def test_a_codebook_in_use_passes_and_a_collapsed_one_fails(tmp_path: Path) -> None:
    made = trained(tmp_path, {"codebook_usage": 0.9}, {"codebook_usage": 0.2, "batch_usage": 0.01}, {"loss": 1.0})
    assert gates.check_codebook_usage(config(codebook_usage=0.2), made, {}).passed
    refused = gates.check_codebook_usage(config(codebook_usage=0.3), made, {})
    assert not refused.passed
    assert "codebook_usage 0.2 at step 19, at least 0.3" in refused.text
    accepted = float(refused.remedy.rpartition("gates.codebook_usage=")[2])
    assert gates.check_codebook_usage(config(codebook_usage=accepted), made, {}).passed


def test_the_usage_of_a_batch_is_taken_where_no_window_was_logged_and_none_fails(tmp_path: Path) -> None:
    made = trained(tmp_path, {"batch_usage": 0.5})
    assert gates.check_codebook_usage(config(codebook_usage=0.4), made, {}).passed
    assert not gates.check_codebook_usage(config(codebook_usage=0.6), made, {}).passed
    assert not gates.check_codebook_usage(config(codebook_usage=0.0), trained(tmp_path, {"loss": 1.0}), {}).passed
    bare = artifact(tmp_path / "bare", "quantize", {})
    assert not gates.check_codebook_usage(config(), bare, {}).passed


def test_only_the_end_of_long_curves_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"codebook_usage": i / 100, "loss": 1.0} for i in range(50)]
    made = trained(tmp_path, *rows)
    monkeypatch.setattr(verdicts, "TAIL_BYTES", 200)
    read = [json.loads(line) for line in Path(made.uri("curves.jsonl")).read_bytes()[-200:].splitlines()[1:]]
    assert last_rows(made) == read
    assert gates.check_codebook_usage(config(codebook_usage=0.49), made, {}).passed
    assert not gates.check_codebook_usage(config(codebook_usage=0.5), made, {}).passed
