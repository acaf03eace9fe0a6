"""`vimctl export`: the exported model loads bit for bit, and its card describes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import store
from components.contract.api import Artifact, InputRecord
from components.exchange import export
from tests.support import tiny_artifacts
from tests.support.synthetic import with_fields
from tests.support.tiny import assert_equal_bits
from vim_core.errors import DataError
from vim_core.models.vit_vqgan import load_tokenizer
from vim_core.pretrained import Prior, Tokenizer


def committed(artifact: Artifact, **fields: Any) -> Artifact:
    made = with_fields(artifact, **fields)
    Path(made.folder, store.MANIFEST).write_bytes(store.dump(made.manifest))
    return made


def tokenizer(root: Path) -> Artifact:
    made = tiny_artifacts.tokenizer(root)
    properties = {"image_size": 8, "grid": [2, 2], "vocabulary": 16, "encoder": "e" * 64, "images": "i" * 64}
    return committed(
        made,
        properties=properties,
        inputs={"images": InputRecord("ingest", "f" * 20, "i" * 64)},
        config={"steps": 500, "batch": 4, "hidden": "x"},
        metrics={"psnr_db": 23.25, "usage": 0.5},
        protocols={"psnr_db": {"figure": "psnr_db", "split": "test", "count": 5}},
        numeric={"device": "cpu"},
    )


def test_an_exported_tokenizer_is_the_artifact_bit_for_bit(tmp_path: Path) -> None:
    given = tokenizer(tmp_path)
    written = export.export(given.folder, str(tmp_path / "out"))
    assert [Path(name).name for name in written] == ["model.safetensors", "config.json", "README.md"]
    assert Path(written[0]).read_bytes() == Path(given.uri("model.safetensors")).read_bytes()
    found = Tokenizer.from_pretrained(tmp_path / "out")
    plain = load_tokenizer(given.uri("model.safetensors"), given.uri("config.json"))
    assert_equal_bits(found.model.state_dict(), plain.model.state_dict())
    assert found.lineage == {"digest": given.digest, "encoder": "e" * 64, "images": "i" * 64}


def test_the_card_says_data_figures_with_protocol_lineage_licence_and_usage(tmp_path: Path) -> None:
    given = tokenizer(tmp_path)
    export.export(given.folder, str(tmp_path / "out"), "CC0")
    card = (tmp_path / "out" / "README.md").read_text()
    weights = next(entry for entry in given.manifest.files if entry.name == "model.safetensors")
    for line in (
        "A ViT-VQGAN: images of 8 x 8 pixels to 2 x 2 codes of 16, and back.",
        f"| images | `ingest` artifact `{'i' * 64}` |",
        "| steps | 500 |",
        "| psnr_db | 23.25 | count: 5; split: test |",
        "| usage | 0.5 | held-out images at the end of training |",
        f"| digest | `{given.digest}` |",
        "## Licence\n\nCC0\n",
        "tokenizer = Tokenizer.from_pretrained(",
        weights.sha256,
    ):
        assert line in card, line
    assert "hidden" not in card


def test_an_exported_prior_knows_its_tokenizer(tmp_path: Path) -> None:
    made_for = tokenizer(tmp_path)
    given = committed(tiny_artifacts.prior(tmp_path, made_for))
    export.export(made_for.folder, str(tmp_path / "t"))
    export.export(given.folder, str(tmp_path / "p"))
    found = Prior.from_pretrained(tmp_path / "p")
    found.check(Tokenizer.from_pretrained(tmp_path / "t"))
    card = (tmp_path / "p" / "README.md").read_text()
    assert "over 2 x 2 codes of 16, given one of 3 classes." in card
    assert "| classes | ant, bee, cat |" in card
    assert "No licence is stated" in card
    assert json.loads((tmp_path / "p" / "config.json").read_text())["kind"] == "image_prior"


def test_changed_artifacts_and_other_folders_are_refused(tmp_path: Path) -> None:
    given = tokenizer(tmp_path)
    with pytest.raises(DataError, match=r"no manifest\.json lies there"):
        export.export(str(tmp_path), str(tmp_path / "out"))
    weights = Path(given.uri("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"model\.safetensors"):
        export.export(given.folder, str(tmp_path / "out"))
    other = committed(tiny_artifacts.images(tmp_path / "i"))
    with pytest.raises(DataError, match="is an artifact of ingest; quantize and prior are exported"):
        export.export(other.folder, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
