"""`dagster dev` on the definitions: one asset per component, and launching one reuses what is there."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmokeRun
from tests.support import answers, free_port, manifests, running

pytestmark = pytest.mark.cluster

ASSETS = "{ assetNodes { assetKey { path } dependencyKeys { path } } }"
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
      eventConnection { events {
        __typename
        ... on MessageEvent { message }
        ... on MaterializationEvent { metadataEntries { label ... on BoolMetadataEntry { boolValue } } }
      } }
    }
  }
}
"""


def ask(address: str, query: str, **variables: str) -> dict[str, Any]:
    """The data of a GraphQL answer; an error in it fails the test."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    assert "errors" not in answer, answer
    data: dict[str, Any] = answer["data"]
    return data


@pytest.fixture(scope="module")
def server(smoke_run: SmokeRun) -> Iterator[str]:
    """The address of a `dagster dev` over the session's finished pipeline."""
    port = free_port()
    arguments = [sys.executable, "-m", "dagster", "dev", "-m", "pipelines.definitions"]
    arguments += ["--host", "127.0.0.1", "--port", str(port)]
    variables = {"VIM_PRESET": "smoke", "DAGSTER_HOME": str(smoke_run.root / "dagster")}
    with running(arguments, smoke_run.root, **variables) as process:
        address = f"http://127.0.0.1:{port}"
        process.wait_for(lambda: answers(f"{address}/server_info"), patience=120)
        yield address


def test_one_asset_per_component(server: str, smoke_run: SmokeRun) -> None:
    nodes = {node["assetKey"]["path"][-1]: node for node in ask(server, ASSETS)["assetNodes"]}
    assert set(nodes) == set(smoke_run.manifests)
    for name, node in nodes.items():
        wanted = {record["component"] for record in smoke_run.manifests[name]["inputs"].values()}
        assert {key["path"][-1] for key in node["dependencyKeys"]} == wanted, name


def launched(server: str, asset: str) -> str:
    """The id of a run that materializes one asset."""
    (repository,) = ask(server, REPOSITORY)["repositoriesOrError"]["nodes"]
    names = {"location": repository["location"]["name"], "repository": repository["name"]}
    answer = ask(server, LAUNCH, **names, asset=asset)["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


def finished(server: str, run: str, patience: float = 240) -> dict[str, Any]:
    """The run once it has ended."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found: dict[str, Any] = ask(server, STATUS, run=run)["runOrError"]
        if found["status"] in ("SUCCESS", "FAILURE", "CANCELED"):
            return found
        time.sleep(0.5)
    raise AssertionError(f"run {run} has not ended after {patience} s")


def test_launching_one_asset_reuses_it(server: str, smoke_run: SmokeRun) -> None:
    before = {name: len(manifests(smoke_run.root, name)) for name in smoke_run.manifests}
    run = finished(server, launched(server, "tokenize"))
    told = "\n".join(event.get("message", "") for event in run["eventConnection"]["events"])
    assert run["status"] == "SUCCESS", told
    (made,) = [event for event in run["eventConnection"]["events"] if event["__typename"] == "MaterializationEvent"]
    assert {"label": "reused", "boolValue": True} in made["metadataEntries"]
    assert {name: len(manifests(smoke_run.root, name)) for name in smoke_run.manifests} == before


def test_launching_an_asset_makes_what_is_missing(server: str, smoke_run: SmokeRun) -> None:
    """The artifact is taken away, so the run launched from the page has to make it again, equal to the first."""
    (old,) = manifests(smoke_run.root, "tokenize")
    Path(smoke_run.root, "tokenize", old["fingerprint"], "manifest.json").unlink()
    assert finished(server, launched(server, "tokenize"))["status"] == "SUCCESS"
    (new,) = manifests(smoke_run.root, "tokenize")
    assert new["digest"] == old["digest"]
    assert new["attempt"] != old["attempt"]
