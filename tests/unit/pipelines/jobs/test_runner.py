"""What a job does: the components of its spec, each in its own place, tagged with the job's name."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from components.contract import settings
from components.contract.api import Context
from components.tracking import tracker
from pipelines.jobs import runner, specs
from pipelines.jobs.api import JobSpec
from pipelines.orchestration import history
from vim_core.errors import DataError

NAME = "vim-fake-0123456789ab-a1"


@pytest.fixture(autouse=True)
def _handler() -> Any:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def stored(flow: Any, name: str = NAME, **fields: Any) -> str:
    """The address of a spec that runs the fake flow."""
    root = flow.config.run.root
    spec = JobSpec("run", "fake", settings.to_yaml(flow.config), cluster="mine", **fields)
    assert specs.write(root, name, spec)
    return specs.uri(root, name)


def test_places_change_where_each_component_runs_and_no_fingerprint(flow: Any, tmp_path: Path) -> None:
    seen: dict[str, tuple[int, str]] = {}

    def look(ctx: Context) -> None:
        seen[ctx.name] = (ctx.run.workers, ctx.fingerprint)

    flow.acts = dict.fromkeys(("ingest", "quantize", "tokenize", "prior"), look)
    assert runner.run_job(stored(flow, places={"quantize": {"workers": 4}, "prior": {"workers": 2}})) == 0
    assert {name: workers for name, (workers, _) in seen.items()} == {
        "ingest": 1, "quantize": 4, "tokenize": 1, "prior": 2,
    }  # fmt: skip
    placed = {name: fingerprint for name, (_, fingerprint) in seen.items()}
    elsewhere = dataclasses.replace(flow.config.run, root=str(tmp_path / "elsewhere"))
    flow.config = dataclasses.replace(flow.config, run=elsewhere)
    runner.run_job(stored(flow))
    assert {name: fingerprint for name, (_, fingerprint) in seen.items()} == placed


def test_the_run_is_tagged_with_job_and_cluster(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import dagster

    tags: dict[str, str] = {}

    def open_run(config: Any, given: Any = None) -> tracker.PipelineTracker:
        tags.update(given)
        return tracker.untracked(config)

    instance = dagster.DagsterInstance.ephemeral()
    monkeypatch.setattr(instance, "dispose", lambda: None)
    monkeypatch.setattr(history, "instance", lambda config: instance)
    monkeypatch.setattr(tracker, "open_run", open_run)
    runner.run_job(stored(flow, target="ingest"))
    wanted = {"vim.job": NAME, "vim.cluster": "mine"}
    assert {name: tags.get(name) for name in wanted} == wanted
    (run,) = instance.get_runs()
    assert {name: run.tags.get(name) for name in wanted} == wanted
    assert flow.ran == ["ingest"]


def test_force_and_only_are_as_on_the_command_line(flow: Any) -> None:
    runner.run_job(stored(flow))
    flow.ran.clear()
    runner.run_job(stored(flow, "vim-fake-0123456789ab-a2", target="quantize", only=True, force=True))
    assert flow.ran == ["quantize"]


def test_a_component_error_comes_out_as_it_is(flow: Any) -> None:
    def fail(ctx: Context) -> None:
        raise DataError("ingest: no images")

    flow.acts["ingest"] = fail
    with pytest.raises(DataError, match="ingest: no images"):
        runner.run_job(stored(flow))


def test_sigterm_interrupts_like_ctrl_c(flow: Any) -> None:
    flow.acts["quantize"] = lambda ctx: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        runner.run_job(stored(flow))
    assert flow.ran == ["ingest", "quantize"]


def test_a_remote_root_gets_a_history_of_the_jobs_own(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    homes: list[str] = []

    def look(ctx: Context) -> None:
        homes.append(os.environ["DAGSTER_HOME"])
        assert "telemetry" in Path(homes[0], "dagster.yaml").read_text()

    flow.acts["ingest"] = look
    flow.config.run.root = "memory://jobs/root"
    monkeypatch.setenv("DAGSTER_HOME", "")
    runner.run_job(stored(flow, target="ingest"))
    assert not Path(homes[0]).exists()
