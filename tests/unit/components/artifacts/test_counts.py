"""All that later components need of the ingested images is checked at once, with what fits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import gates
from components.artifacts.counts import counted, shortfalls
from components.contract import registry, settings
from components.contract.api import Artifact
from tests.support.common import CONF
from tests.support.synthetic import artifact, image_files
from vim_core.config import PipelineConfig
from vim_core.data.image_tables import ImageRow

ALL = [name for name in registry.NAMES if name != "report"]


def missing(config: PipelineConfig, images: Artifact) -> list[str]:
    return shortfalls(config, counted(images))


def config(*overrides: str, components: list[str] = ALL) -> PipelineConfig:
    return settings.load(str(CONF / "digits.yaml"), [f"components=[{','.join(components)}]", *overrides])


def ingested(root: Path, train: int, test: int, classes: int = 10) -> Artifact:
    """Images as ingest leaves them, whose keys alone count."""
    files: dict[str, Any] = {}
    for split, count in (("train", train), ("test", test)):
        rows = [ImageRow(f"{split}-{i:05d}", i % max(classes, 1), b"", 1, 1, "test") for i in range(count)]
        files |= image_files(split, rows, 2)
    counts = {
        split: [len(range(label, count, classes)) for label in range(classes)]
        for split, count in (("train", train), ("test", test))
    }
    names = [f"class-{label}" for label in range(classes)]
    said = {"splits": {"train": train, "test": test}, "classes": names, "class_counts": counts}
    return artifact(root, "ingest", files, properties=said)


def test_the_demo_fits_its_images(tmp_path: Path) -> None:
    assert missing(config(), ingested(tmp_path, 1495, 302)) == []


NO_SELECT = f"components=[{','.join(name for name in ALL if name != 'select')}]"
NO_PROBE = f"components=[{','.join(name for name in ALL if name != 'probe')}]"
CASES = [
    (["select.count=50"], "select.count=50: .* 200 candidates a class, .*=1000 gives 100", "select.count=25"),
    (["select.count=12", "select.rates=[0.3]", "sample.count=395"], "takes 40 candidates a class", "sample.count=400"),
    (["statistics.score_splits=300"], "would be empty among 302 test images or sample.count=1000", None),
    (["sample.count=3", "statistics.score_splits=0", NO_SELECT], "look at 3 neighbours, and these are 3 images", None),
    (["sample.count=1", "statistics.score_splits=0", "statistics.features=0", NO_SELECT], "needs 2 images", None),
    (["sample.classes=[class-1,class-2]"], "select keeps images of each of the 10 classes", None),
    (["sample.classes=[clas-1]", NO_SELECT], "no class is called 'clas-1'; did you mean 'class-1'", None),
    (["score.protocol=torch-fidelity"], "KID takes 1000 images a side, and there are 1000 samples and 302 real", None),
    (["prior.label_dropout=0.0", "components=[ingest,quantize,tokenize,prior,sample]"],
     "sample.guidance=2.0: needs a class-conditional prior", "sample.guidance=1"),
    (["prior.label_dropout=0.0", "sample.guidance=1", "tradeoff.guidances=[1.0]"], "probe: the true class", None),
    (["prior.label_dropout=0.0", "sample.guidance=1", "probe.steps=1", NO_PROBE],
     r"tradeoff.guidances=.* set tradeoff.guidances=\[1.0\]", None),
    (["probe.validation_share=0.0001", "probe.seed=1"], "of 1495 training images none is on one side", None),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "expected", "fits"), CASES)
def test_a_setting_that_asks_for_more_is_named_with_what_fits(
    tmp_path: Path, overrides: list[str], expected: str, fits: str | None
) -> None:
    images = ingested(tmp_path, 1495, 302)
    (problem,) = missing(config(*overrides), images)
    assert re.search(expected, problem), problem
    if fits:
        assert f"set {fits}" in problem or f"or {fits}" in problem
        assert missing(config(*overrides, fits), images) == []


def test_all_that_do_not_fit_are_named_at_once_and_what_is_named_fits(tmp_path: Path) -> None:
    images = ingested(tmp_path, 27, 5, 3)
    overrides = ["select.count=200", "statistics.halves=[test]", "statistics.score_splits=40"]
    verdict = gates.check_sufficient(config(*overrides), images, {})
    assert not verdict.passed
    assert verdict.text.startswith("27 training and 5 held-out images of 3 classes: 4 settings do not fit: (1) ")
    for setting in ("statistics.halves=", "statistics.features=", "statistics.score_splits=", "select.count="):
        assert setting in verdict.text
    fitting = re.findall(r"set ((?:select|statistics)\.\w+=\S+?)(?: |;|$)", verdict.text)
    assert gates.check_sufficient(config(*overrides, *fitting), images, {}).passed, fitting


@pytest.mark.parametrize(("classes", "there"), [(1, "there is only 'class-0'"), (0, "there is none")])
def test_without_two_classes_nothing_tells_them_apart(tmp_path: Path, classes: int, there: str) -> None:
    images = ingested(tmp_path, 60, 20, classes)
    text = "\n".join(missing(config("select.count=10"), images))
    assert f"components: classify, selector, probe tell classes apart, and {there}; leave out" in text
    generating = ["ingest", "quantize", "tokenize", "reconstruct", "prior", "sample", "score"]
    assert missing(config(components=generating), images) == []


def test_components_that_a_preset_lacks_ask_for_nothing(tmp_path: Path) -> None:
    images = ingested(tmp_path, 3, 1, 2)
    assert missing(config(components=["ingest", "quantize"]), images) == []


def test_an_old_manifest_without_classes_fails(tmp_path: Path) -> None:
    verdict = gates.check_sufficient(config(), artifact(tmp_path, "ingest", {}), {})
    assert not verdict.passed
    assert "classes, splits" in verdict.text
