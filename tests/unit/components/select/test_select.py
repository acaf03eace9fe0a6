"""`select`: tables of each rate, resumed scores, pictures, and what it refuses (Beam: test_select_images.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from components.contract import fingerprint
from components.contract.api import Artifact, Context, Outcome
from components.engines import beam
from components.select import component as select
from components.select import shards
from tests.support import selection
from tests.support.synthetic import context_of, with_fields
from vim_core.config import NetworkConfig, SelectConfig
from vim_core.data.image_tables import ImageTable
from vim_core.data.images import decode, to_tensor
from vim_core.errors import ConfigError, LineageError
from vim_core.models.classifier import load_classifier

COUNT = 30


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("made")
    made = selection.images(root)
    selector = selection.classifier(root, "selector", made, seed=1)
    return {"images": made, "selector": selector, "samples": selection.samples(root, COUNT)}


@pytest.fixture(autouse=True)
def without_beam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beam, "run_shards", selection.one_after_the_other)


def settings(**fields: Any) -> SelectConfig:
    return SelectConfig(**{"count": 2, "rates": [1.0, 0.5, 0.2], "batch": 4, "shards": 2, **fields})


def done(inputs: dict[str, Artifact], root: Path, **fields: Any) -> tuple[Outcome, Context]:
    ctx = context_of(root, "select")
    return select.run(settings(**fields), inputs, ctx), ctx


def table(outcome: Outcome, ctx: Context, rate: str) -> ImageTable:
    return ImageTable([ctx.path(name) for name in sorted(outcome.rows) if name.startswith(f"images/accepted-{rate}-")])


def wanted(inputs: dict[str, Artifact]) -> dict[str, float]:
    """The probability of the class wanted, by key, in one batch and without the component."""
    made = inputs["selector"]
    model = load_classifier(made.uri("model.safetensors"), made.uri("config.json"))
    drawn = ImageTable(inputs["samples"].uris("images/"))
    with torch.inference_mode():
        logits = model(to_tensor(np.stack([decode(row.image) for row in drawn]))).double()
    found = logits.softmax(1)[torch.arange(len(drawn)), torch.from_numpy(drawn.labels)]
    return dict(zip(drawn.keys, found.tolist(), strict=True))


def test_every_rate_has_the_best_of_its_candidates(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    outcome, ctx = done(inputs, tmp_path)
    score = wanted(inputs)
    pictures = {row.key: (row.label, row.image) for row in ImageTable(inputs["samples"].uris("images/"))}
    for rate, pool in (("1.0", 2), ("0.5", 4), ("0.2", 10)):
        first = {label: [f"sample-{3 * i + label:08d}" for i in range(pool)] for label in range(3)}
        expected = sorted(key for keys in first.values() for key in sorted(keys, key=lambda key: -score[key])[:2])
        found = table(outcome, ctx, rate)
        assert found.keys == expected
        assert {row.key: (row.label, row.image) for row in found} == {key: pictures[key] for key in expected}
    names = {name for name in outcome.rows if "0.2" in name}
    assert names == {f"images/accepted-0.2-{shard:05d}-of-00002.parquet" for shard in range(2)}
    published = pq.read_table(ctx.path("scores.parquet")).to_pydict()
    assert dict(zip(published["key"], published["score"], strict=True)) == pytest.approx(score, rel=1e-5)


def test_what_was_done_is_recorded(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    outcome, ctx = done(inputs, tmp_path)
    properties = outcome.properties
    assert properties["selector"] == inputs["selector"].digest
    assert properties["rates"] == [1.0, 0.5, 0.2]
    assert properties["splits"] == {"accepted-1.0": 6, "accepted-0.5": 6, "accepted-0.2": 6}
    drawn = {"tokenizer": "tokenizer-digest", "encoder": "encoder-digest", "prior": "prior-digest"}
    assert drawn.items() <= properties.items()
    protocol = properties["protocol"]
    assert {"count": 6, "count_per_class": 2, "guidance": 2.0, "seed": 0}.items() <= protocol.items()
    assert protocol["selector"]["digest"] == inputs["selector"].digest
    assert "8 pixels" in protocol["selector"]["preprocessing"]
    metrics = outcome.metrics
    assert metrics["candidates"] == COUNT
    assert set(outcome.protocols) == set(metrics) - {"candidates", "count"}
    assert (outcome.protocols["agreeing"]["count"], outcome.protocols["score_accepted-0.5"]["count"]) == (COUNT, 6)
    assert metrics["score_accepted-1.0"] <= metrics["score_accepted-0.5"] <= metrics["score_accepted-0.2"]
    picture = ctx.tracker.pictures["accepted-beside-rejected"]  # type: ignore[attr-defined]
    # three classes; four accepted, a gap, four rejected; doubled, because they are small
    assert decode(picture).shape == (2 * (3 * 10 + 2), 2 * (9 * 10 + 2), 3)


def test_shards_change_no_content(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    one, other = done(inputs, tmp_path / "a", shards=1)[0], done(inputs, tmp_path / "b", shards=5)[0]
    assert one.digest == other.digest
    assert len(other.rows) == 15
    assert one.digest != done(inputs, tmp_path / "c", rates=[1.0, 0.5])[0].digest


def test_scored_shards_are_kept(inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = done(inputs, tmp_path / "whole")
    own, seen = shards.measure, []

    def dying(shard: shards.ScoreShard) -> str:
        seen.append(int(shard.images.split("samples-")[-1][:5]))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return own(shard)

    monkeypatch.setattr(shards, "measure", dying)
    with pytest.raises(KeyboardInterrupt):
        done(inputs, tmp_path / "killed")
    again, _ = done(inputs, tmp_path / "killed")
    assert again.digest == whole.digest
    assert seen == [0, 1, 1, 2]


def test_too_few_candidates_are_refused_before_any_is_looked_at(
    inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beam, "run_shards", lambda *given: pytest.fail("looked at candidates"))
    with pytest.raises(
        ConfigError, match=r"rate 0\.1 takes 20 candidates a class, there are 10: set sample\.count to at least 60"
    ):
        done(inputs, tmp_path, rates=[1.0, 0.1])


def test_inputs_that_do_not_belong_together_or_are_missing_are_refused(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    other = with_fields(inputs["images"], digest="other-images")
    with pytest.raises(LineageError, match="selector was made with images digest-of-in, images with other-images"):
        done({**inputs, "images": other}, tmp_path)
    without = {name: made for name, made in inputs.items() if name != "selector"}
    with pytest.raises(ConfigError, match=r"select\.network\.name='selector': needs the component selector"):
        done(without, tmp_path)
    free = selection.samples(tmp_path / "free", 6, classes=[])
    with pytest.raises(ConfigError, match="the samples have no classes to select by"):
        done({**inputs, "samples": free}, tmp_path)


def test_a_network_from_outside_needs_no_selector(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """The same weights through the interface for any network choose the same."""
    made = inputs["selector"]
    entry = next(entry for entry in made.manifest.files if entry.name == "model.safetensors")
    listed = tmp_path / "classes.txt"
    listed.write_text("".join(f"{name} a {name}\n" for name in made.properties["classes"]))
    outside = NetworkConfig(f"{__name__}:factory", made.uri("model.safetensors"), entry.sha256, str(listed))
    without = {name: given for name, given in inputs.items() if name != "selector"}
    own, other = done(inputs, tmp_path / "own")[0], done(without, tmp_path / "outside", network=outside)[0]
    assert own.digest == other.digest
    assert other.properties["selector"] == entry.sha256


def test_a_list_of_classes_counts_by_its_content_and_weights_by_their_hash(tmp_path: Path) -> None:
    def asked(weights: str, sha256: str, text: str) -> str:
        listed = tmp_path / f"{len(list(tmp_path.iterdir()))}.txt"
        listed.write_text(text)
        config = SelectConfig(NetworkConfig("torchvision:resnet101", weights, sha256, str(listed)))
        return fingerprint.fingerprint(
            "select", 1, fingerprint.result_settings(config), {}, select.source_state(config)
        )

    first = asked("a.pth", "0" * 8, "ant\nbee\n")
    assert first == asked("b.pth", "0" * 8, "ant\nbee\n")
    assert len({first, asked("a.pth", "1" * 8, "ant\nbee\n"), asked("a.pth", "0" * 8, "bee\nant\n")}) == 3
    assert select.source_state(SelectConfig()) == ""


def factory() -> torch.nn.Module:
    from vim_core.models.classifier import Classifier, ClassifierShape

    return Classifier(ClassifierShape(selection.SIZE, 3, 4, selection.FEATURES))
