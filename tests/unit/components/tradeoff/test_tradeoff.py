"""`tradeoff`: every point is what sample, select and score would say, points are kept, lineage is enforced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.contract.api import Artifact, Context, FileEntry, Outcome
from components.engines import beam
from components.sample import component as sample
from components.score import measure as measuring
from components.score import partition, protocols
from components.score.samples import add_samples
from components.select import component as select
from components.tradeoff import candidates
from components.tradeoff import component as tradeoff
from tests.support import selection, tiny_artifacts
from tests.support.synthetic import artifact, context_of, with_fields
from vim_core.config import SampleConfig, ScoreConfig, SelectConfig, TradeoffConfig
from vim_core.errors import ConfigError, LineageError
from vim_core.metrics import npz
from vim_core.sampling.sampler import Sampler
from vim_core.storage import io

Run = tuple[dict[str, Any], Outcome, Context]
"""Content of `tradeoff.json`, outcome, context."""
Figures = dict[str, float]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("models")
    tokenizer, images = tiny_artifacts.tokenizer(root), selection.images(root)
    judge = selection.classifier(root, "classify", images, seed=0)
    return {
        "tokenizer": tokenizer,
        "prior": tiny_artifacts.prior(root, tokenizer),
        "classifier": judge,
        "selector": selection.classifier(root, "selector", images, seed=1),
        "statistics": with_fields(selection.statistics(root, images, judge), config={"score_splits": 2}),
    }


def settings(**fields: Any) -> TradeoffConfig:
    grid = {"temperatures": [1.0, 0.5], "guidances": [1.0, 2.0], "acceptances": [1.0, 0.5]}
    return TradeoffConfig(**{**grid, "count": 4, "lanes": 5, "groups": 6, "bootstrap": 20, "seed": 3, **fields})


def done(inputs: dict[str, Artifact], root: Path, **fields: Any) -> Run:
    ctx = context_of(root, "tradeoff")
    outcome = tradeoff.run(settings(**fields), inputs, ctx)
    return json.loads(io.read_bytes(ctx.path("tradeoff.json"))), outcome, ctx


@pytest.fixture(scope="module")
def grid(inputs: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The whole grid of `settings`: eight points."""
    return done(inputs, tmp_path_factory.mktemp("grid"))


def kept(ctx: Context, outcome: Outcome, **inputs: Artifact) -> Artifact:
    """The artifact of image tables that a run wrote."""
    made = artifact(Path(ctx.run.root), ctx.name, {}, inputs, properties=outcome.properties)
    return with_fields(Artifact(ctx.out, made.manifest), files=[FileEntry(name, name, 0, "") for name in outcome.rows])


