"""`vimctl ui`: runs and assets in a browser, assets launched from the page, a sweep that its daemon runs by itself."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmokeRun
from tests.support.common import Running, eventually, manifests, started, vimctl

pytestmark = [pytest.mark.cluster]

SCHEDULE = "minutely"
SWEEP = """\
name: one_point
settings: {score.neighbours: 0, score.floor: false, score.reconstructed: false}
points:
- sample.guidance: 1.0
"""
REPOSITORY = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
LAUNCH = """
mutation ($location: String!, $repository: String!, $asset: String!) {
  launchRun(executionParams: {
    selector: {
      repositoryLocationName: $location, repositoryName: $repository, jobName: "__ASSET_JOB",
      assetSelection: [{path: [$asset]}]
    },
    runConfigData: {}
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}
"""
STATUS = """
query ($run: ID!) {
  runOrError(runId: $run) {
    ... on Run {
      status
      tags { key value }
      eventConnection { events {
        __typename
        ... on MessageEvent { message }
        ... on AssetCheckEvaluationEvent { evaluation { checkName success } }
        ... on MaterializationEvent { metadataEntries { label ... on BoolMetadataEntry { boolValue } } }
      } }
    }
  }
}
"""


@dataclass(frozen=True)
class Servers:
    """The addresses of a `vimctl ui`; `table` is the one of MLflow that it prints."""

    table: str
    dagster: str

    @property
    def mlflow(self) -> str:
        """MLflow's base address."""
        return self.table.partition("/#")[0]


@pytest.fixture(scope="module")
def ui(smoke_run: SmokeRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """`vimctl ui` over the session's pipeline; every minute it is to run a sweep of one point, once a test lets it."""
    sweep = tmp_path_factory.mktemp("sweeps") / "one_point.yaml"
    sweep.write_text(SWEEP)
    words = ("--cron", "* * * * *", "--name", SCHEDULE, "--preset", "smoke")
    vimctl("sweep", "schedule", str(sweep), *words, root=smoke_run.root)
    vimctl("sweep", "pause", SCHEDULE, "--preset", "smoke", root=smoke_run.root)
    with started(smoke_run.root, "ui", "--preset", "smoke", "--mlflow-port", "0", "--dagster-port", "0") as process:
        process.wait_for(lambda: len(addresses(process)) >= 2, patience=180)
        yield Servers(*addresses(process)[:2])


def addresses(process: Running) -> list[str]:
    """Addresses of MLflow and Dagster as far as they are printed."""
    return re.findall(r"^(?:MLflow|Dagster) +(http://127\.0\.0\.1:\d+\S*)$", process.text, re.MULTILINE)


def ask(address: str, query: str, **variables: str) -> dict[str, Any]:
    """The data of a GraphQL answer; an error in it fails the test."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    assert "errors" not in answer, answer
    data: dict[str, Any] = answer["data"]
    return data


def launched(server: str, asset: str) -> dict[str, Any]:
    """The ended run of one asset, launched as the page does."""
    (repository,) = ask(server, REPOSITORY)["repositoriesOrError"]["nodes"]
    names = {"location": repository["location"]["name"], "repository": repository["name"]}
    answer = ask(server, LAUNCH, **names, asset=asset)["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return ended(server, str(answer["run"]["runId"]))


def ended(server: str, run: str) -> dict[str, Any]:
    """The run once it has ended."""

    def over() -> Any:
        state = ask(server, STATUS, run=run)["runOrError"]
        return state if state["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None

    last: dict[str, Any] = eventually(over, f"the end of run {run}", 240)
    return last


def shows(page: Any, *texts: str) -> None:
    """The page shows every text within a minute."""
    for text in texts:
        page.get_by_text(text, exact=True).locator("visible=true").first.wait_for(timeout=60_000)


def pictures(page: Any, begins: str = "") -> int:
    """The number of pictures larger than icons, with such an address, that the page has drawn."""
    script = "begins => [...document.images].filter(i => i.src.startsWith(begins) && i.naturalWidth > 100).length"
    return int(eventually(lambda: page.evaluate(script, begins), f"a picture {begins}…"))


@pytest.mark.browser
def test_from_the_graph_to_an_assets_run_and_its_pictures(browser: Any, ui: Servers, smoke_run: SmokeRun) -> None:
    """Open the pipeline, see the DAG, run one asset, follow the link to its MLflow run, see the images."""
    context = browser.new_context(viewport={"width": 1500, "height": 1100})
    page = context.new_page()
    page.goto(f"{ui.dagster}/asset-groups")
    shows(page, "ingest", "quantize", "prior", "report")
    page.goto(f"{ui.dagster}/assets/ingest")
    page.get_by_role("button", name="Materialize").first.click()
    run = eventually(lambda: newest(ui.dagster), "a run of the page", 240)
    assert ended(ui.dagster, run)["status"] == "SUCCESS"
    page.goto(f"{ui.dagster}/assets/ingest?view=overview")
    # The description says what the click did, and the metadata that it did it.
    shows(page, "smoke_make_again", "reused")
    assert "is reused" in page.inner_text("body")
    row = page.locator("tr", has=page.get_by_text("reused", exact=True)).first
    assert "true" in row.inner_text()
    page.goto(f"{ui.dagster}/assets/ingest?view=events")
    page.get_by_text("[Show Markdown]").locator("visible=true").first.click(timeout=60_000)
    assert pictures(page, "data:image/png") >= 1
    page.reload()
    link = page.locator(f"a[href^='{ui.mlflow}/#/experiments/']").first
    link.wait_for(timeout=60_000)
    assert str(smoke_run.manifests["ingest"]["mlflow_run_id"]) in str(link.get_attribute("href"))
    tracked = context.new_page()
    tracked.goto(str(link.get_attribute("href")))
    shows(tracked, "ingest", "final/train")
    tracked.goto(str(link.get_attribute("href")).replace("?", "/artifacts?"))
    for name in ("pictures", "contact_sheet.png"):
        tracked.get_by_text(name, exact=True).locator("visible=true").first.click(timeout=60_000)
    assert pictures(tracked) >= 1
    context.close()


@pytest.mark.browser
def test_the_printed_address_shows_the_headline_figures_of_every_run(
    browser: Any, ui: Servers, smoke_run: SmokeRun
) -> None:
    """No column has to be chosen; one click on the run's name shows the same figures as a table."""
    page = browser.new_page(viewport={"width": 2200, "height": 1000})  # the table draws only what is in sight
    page.goto(ui.table)
    for name in ("quantize/test_psnr_db", "prior/nll_bits_per_token", "probe/top1"):
        component, _, metric = name.partition("/")
        cells = page.locator(f".ag-row [col-id='metrics.`{name}`']")
        cells.last.wait_for(state="attached", timeout=60_000)
        shown = float(cells.last.inner_text())
        assert shown == pytest.approx(smoke_run.manifests[component]["metrics"][metric], rel=1e-6)
    page.locator(".ag-row a[href*='/runs/']").last.click()
    table = page.locator("tr", has=page.get_by_text("quantize/test_psnr_db", exact=True)).first
    table.wait_for(state="attached", timeout=60_000)
    page.close()


def test_a_second_ui_names_the_first_and_runs_of_the_command_line_are_on_the_timeline(
    ui: Servers, smoke_run: SmokeRun
) -> None:
    said = vimctl("ui", "--preset", "smoke", root=smoke_run.root).text
    assert "these run already" in said
    assert {ui.table, ui.dagster} <= set(said.split())
    query = "{ runsOrError(limit: 50) { ... on Runs { results { repositoryOrigin { repositoryLocationName } } } } }"
    runs = ask(ui.dagster, query)["runsOrError"]["results"]
    places = {run["repositoryOrigin"] and run["repositoryOrigin"]["repositoryLocationName"] for run in runs}
    assert places == {"pipelines.definitions"}


def newest(server: str) -> str:
    """The id of the newest run that is of one asset alone."""
    query = "{ runsOrError(limit: 5) { ... on Runs { results { runId assetSelection { path } } } } }"
    found = ask(server, query)["runsOrError"]["results"]
    alone = [run["runId"] for run in found if run["assetSelection"] == [{"path": ["ingest"]}]]
    return str(alone[0]) if alone else ""


def test_launching_one_asset_reuses_it_and_checks_it_again(ui: Servers, smoke_run: SmokeRun) -> None:
    before = {name: len(manifests(smoke_run.root, name)) for name in smoke_run.manifests}
    run = launched(ui.dagster, "tokenize")
    events = run["eventConnection"]["events"]
    assert run["status"] == "SUCCESS", "\n".join(event.get("message", "") for event in events)
    (made,) = [event for event in events if event["__typename"] == "MaterializationEvent"]
    assert {"label": "reused", "boolValue": True} in made["metadataEntries"]
    gates = [event["evaluation"] for event in events if event["__typename"] == "AssetCheckEvaluationEvent"]
    assert {gate["checkName"]: gate["success"] for gate in gates} == {"images_accounted_for": True, "lineage": True}
    assert {tag["key"] for tag in run["tags"] if tag["key"].startswith("vim/")} == {"vim/preset"}
    assert {name: len(manifests(smoke_run.root, name)) for name in smoke_run.manifests} == before


def test_launching_an_asset_makes_what_is_missing(ui: Servers, smoke_run: SmokeRun) -> None:
    """The artifact is taken away, so the run launched from the page has to make it again, equal to the first."""
    (old,) = manifests(smoke_run.root, "tokenize")
    Path(smoke_run.root, "tokenize", old["fingerprint"], "manifest.json").unlink()
    assert launched(ui.dagster, "tokenize")["status"] == "SUCCESS"
    (new,) = manifests(smoke_run.root, "tokenize")
    assert new["digest"] == old["digest"]
    assert new["attempt"] != old["attempt"]


def test_a_scheduled_sweep_runs_by_itself(ui: Servers, smoke_run: SmokeRun) -> None:
    """At a minute of the clock, with nobody asking; it is in MLflow, and no tick runs twice."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{smoke_run.root}/mlflow.db")
    vimctl("sweep", "resume", SCHEDULE, "--preset", "smoke", root=smoke_run.root)

    def tracked() -> Any:
        experiments = [each.experiment_id for each in client.search_experiments()]
        found = client.search_runs(
            experiments, f"tags.`vim.schedule` = '{SCHEDULE}' and attributes.status = 'FINISHED'"
        )
        return list(found)

    (run, *_) = eventually(tracked, "a scheduled sweep in MLflow", 240)
    vimctl("sweep", "unschedule", SCHEDULE, "--preset", "smoke", root=smoke_run.root)
    assert run.data.metrics["points"] == run.data.metrics["done"] == 1
    found = json.loads(Path(smoke_run.root, "sweeps", "one_point", "results.json").read_text())
    assert found["counts"]["failed"] == 0
    query = '{ runsOrError(filter: {tags: [{key: "vim/schedule", value: "minutely"}]}) '
    query += "{ ... on Runs { results { status tags { key value } } } } }"
    runs = ask(ui.dagster, query)["runsOrError"]["results"]
    keys = [tag["value"] for run in runs for tag in run["tags"] if tag["key"] == "dagster/run_key"]
    assert len(keys) == len(runs) == len(set(keys)) >= 1
    assert all(re.fullmatch(rf"{SCHEDULE}/\d{{4}}-\d\d-\d\dT\d\d:\d\dZ", key) for key in keys)
