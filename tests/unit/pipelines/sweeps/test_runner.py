"""A sweep over fake components: what is shared, what is done again, what a failure and an interruption leave."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import inventory
from components.contract import registry
from components.contract.api import Artifact, Context, Outcome
from components.tracking.progress import LineProgress
from pipelines.sweeps import results, runner, summary
from pipelines.sweeps.runner import SweepResult
from pipelines.sweeps.spec import Sweep
from tests.support.fakes import Act, Fake, run
from vim_core.config import PipelineConfig, PriorConfig, RunConfig
from vim_core.errors import ConfigError, DataError

SHARED = ("ingest", "classify", "statistics", "quantize", "tokenize", "reconstruct", "prior")
GRID = Sweep("trial", grid={"sample.guidance": [1.0, 2.0, 3.0], "acceptance": [1.0, 0.5]})


def ingest(config: Any, inputs: Mapping[str, Artifact], ctx: Context) -> Outcome:
    return Outcome(properties={"classes": ["a", "b"]})


def statistics(config: Any, inputs: Mapping[str, Artifact], ctx: Context) -> Outcome:
    return Outcome(properties={"network": {"kind": "classifier", "published": False}})


def sample(config: Any, inputs: Mapping[str, Artifact], ctx: Context) -> Outcome:
    about = {"guidance": config.guidance, "temperature": config.temperature}
    return Outcome(properties={"sampling": about, "count": config.count}, digest=f"samples of {about} {config.count}")


def failing(guidance: float, error: Exception) -> Act:
    """`sample` that fails at one guidance."""

    def act(config: Any, inputs: Mapping[str, Artifact], ctx: Context) -> Outcome:
        if config.guidance == guidance:
            raise error
        return sample(config, inputs, ctx)

    return act


def select(config: Any, inputs: Mapping[str, Artifact], ctx: Context) -> Outcome:
    return Outcome(properties={"rates": config.rates, "count": config.count * 2}, digest=f"{inputs['samples'].digest}")


def score(config: Any, inputs: Mapping[str, Artifact], ctx: Context) -> Outcome:
    """Accuracy rises with guidance and rejection, the distance is least at guidance 2."""
    drawn = inputs["samples"].properties
    guidance = drawn["sampling"]["guidance"]
    sets = {"": (1.0, drawn["count"])}
    if "accepted" in inputs:
        about = inputs["accepted"].properties
        sets |= {f"_accepted_{rate}": (rate, about["count"]) for rate in about["rates"]}
    outcome = Outcome(metrics={"psnr_db": 20.0}, protocols={"psnr_db": {"figure": "psnr_db", "split": "test"}})
    for end, (rate, count) in sets.items():
        protocol = {"count": count, "split": "samples", "sampling": drawn["sampling"] | {"acceptance": rate}}
        value = 1 - 0.1 / guidance * rate
        outcome.metrics |= {f"conditional_accuracy{end}{bound}": value for bound in ("", "_low", "_high")}
        outcome.metrics[f"fd_classifier{end}"] = abs(guidance - 2) + 1 / rate
        for name in ("conditional_accuracy", "fd_classifier"):
            outcome.protocols[f"{name}{end}"] = protocol | {"figure": name}
    return outcome


def components() -> dict[str, Fake]:
    return {
        "ingest": Fake(act=ingest),
        "classify": Fake({"images": "ingest"}),
        "statistics": Fake({"images": "ingest"}, statistics),
        "quantize": Fake({"images": "ingest"}),
        "tokenize": Fake({"tokenizer": "quantize"}),
        "reconstruct": Fake({"tokenizer": "quantize"}),
        "prior": Fake({"codes": "tokenize"}),
        "sample": Fake({"prior": "prior"}, sample),
        "select": Fake({"samples": "sample"}, select),
        "score": Fake({"samples": "sample?", "accepted": "select?", "statistics": "statistics?"}, score),
    }


def config_of(root: Path) -> PipelineConfig:
    place = RunConfig(root=str(root), tracking_uri="off")
    guided = PriorConfig(label_dropout=0.1)
    return PipelineConfig(preset="fake", components=[*SHARED, "sample", "select", "score"], run=place, prior=guided)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which everything before sampling was made."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "component", components().__getitem__)
        for component in SHARED:
            run(component, config_of(root))
    return root


@pytest.fixture(scope="module")
def undisturbed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of a sweep that nothing interrupts."""
    root = tmp_path_factory.mktemp("whole") / "root"
    shutil.copytree(trained, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "component", components().__getitem__)
        return plain(swept(GRID, config_of(root)))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fake]:
    table = components()
    monkeypatch.setattr(registry, "component", table.__getitem__)
    return table


@pytest.fixture
def config(tmp_path: Path, trained: Path, fakes: dict[str, Fake]) -> PipelineConfig:
    """Settings with a root in which everything before sampling was made."""
    shutil.copytree(trained, tmp_path / "root")
    return config_of(tmp_path / "root")


def swept(sweep: Sweep, config: PipelineConfig) -> SweepResult:
    return runner.run(sweep, config, lambda name: LineProgress(name, print))


def plain(result: SweepResult) -> dict[str, Any]:
    """The results without what differs between two roots or two times."""
    points = [{k: v for k, v in point.items() if k != "seconds"} for point in result.results["points"]]
    return {"points": points} | {key: result.results[key] for key in ("groups", "counts", "fingerprint", "axes")}


