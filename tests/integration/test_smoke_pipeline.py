"""The whole pipeline on the `smoke` preset: what it leaves behind, what is reused, what runs again."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from tests.conftest import SmokeRun
from tests.support.common import file_of, manifests, results, vimctl
from tests.support.html import checked

COMPONENTS = {
    "ingest", "classify", "selector", "statistics", "quantize", "tokenize", "reconstruct", "prior", "sample", "select",
    "score", "tradeoff", "probe", "report",
}  # fmt: skip
FIGURES = [
    "quantizer.psnr_db",
    "quantizer.codebook_usage",
    "prior.nll_bits_per_token",
    "prior.unigram_bits_per_token",
    "samples.count",
    "samples.conditional_accuracy",
    "samples.fd_classifier",
    "samples.fd_classifier_real_vs_real",
    "classifier.test_accuracy",
    "probe.best_block",
    "probe.top1",
    "probe.pixel_baseline_top1",
]
SHARES = ["quantizer.codebook_usage", "samples.conditional_accuracy", "classifier.test_accuracy", "probe.top1"]


def figure(found: dict[str, Any], key: str) -> float:
    """A figure of `results.json` by its dotted name."""
    group, name = key.split(".")
    return float(found[group][name])


def test_every_component_left_its_files_and_the_digests_of_its_inputs(smoke_run: SmokeRun) -> None:
    assert set(smoke_run.manifests) == COMPONENTS
    for name, manifest in smoke_run.manifests.items():
        folder = smoke_run.root / name / manifest["fingerprint"]
        sizes = {entry["path"]: (folder / entry["path"]).stat().st_size for entry in manifest["files"]}
        assert sizes == {entry["path"]: entry["bytes"] for entry in manifest["files"]}, name
        for record in manifest["inputs"].values():
            source = smoke_run.manifests[record["component"]]
            assert record["digest"] == source["digest"], f"{name} <- {record['component']}"
    assert [path for path in smoke_run.root.glob(".work/*/*") if any(path.iterdir())] == []


def test_results_have_every_figure(smoke_run: SmokeRun) -> None:
    values = {key: figure(smoke_run.results, key) for key in FIGURES}
    assert [key for key, value in values.items() if not math.isfinite(value)] == []
    assert [key for key in SHARES if not 0 <= values[key] <= 1] == []


def test_results_say_what_ran(smoke_run: SmokeRun, smoke_config: Any) -> None:
    found = smoke_run.results
    assert found["preset"] == "smoke"
    assert found["samples"]["count"] == smoke_config.sample.count
    assert set(found["reused"]) >= COMPONENTS - {"report"}
    assert not any(found["reused"].values())
    assert all(found["seconds"][name] > 0 for name in COMPONENTS - {"report"})
    assert found["protocols"]


def test_the_models_learned_something(smoke_run: SmokeRun, smoke_config: Any) -> None:
    """Sixty steps are few, but chance and the uniform code are lower still."""
    found = smoke_run.results
    uniform = math.log2(smoke_config.quantize.codebook.codes)
    assert found["classifier"]["test_accuracy"] > 0.2
    assert found["probe"]["top1"] > 0.2
    assert found["prior"]["nll_bits_per_token"] < uniform
    assert found["prior"]["unigram_bits_per_token"] <= uniform
    assert found["samples"]["fd_classifier"] > 0


def test_selection_and_its_curves_are_whole(smoke_run: SmokeRun, smoke_config: Any) -> None:
    config, made = smoke_config.tradeoff, smoke_run.manifests["tradeoff"]
    found = json.loads(file_of(smoke_run.root, made, "tradeoff.json").read_text())
    assert len(found["points"]) == len(config.guidances) * len(config.acceptances)
    assert {point["count"] for point in found["points"]} == {10 * config.count}
    assert all(point["fd_low"] <= point["fd"] <= point["fd_high"] for point in found["points"])
    selected = smoke_run.manifests["select"]["properties"]
    assert selected["splits"] == {"accepted-1.0": 30, "accepted-0.5": 30}
    assert found["selector"] == selected["selector"] == smoke_run.manifests["selector"]["digest"]
    assert found["judge"] == smoke_run.manifests["classify"]["digest"] != found["selector"]


def test_training_says_how_it_ran(smoke_run: SmokeRun) -> None:
    launchers = {"Ray Train, 1 worker process(es)": ("quantize", "prior"),
                 "Ray Train local mode": ("classify", "selector", "probe")}  # fmt: skip
    for launcher, names in launchers.items():
        assert {smoke_run.manifests[name]["properties"]["trained_by"] for name in names} == {launcher}


def test_the_page_stands_alone(smoke_run: SmokeRun) -> None:
    """Opening it fetches nothing."""
    sources = ("src", "srcset", "poster", "data", "href")
    addresses = [
        str(value)
        for tag, attributes in checked(smoke_run.page).tags
        for name, value in attributes.items() if name in sources and (tag, name) != ("a", "href")
    ]  # fmt: skip
    assert [address[:80] for address in addresses if not address.startswith(("data:", "#"))] == []
    assert re.findall(r"url\(\s*['\"]?(?!data:|#)[^)]*", smoke_run.page) == []
    assert "@import" not in smoke_run.page
    assert smoke_run.page.count("data:image/") >= 10, "the pictures are in the page"


def test_mlflow_has_a_parent_and_a_child_per_component(smoke_run: SmokeRun) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{smoke_run.root}/mlflow.db")
    experiment = client.get_experiment_by_name("smoke")
    assert experiment is not None
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id], max_results=1000)}
    for name in COMPONENTS - {"report"}:
        manifest = smoke_run.manifests[name]
        child = runs[manifest["mlflow_run_id"]]
        parent = runs[child.data.tags["mlflow.parentRunId"]]
        assert "mlflow.parentRunId" not in parent.data.tags
        assert child.info.status == "FINISHED", name
        assert child.data.params, name
    curve = {}
    for name in ("quantize", "prior", "classify"):
        run_id = smoke_run.manifests[name]["mlflow_run_id"]
        curve[name] = [point.step for point in client.get_metric_history(run_id, "train/loss")]
        assert len(curve[name]) > 1, name
        assert curve[name] == sorted(set(curve[name])), f"{name}: each step once"
    _check_pictures_and_lineage(smoke_run, client)


def _check_pictures_and_lineage(smoke_run: SmokeRun, client: Any) -> None:
    for name in ("quantize", "sample", "select"):
        pending: list[str] = [""]
        files: list[str] = []
        while pending:
            for item in client.list_artifacts(smoke_run.manifests[name]["mlflow_run_id"], pending.pop() or None):
                (pending if item.is_dir else files).append(item.path)
        assert [path for path in files if path.endswith(".png")], name
    run = client.get_run(smoke_run.manifests["tokenize"]["mlflow_run_id"])
    assert run.inputs is not None
    digests = {used.dataset.digest for used in run.inputs.dataset_inputs}
    wanted = smoke_run.manifests["ingest"]["digest"]
    assert any(wanted.startswith(digest) for digest in digests), (wanted, digests)


def test_again_reuses_everything(smoke_run: SmokeRun) -> None:
    vimctl("run", "--preset", "smoke", root=smoke_run.root)
    found = results(smoke_run.root)
    assert all(found["reused"][name] for name in COMPONENTS - {"report"}), found["reused"]
    for key in FIGURES:
        assert figure(found, key) == figure(smoke_run.results, key)
    for name in COMPONENTS:
        assert [manifest["fingerprint"] for manifest in manifests(smoke_run.root, name)][:1] == [
            smoke_run.manifests[name]["fingerprint"]
        ]
