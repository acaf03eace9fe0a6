"""`vimctl submit`, `status`, `logs`, `cancel` and `cluster list` on a cluster in memory, and the jobs that it runs."""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import lease, usage
from components.contract import settings
from components.contract.api import Context
from components.contract.code import Code
from components.tracking import tracker
from pipelines import presets
from pipelines.cli import job_request, rehearsal
from pipelines.cli.main import main
from pipelines.jobs import profile, specs, submission
from pipelines.jobs.api import FAILED, RUNNING, JobSpec, JobState
from pipelines.orchestration import history
from tests.support.fake_cluster import FakeCluster
from vim_core.config import PipelineConfig
from vim_core.errors import CodeError, VimError
from vim_core.storage import io

Capture = pytest.CaptureFixture[str]

NAME = "vim-fake-0123456789ab-a1"


@pytest.fixture
def jobs(flow: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCluster:
    """The fake cluster behind every profile, and the fake flow behind every preset."""
    cluster = FakeCluster()
    monkeypatch.setenv("VIM_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(submission, "backend", lambda profile: cluster)
    monkeypatch.setattr(presets, "load", lambda preset, overrides: flow.config)
    return cluster


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


def test_a_cluster_of_another_code_refuses_the_job(flow: Any) -> None:
    other = stored(flow, target="ingest", code=Code("", "0.0.1", "0123456789ab"))
    with pytest.raises(CodeError, match=r"than the command \(version 0\.0\.1, digest 0123456789ab\); "):
        job_request.run_job(other)


def test_a_job_is_sent_and_finished_work_is_not(flow: Any, jobs: FakeCluster, capsys: Capture) -> None:
    words = ["submit", "ingest", "--preset", "fake"]
    assert main([*words, "--detach"]) == 0
    said = capsys.readouterr().out
    name = jobs.sent[0][0]
    assert said.splitlines() == [f"sent {name}", f"follow it: vimctl logs -f {name}"]
    spec = specs.read(jobs.sent[0][1])
    assert (spec.command, spec.target, spec.cluster) == ("run", "ingest", "local")
    assert spec.code is not None
    job_request.run_job(jobs.sent[0][1])
    capsys.readouterr()
    assert main(words) == 0
    assert "finished already, no job is sent" in capsys.readouterr().out
    assert main([*words, "--force", "--detach"]) == 0
    assert len(jobs.sent) == 2
    assert specs.read(jobs.sent[1][1]).force


def test_a_rehearsal_is_a_job_that_works_below_the_root(
    flow: Any, jobs: FakeCluster, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []

    def execute(config: PipelineConfig, *rest: Any) -> int:
        done.append((config.run.root, *rest))
        return 1

    monkeypatch.setattr(rehearsal, "execute", execute)
    assert main(["rehearse", "fake", "quantize", "--cluster", "local", "--steps", "12"]) == 0
    name, uri = jobs.sent[0]
    assert job_request.run_job(uri) == 1
    (root, names, measured, folder, file, places) = done[0]
    assert (names, measured, places) == (["ingest", "quantize"], 12, {})
    assert folder == f"{root}/.rehearsals/{name}"
    assert file == f"{root}/reports/{flow.config.preset}/rehearsal.json"
    jobs.endings = (FAILED,)
    assert main(["rehearse", "fake", "quantize", "--cluster", "local"]) == 1
    assert FAILED in capsys.readouterr().out


def test_options_of_the_command_line_override_the_profile(flow: Any, jobs: FakeCluster, tmp_path: Path) -> None:
    flow.config.run = dataclasses.replace(flow.config.run, workers=7)
    places = "run: {workers: 2, restarts: 1}\ncomponents: {prior: {workers: 4, threads: 3}}\n"
    (tmp_path / "mine.yaml").write_text(f"root: {flow.config.run.root}\n{places}")
    words = ["submit", "prior", "--preset", "fake", "--cluster", str(tmp_path / "mine.yaml"), "--detach"]
    for more, workers, place in (
        ([], 2, {"workers": 4, "threads": 3}),
        (["run.workers=7", "prior.seed=0"], 7, {"threads": 3}),
    ):
        assert main([*words, *more]) == 0
        spec = specs.read(jobs.sent[-1][1])
        run = specs.config_of(spec).run
        assert (run.workers, run.restarts, spec.places["prior"]) == (workers, 1, place)
        jobs.stop(jobs.sent[-1][0])


def test_success_ends_with_where_to_look(flow: Any, jobs: FakeCluster, capsys: Capture) -> None:
    follow = jobs.follow

    def work(job_id: str) -> Iterator[str]:
        job_request.run_job(jobs.sent[-1][1])
        return follow(job_id)

    jobs.follow = work  # type: ignore[method-assign]
    assert main(["submit", "ingest", "--preset", "fake"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{jobs.sent[0][0]} succeeded: {flow.config.run.root}/ingest/")
    assert "MLflow run" in last


def test_a_failure_shows_node_reason_and_the_last_lines(
    flow: Any, jobs: FakeCluster, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = JobState(NAME, FAILED, "exit status 1", "10.0.0.7")

    def submit(cluster: Any, spec: Any, say: Any, attach: bool) -> JobState:
        for number in range(20):
            say(f"line {number}")
        return ended

    monkeypatch.setattr(submission, "submit", submit)
    assert main(["submit", "--preset", "fake"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"vimctl: {NAME} failed on 10.0.0.7: exit status 1"
    assert lines[1:-1] == [f"  | line {number}" for number in range(12, 20)]
    assert lines[-1] == f"the whole log: vimctl logs {NAME}"


def test_ctrl_c_detaches_and_says_how_to_go_on(flow: Any, jobs: FakeCluster, capsys: Capture, tmp_path: Path) -> None:
    def interrupt(job_id: str) -> Iterator[str]:
        raise KeyboardInterrupt

    jobs.follow = interrupt  # type: ignore[method-assign]
    (tmp_path / "my c.yaml").write_text(f"root: {flow.config.run.root}\n")
    named = ["--cluster", str(tmp_path / "my c.yaml")]
    assert main(["submit", "--preset", "fake", *named]) == 130
    ((name, _),) = jobs.sent
    ways = [f"vimctl {words} {name} {shlex.join(named)}" for words in ("logs -f", "cancel")]
    ends = ["", f"detached; {name} goes on", f"follow it: {ways[0]}", f"stop it: {ways[1]}"]
    assert capsys.readouterr().out.splitlines()[-4:] == ends
    assert main(shlex.split(ways[0])[1:]) == 130
    assert capsys.readouterr().out.splitlines()[-4:] == ends
    assert jobs.known[name].status == RUNNING
    assert main(shlex.split(ways[1])[1:]) == 0


def test_logs_and_cancel_take_the_newest_or_a_name(flow: Any, jobs: FakeCluster, capsys: Capture) -> None:
    assert main(["logs"]) == 1
    assert "cluster local knows no job" in capsys.readouterr().err
    main(["submit", "--preset", "fake", "--detach"])
    name = jobs.sent[0][0]
    capsys.readouterr()
    assert main(["cancel", name]) == 0
    assert jobs.known[name].status == "stopped"
    assert f"{name} is stopped" in capsys.readouterr().out
    assert main(["cancel", name]) == 0
    assert "has ended already" in capsys.readouterr().out
    assert main(["logs", "-f", name]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["one", "two"]
    assert main(["cancel", "vim-none-0123456789ab-a1"]) == 1
    assert f"it has {name}" in capsys.readouterr().err


def test_status_says_what_runs_what_is_unfinished_and_what_was_made(
    flow: Any, jobs: FakeCluster, capsys: Capture
) -> None:
    root = flow.config.run.root
    main(["submit", "--preset", "fake", "--detach"])
    name, uri = jobs.sent[0]
    job_request.run_job(stored(flow, "vim-fake-0123456789ab-a9", target="quantize"))
    work = f"{root}/.work/prior/{'0' * 20}"
    io.write_bytes(f"{work}/cpu/step-000040/index.json", b"{}")
    io.write_bytes(f"{work}/spool.jsonl", b'{"step": 42, "t": 1, "m": {}}\n{"torn')
    capsys.readouterr()
    with lease.hold(usage.folder(root, "prior", "0" * 20), lambda text: None):
        assert main(["status", "--preset", "fake"]) == 0
    text = capsys.readouterr().out
    total = specs.config_of(specs.read(uri)).prior.steps
    assert f"{name}" in text
    assert f"prior step 42 of {total}" in text
    assert "prior/00000000           step 42        process" in text
    assert text.count(" ago, in ") == 2
    assert main(["status", "--preset", "fake"]) == 0
    assert "no owner; the same command continues it" in capsys.readouterr().out


def test_status_of_a_cluster_that_is_away_still_shows_the_root(flow: Any, jobs: FakeCluster, capsys: Capture) -> None:
    jobs.away = 1
    assert main(["status", "--preset", "fake"]) == 0
    text = capsys.readouterr().out
    assert "no Ray cluster answers" in text
    assert "made last\n  nothing" in text


def test_cluster_list_says_who_answers(jobs: FakeCluster, capsys: Capture) -> None:
    jobs.known["vim-x-0123456789ab-a1"] = JobState("vim-x-0123456789ab-a1", RUNNING)
    jobs.away = 1
    assert main(["cluster", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == profile.names()
    assert "no Ray cluster answers" in lines[0]
    assert lines[1].endswith("answers, 1 of 1 jobs unfinished")


@pytest.mark.parametrize("words", [["prior"], ["--only"], ["--force"], ["--from", "prior"]], ids=str)
def test_a_sweep_takes_no_component(flow: Any, jobs: FakeCluster, words: list[str], capsys: Capture) -> None:
    assert main(["submit", "--preset", "fake", "--sweep", "s.yaml", *words]) == 2
    assert "a sweep runs its points and nothing else" in capsys.readouterr().err


def test_a_source_that_cannot_be_seen_from_here_is_left_to_the_job(
    flow: Any, jobs: FakeCluster, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(*_: Any) -> None:
        raise VimError("no such folder")

    monkeypatch.setattr("components.artifacts.execute.find", blind)
    assert main(["submit", "--preset", "fake", "--detach"]) == 0
    assert "cannot be told from here (no such folder)" in capsys.readouterr().out
    assert len(jobs.sent) == 1


def test_places_change_where_each_component_runs_and_no_fingerprint(flow: Any, tmp_path: Path) -> None:
    seen: dict[str, tuple[int, str]] = {}

    def look(ctx: Context) -> None:
        seen[ctx.name] = (ctx.run.workers, ctx.fingerprint)

    flow.acts = dict.fromkeys(("ingest", "quantize"), look)
    assert job_request.run_job(stored(flow, target="quantize", places={"quantize": {"workers": 4}})) == 0
    assert {name: workers for name, (workers, _) in seen.items()} == {"ingest": 1, "quantize": 4}
    placed = {name: fingerprint for name, (_, fingerprint) in seen.items()}
    elsewhere = dataclasses.replace(flow.config.run, root=str(tmp_path / "elsewhere"))
    flow.config = dataclasses.replace(flow.config, run=elsewhere)
    job_request.run_job(stored(flow, target="quantize"))
    assert {name: fingerprint for name, (_, fingerprint) in seen.items()} == placed


def test_the_run_is_tagged_with_job_and_cluster(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import dagster

    tags: dict[str, str] = {}

    def open_run(config: Any, more: Any = None) -> tracker.PipelineTracker:
        tags.update(more)
        return tracker.untracked(config)

    instance = dagster.DagsterInstance.ephemeral()
    monkeypatch.setattr(instance, "dispose", lambda: None)
    monkeypatch.setattr(history, "instance", lambda config: instance)
    monkeypatch.setattr(tracker, "open_run", open_run)
    job_request.run_job(stored(flow, target="ingest"))
    wanted = {"vim.job": NAME, "vim.cluster": "mine"}
    assert {name: tags.get(name) for name in wanted} == wanted
    (run,) = instance.get_runs()
    assert {name: run.tags.get(name) for name in wanted} == wanted
    assert flow.ran == ["ingest"]


def test_a_jobs_hints_carry_its_root(flow: Any, capsys: Capture) -> None:
    job_request.run_job(stored(flow, target="ingest"))
    assert f"vimctl ui --preset fake run.root={flow.config.run.root}\n" in capsys.readouterr().out


def test_force_and_only_are_as_on_the_command_line(flow: Any) -> None:
    job_request.run_job(stored(flow, target="quantize"))
    job_request.run_job(stored(flow, "vim-fake-0123456789ab-a2", target="quantize", only=True, force=True))
    assert flow.ran == ["ingest", "quantize", "quantize"]


def test_sigterm_interrupts_like_ctrl_c(flow: Any) -> None:
    flow.acts["quantize"] = lambda ctx: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        job_request.run_job(stored(flow))
    assert flow.ran == ["ingest", "quantize"]


def test_a_remote_root_gets_a_history_of_the_jobs_own(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    homes: list[str] = []

    def look(ctx: Context) -> None:
        homes.append(os.environ["DAGSTER_HOME"])
        assert "telemetry" in Path(homes[0], "dagster.yaml").read_text()

    flow.acts["ingest"] = look
    flow.config.run.root = "memory://jobs/root"
    monkeypatch.setenv("DAGSTER_HOME", "")
    job_request.run_job(stored(flow, target="ingest"))
    assert not Path(homes[0]).exists()
