"""From a folder of pictures to samples, without a setting: `vimctl init`, then `vimctl run`, at the first try."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.artifacts.execute import find
from components.artifacts.learning import compare_pictures
from pipelines import presets
from tests.support.common import results, vimctl
from tests.support.pictures import SHAPES, folder_of_pictures

FEWER = (
    "quantize.steps=250", "tokenize.views=4", "prior.steps=40", "classify.steps=40", "selector.steps=30",
    "probe.steps=10", "sample.count=150", "select.count=25", "run.system_metrics=false",
)  # fmt: skip
"""Less than what is proposed: the tokenizer shows its colours after 250 steps, of the others nothing is asked here."""


@pytest.mark.slow
def test_own_pictures_at_the_first_try(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "shapes", SHAPES, 60)
    preset = tmp_path / "shapes.yaml"
    written = vimctl("init", str(tmp_path / "shapes"), "--out", str(preset), "--minutes", "1", root=tmp_path)
    assert f"vimctl run --preset {preset}" in written.text
    root = tmp_path / "root"
    vimctl("run", "--preset", str(preset), *FEWER, root=root)
    figures = results(root, "shapes")
    assert figures["quantizer"]["codebook_usage"] >= 0.9
    assert figures["quantizer"]["psnr_db"] >= 16
    config = presets.load(str(preset), [*FEWER, f"run.root={root}"])
    originals, again = find("ingest", config), find("reconstruct", config)
    assert originals is not None
    assert again is not None
    kept = compare_pictures(originals, again)
    assert kept["colour"] > 0.3
    assert kept["kept"] > 0.7
    assert figures["samples"]["count"] == 150
    assert all(remark["remedy"].startswith("try ") for remark in figures["remarks"])