def test_points_that_differ_in_acceptance_share_their_candidates(
    fakes: dict[str, Fake], config: PipelineConfig
) -> None:
    result = swept(GRID, config)
    assert (result.total, result.failed) == (6, 0)
    assert [fakes[name].runs for name in ("sample", "select", "score")] == [3, 3, 3]
    assert result.results["counts"]["artifacts"] == {"sample": 3, "select": 3, "score": 3}
    assert not any(fakes[name].runs for name in SHARED)
    # 50 a class of 2 at the strictest rate take 200; the preset's own 1,000 are more.
    assert {p["figures"]["fd_classifier"]["protocol"]["count"] for p in result.results["points"]} == {100}
    # what the remover must keep
    kept = [record.component for record in inventory.survey(config.run.root).sweeps["trial"]]
    assert [kept.count(name) for name in ("sample", "score", "prior")] == [3, 3, 1]


def test_figures_are_those_of_the_point_and_the_best_is_marked(undisturbed: dict[str, Any]) -> None:
    result = undisturbed
    assert result["axes"] == ["max conditional_accuracy", "min fd_classifier"]
    first, second, *_ = result["points"]
    assert first["settings"] == {"sample.guidance": 1.0, "acceptance": 1.0}
    assert first["figures"]["conditional_accuracy"]["value"] == pytest.approx(0.9)
    assert second["figures"]["conditional_accuracy"]["value"] == pytest.approx(0.95)
    assert "psnr_db" not in first["figures"]
    (group,) = result["groups"]
    assert group["best"] in group["front"]
    assert group["front"] == [3, 4, 6]
    assert group["best"] == 4  # between the least distance (3) and the highest accuracy (6)


def test_a_failing_point_is_recorded_and_tried_again(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    fakes["sample"].act = failing(2.0, ConfigError("sample.guidance=2.0: not today"))
    result = swept(GRID, config)
    assert (result.failed, result.total) == (2, 6)
    failed = [point for point in result.results["points"] if point["status"] == "failed"]
    assert {point["reason"] for point in failed} == {"sample: sample.guidance=2.0: not today"}
    assert result.results["counts"]["done"] == 4
    assert "not today" in Path(result.folder, results.PAGE).read_text()
    fakes["sample"].act = sample
    runs = fakes["sample"].runs
    again = swept(GRID, config)
    assert again.failed == 0
    assert fakes["sample"].runs == runs + 1


@pytest.mark.parametrize(("component", "cell"), [("sample", 0), ("select", 1), ("score", 2)])
def test_an_interrupted_sweep_ends_like_another(
    fakes: dict[str, Fake], config: PipelineConfig, undisturbed: dict[str, Any], component: str, cell: int
) -> None:
    act, before = fakes[component].act, fakes[component].runs
    assert act is not None

    def stopping(settings: Any, inputs: Mapping[str, Artifact], ctx: Context) -> Outcome:
        if fakes[component].runs == before + 1 + cell:
            raise KeyboardInterrupt
        return act(settings, inputs, ctx)

    fakes[component].act = stopping
    with pytest.raises(KeyboardInterrupt):
        swept(GRID, config)
    cut = results.read(config.run.root, "trial")
    assert cut is not None
    assert cut["counts"]["done"] == 2 * cell
    fakes[component].act = act
    assert plain(swept(GRID, config)) == undisturbed
    assert fakes[component].runs == before + 4


def test_figures_of_different_protocols_have_fronts_of_their_own(config: PipelineConfig) -> None:
    sweep = Sweep("trial", grid={"sample.count": [100, 200], "sample.guidance": [1.0, 2.0]})
    groups = swept(sweep, config).results["groups"]
    assert [group["points"] for group in groups] == [[1, 2], [3, 4]]
    assert [group["best"] for group in groups] == [2, 4]


def test_the_best_may_be_that_of_one_figure(config: PipelineConfig) -> None:
    sweep = dataclasses.replace(GRID, best="max conditional_accuracy")
    result = swept(sweep, config).results
    assert result["groups"][0]["best"] == 6
    assert result["best_rule"] == "The best point has the largest conditional_accuracy."


def test_what_was_not_made_is_named_with_its_command(
    fakes: dict[str, Fake], config: PipelineConfig, tmp_path: Path
) -> None:
    empty = dataclasses.replace(config, run=dataclasses.replace(config.run, root=str(tmp_path / "empty")))
    with pytest.raises(DataError, match=r"ingest was not made .* `vimctl run ingest --preset fake run.root="):
        swept(GRID, empty)
    assert fakes["sample"].runs == 0


def test_results_are_shown_with_what_failed(config: PipelineConfig, fakes: dict[str, Fake]) -> None:
    from rich.console import Console

    fakes["sample"].act = failing(3.0, DataError("the disk of guidance 3 is gone"))
    result = swept(GRID, config)
    out = Console(record=True, width=160)
    summary.print_results(result.results, result.folder, out)
    text = out.export_text()
    assert "point 5 (guidance 3, acceptance 1): sample: the disk of guidance 3 is gone" in text
    assert "best        point 3: guidance 2, acceptance 1" in text
    assert "6 points from 2 sample, 2 score and 2 select" in text


def test_a_sweep_is_one_whatever_its_axes_and_another_with_other_settings(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    known = runner.identity(GRID, config)
    assert runner.identity(dataclasses.replace(GRID, axes=["max a", "min b"], parallel=4), config) == known
    assert runner.identity(dataclasses.replace(GRID, settings={"sample.seed": 1}), config) != known
    warmer = dataclasses.replace(config, sample=dataclasses.replace(config.sample, temperature=0.5))
    assert runner.identity(GRID, warmer) != known


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b"])
def test_a_name_never_leaves_the_root(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give the sweep's name"):
        results.read(str(tmp_path), name)