def expected(inputs: dict[str, Artifact], root: Path, temperature: float, guidance: float) -> dict[float, Figures]:
    """Figures of the points by rate, as `sample`, `select` and `score` give them."""
    drawing = SampleConfig(24, 3, temperature, guidance=guidance, lanes=5, shards=2)
    ctx, config = context_of(root, "sample"), ScoreConfig(groups=6)
    inputs = {**inputs, "images": selection.images(root)}
    inputs["samples"] = kept(ctx, sample.run(drawing, inputs, ctx), prior=inputs["prior"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beam, "run_shards", selection.one_after_the_other)
        ctx = context_of(root, "select")
        accepted = kept(ctx, select.run(SelectConfig(count=4, rates=[1.0, 0.5], shards=2), inputs, ctx))
    inputs = {**inputs, "accepted": accepted}
    ctx, found = context_of(root, "score"), {}
    for images in partition.image_sets(config, inputs, ctx)[1:]:
        figures, shards = protocols.Figures(), partition.sample_shards(config, inputs, ctx, images)
        for shard in shards:
            measuring.measure(shard)
        add_samples(figures, images, shards, config, inputs, ctx)
        rate = images.name.removeprefix(partition.ACCEPTED)
        found[float(rate)] = {name.replace(f"_accepted_{rate}", ""): value for name, value in figures.metrics.items()}
    return found


def test_every_point_is_what_sample_select_and_score_say(
    inputs: dict[str, Artifact], grid: Run, tmp_path: Path
) -> None:
    found, outcome, _ = grid
    places = [(p["temperature"], p["guidance"], p["acceptance"]) for p in found["points"]]
    assert places == [(t, g, a) for t in (1.0, 0.5) for g in (1.0, 2.0) for a in (1.0, 0.5)]
    points = dict(zip(places, found["points"], strict=True))
    for number, (temperature, guidance) in enumerate([(1.0, 1.0), (0.5, 2.0)]):
        for rate, figures in expected(inputs, tmp_path / str(number), temperature, guidance).items():
            point = points[temperature, guidance, rate]
            same = {
                f"{own}{end}": figures[f"{name}{end}"]
                for own, name in found["figures"].items() for end in ("", "_low", "_high")
            }  # fmt: skip
            assert {name: point[name] for name in same} == pytest.approx(same, rel=1e-5), (temperature, guidance, rate)
            assert point["count"] == 12
            assert point["fd_low"] < point["fd"] < point["fd_high"]
    distances = [point["fd"] for point in found["points"]]
    assert found["best"] == int(np.argmin(distances))
    assert outcome.metrics["best_fd"] == min(distances)
    assert len(set(distances)) == 8


def test_another_confidence_changes_the_intervals_alone(inputs: dict[str, Artifact], grid: Run, tmp_path: Path) -> None:
    other = done(inputs, tmp_path, temperatures=[1.0], guidances=[1.0], confidence=0.5)[0]["points"]
    for point, wide in zip(other, grid[0]["points"], strict=False):
        for name in ("accuracy", "fd", "is"):
            assert point[name] == wide[name]
            assert wide[f"{name}_low"] < point[f"{name}_low"] <= point[f"{name}_high"] < wide[f"{name}_high"]


def test_the_best_guidance_is_said_for_every_temperature_and_rate(grid: Run) -> None:
    found, outcome, ctx = grid
    places = found["best_guidance"]
    assert [(p["temperature"], p["acceptance"]) for p in places] == [(1.0, 1.0), (1.0, 0.5), (0.5, 1.0), (0.5, 0.5)]
    for place in places:
        line = [p for p in found["points"] if all(p[k] == place[k] for k in ("temperature", "acceptance"))]
        assert place["guidance"] == min(line, key=lambda point: point["fd"])["guidance"]
        assert place["low"] <= place["high"]
        assert sum(place["shares"].values()) == pytest.approx(1)
    assert outcome.metrics["best_guidance"] == places[0]["guidance"]
    assert len(ctx.tracker.logged) == 8  # type: ignore[attr-defined]


def test_evaluator_and_selector_are_recorded(inputs: dict[str, Artifact], grid: Run) -> None:
    found, outcome, _ = grid
    assert (found["judge"], found["selector"]) == (inputs["classifier"].digest, inputs["selector"].digest)
    assert found["figures"] == {"accuracy": "conditional_accuracy", "fd": "fd_classifier", "is": "is_classifier"}
    protocol = found["protocol"]
    assert {"count_per_class": 4, "seed": 3, "resamples": 20, "reference_count": 40}.items() <= protocol.items()
    assert protocol["reference_digest"] == inputs["statistics"].digest
    assert outcome.properties["prior"] == inputs["prior"].digest
    assert outcome.protocols["best_fd"]["count"] == 12
    assert set(outcome.protocols) == set(outcome.metrics) - {"points"}


def test_without_rejection_there_is_no_selector_and_without_groups_no_interval(
    inputs: dict[str, Artifact], grid: Run, tmp_path: Path
) -> None:
    without = {name: made for name, made in inputs.items() if name != "selector"}
    fields: dict[str, Any] = {"temperatures": [1.0], "acceptances": [1.0], "groups": 0}
    found, _, _ = done(without, tmp_path, **fields)
    assert found["selector"] == ""
    assert found["protocol"]["selector"] == {}
    for point, same in zip(found["points"], grid[0]["points"][:4:2], strict=True):
        assert "fd_low" not in point
        assert point["accuracy_low"] <= point["accuracy"] <= point["accuracy_high"]
        assert point["fd"] == same["fd"]


def test_finished_points_and_parts_are_kept(
    inputs: dict[str, Artifact], grid: Run, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(candidates, "PART", 10)
    own, drawn = Sampler.group, []

    def dying(self: Sampler, index: int, labels: Any, prefix: Any = None) -> Any:
        drawn.append((self.settings.temperature, self.settings.guidance, index))
        if len(drawn) == 9:
            raise KeyboardInterrupt
        return own(self, index, labels, prefix)

    monkeypatch.setattr(Sampler, "group", dying)
    with pytest.raises(KeyboardInterrupt):
        done(inputs, tmp_path / "killed")
    left = [str(path.relative_to(tmp_path)) for path in (tmp_path / "killed").rglob("part-*.npz")]
    # the first cell is measured and its candidates are gone, of the second one part of two groups was whole
    assert len(left) == 1
    assert done(inputs, tmp_path / "killed")[0] == grid[0]
    assert drawn[5:9] == [(1.0, 2.0, index) for index in (0, 1, 2, 3)]
    assert drawn[9:12] == [(1.0, 2.0, index) for index in (2, 3, 4)]


def test_a_point_of_another_grid_is_the_same_point(inputs: dict[str, Artifact], grid: Run, tmp_path: Path) -> None:
    """Common noise: a point depends on nothing beside itself, a loose one not even on how many candidates there are."""
    whole = grid[0]["points"]
    alone = done(inputs, tmp_path, temperatures=[0.5], guidances=[2.0], acceptances=[1.0])[0]["points"]
    same = next(p for p in whole if (p["temperature"], p["guidance"], p["acceptance"]) == (0.5, 2.0, 1.0))
    assert alone == [same]


def test_a_column_is_read_from_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "PART", 4)
    given = candidates.CandidateSet(SampleConfig(count=11, lanes=2), (0.25,), str(tmp_path / "cell"), classes=2)
    assert len(given.parts) == 3
    for number, groups in enumerate(given.parts):
        rows = np.arange(groups.start * 2, min(groups.stop * 2, 11))
        pair = np.stack([rows, rows], 1).astype(np.float32)
        data = npz.pack(scores=rows.astype(float), correct=rows, features=pair, logits=pair)
        io.write_bytes(given.part_uri(number), data)
    wanted = np.array([0, 1, 3, 9, 10])
    assert given.column("correct", wanted).tolist() == wanted.tolist()
    assert given.column("scores").tolist() == list(range(11))
    assert given.point_uri(0.25).endswith("cell-a0.25.json")


@pytest.mark.parametrize("name", ["selector", "statistics"])
def test_networks_of_other_images_are_refused(inputs: dict[str, Artifact], tmp_path: Path, name: str) -> None:
    made = inputs[name]
    records = dict(made.manifest.inputs)
    other = with_fields(selection.images(tmp_path), digest="other-images")
    records["images"] = selection.classifier(tmp_path, "x", other, 0).manifest.inputs["images"]
    with pytest.raises(LineageError, match=f"{name} was made with images other-images"):
        done({**inputs, name: with_fields(made, inputs=records)}, tmp_path)


def test_a_judge_that_selected_or_is_another_and_a_strange_tokenizer_are_refused(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    selector = with_fields(inputs["classifier"], component="selector")
    with pytest.raises(LineageError, match=r"tradeoff: the network .* selected the samples"):
        done({**inputs, "selector": selector}, tmp_path)
    judge = with_fields(inputs["classifier"], digest="another-judge")
    with pytest.raises(LineageError, match="statistics was made with classifier digest-of-cl"):
        done({**inputs, "classifier": judge}, tmp_path)
    tokenizer = with_fields(inputs["tokenizer"], digest="another-tokenizer")
    with pytest.raises(LineageError, match="belongs to tokenizer"):
        done({**inputs, "tokenizer": tokenizer}, tmp_path)


def test_a_prior_that_cannot_do_it_is_refused(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    free = tiny_artifacts.prior(tmp_path / "free", inputs["tokenizer"], conditional=False)
    with pytest.raises(ConfigError, match="the prior has no classes"):
        tradeoff.check(settings(), {**inputs, "prior": free})
    plain = tiny_artifacts.prior(tmp_path / "plain", inputs["tokenizer"], null_trained=False)
    tradeoff.check(settings(guidances=[1.0]), {**inputs, "prior": plain})
    with pytest.raises(
        ConfigError, match=r"tradeoff\.guidances=\[1\.0, 2\.0\]: needs a prior trained with prior\.label"
    ):
        tradeoff.check(settings(), {**inputs, "prior": plain})
