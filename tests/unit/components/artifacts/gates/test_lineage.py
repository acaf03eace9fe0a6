"""Lineage and the table of gates: what was made from something else is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.artifacts.gates import lineage, table
from components.artifacts.gates.verdict import Verdict
from components.contract import registry
from components.contract.api import Artifact
from tests.support.synthetic import artifact, with_fields
from vim_core.config import PipelineConfig

CONFIG = PipelineConfig()
A, B = "a" * 64, "b" * 64


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
    return lineage.check_lineage(CONFIG, made, {each: chain[each] for each in inputs})


def test_what_belongs_together_passes(chain: dict[str, Artifact]) -> None:
    assert judged(chain, "tokenizer", "images").passed
    assert judged(chain, "codes", "images", "tokenizer").passed
    assert judged(chain, "prior", "codes", "tokenizer", "images").passed


def test_codes_of_another_tokenizer_fail(chain: dict[str, Artifact]) -> None:
    verdict = judged(chain, "codes", "images", "tokenizer", tokenizer=B, encoder=B)
    assert not verdict.passed
    assert "was made by tokenizer bbbbbbbbbbbb, not by digest-of-qu" in verdict.text
    assert "vimctl run tokenize --force" in verdict.remedy


def test_another_decoder_behind_the_same_codes_passes(chain: dict[str, Artifact]) -> None:
    assert judged(chain, "codes", "images", "tokenizer", tokenizer=B).passed


def test_other_images_or_codes_fail(chain: dict[str, Artifact]) -> None:
    assert not judged(chain, "codes", "images", "tokenizer", images=B).passed
    assert not judged(chain, "prior", "codes", "tokenizer", codes=B).passed
    chain["codes"] = with_fields(chain["codes"], properties={"tokenizer": B, "encoder": B})
    assert not judged(chain, "prior", "codes").passed


def test_an_artifact_that_does_not_say_fails(chain: dict[str, Artifact]) -> None:
    silent = with_fields(chain["codes"], properties={})
    verdict = lineage.check_lineage(CONFIG, silent, {"images": chain["images"]})
    assert not verdict.passed
    assert "images, tokenizer" in verdict.text


def test_a_refusal_names_the_artifact_and_every_failed_gate(chain: dict[str, Artifact]) -> None:
    verdicts = [
        Verdict("one", False, "3 of 4", "raise it"),
        Verdict("two", True, "fine"),
        Verdict("three", False, "no", "x"),
    ]
    refused = table.gate_error(chain["codes"], verdicts)
    text = str(refused)
    assert text.startswith("tokenize/tokenize is kept, but nothing is made from it: ")
    assert "gate one: 3 of 4. raise it; gate three: no. x" in text
    assert "two" not in text
    assert table.gate_error(chain["codes"], verdicts[1:2]) is None


def test_gates_are_of_components_and_run_by_name(chain: dict[str, Artifact]) -> None:
    assert set(table.GATES) <= set(registry.NAMES)
    inputs = {"images": chain["images"], "tokenizer": chain["tokenizer"]}
    assert [each.gate for each in table.evaluate("tokenize", CONFIG, chain["codes"], inputs)] == list(
        table.GATES["tokenize"]
    )
    assert table.evaluate("report", CONFIG, chain["codes"], {}) == []
