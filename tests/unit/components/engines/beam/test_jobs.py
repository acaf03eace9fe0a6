"""What surrounds Beam: errors as they were raised, runners that are refused, files put among the outputs."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.engines.beam import jobs
from tests.support.common import SilentProgress
from tests.support.synthetic import context_of
from vim_core.config import RunConfig
from vim_core.errors import ConfigError, DataError

TRACE = """Traceback (most recent call last):
  File "tables.py", line 1, in read
vim_core.errors.DataError: a.parquet: cut off

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "common.py", line 2, in process
vim_core.errors.DataError: a.parquet: cut off [while running 'perform']
"""


def test_the_error_of_a_step_is_read_from_beams_text() -> None:
    found = jobs._original(RuntimeError(TRACE))
    assert type(found) is DataError
    assert str(found) == "a.parquet: cut off"
    assert jobs._original(RuntimeError("ValueError: something else")) is None


def test_a_message_may_end_in_brackets() -> None:
    found = jobs._original(RuntimeError("vim_core.errors.DataError: grid [4, 4]"))
    assert str(found) == "grid [4, 4]"


def test_an_unknown_error_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is not its own cause: whoever looks through causes would never come to an end."""

    def failing(*_: object) -> None:
        raise RuntimeError("ValueError: something else")

    pipeline = SimpleNamespace(run=lambda: SimpleNamespace(wait_until_finish=failing))
    monkeypatch.setattr(jobs, "_pipeline", lambda *_: pipeline)
    with pytest.raises(RuntimeError, match="something else") as raised:
        jobs.run_pipeline(RunConfig(), lambda pipeline: None)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("runner", ["DirectRunner", "PrismRunner"])
def test_runners_that_start_another_are_refused(runner: str) -> None:
    with pytest.raises(ConfigError, match=rf"run\.beam_runner='{runner}'.*FnApiRunner"):
        jobs.run_pipeline(RunConfig(beam_runner=runner), lambda pipeline: None)


def test_nothing_runs_where_everything_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = SilentProgress()
    monkeypatch.setattr(jobs, "run_pipeline", lambda *_: pytest.fail("a pipeline was started"))
    jobs.run_shards(RunConfig(), [1, 2], print, lambda job: True, progress)
    assert (progress.done, progress.total) == (2, 2)


def test_a_finished_job_is_not_asked_about_again() -> None:
    asked: list[int] = []
    done = {1}

    def finished(job: int) -> bool:
        asked.append(job)
        return job in done

    count = jobs.counter([0, 1, 2], finished)
    assert count() == 1
    done.add(2)
    assert count() == 2
    assert count() == 2
    assert asked == [0, 1, 2, 0, 2, 0]


@pytest.mark.parametrize("linkable", [True, False])
def test_outputs_are_linked_or_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linkable: bool) -> None:
    ctx = context_of(tmp_path, "tokenize")
    source = Path(ctx.work, "codes/a")
    source.parent.mkdir(parents=True)
    source.write_bytes(b"codes")
    if not linkable:

        def refuse(*_: object) -> None:
            raise OSError("no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    for _ in range(2):
        jobs.publish(ctx, str(source), "codes/a")
    target = Path(ctx.path("codes/a"))
    assert target.read_bytes() == b"codes"
    assert target.samefile(source) is linkable
    assert [path.name for path in target.parent.iterdir()] == ["a"]


@pytest.mark.parametrize(("threads", "processes", "each"), [(4, 1, 4), (4, 2, 2), (1, 8, 1), (3, 2, 1)])
def test_processes_share_the_threads(threads: int, processes: int, each: int) -> None:
    assert jobs.threads_of(RunConfig(threads=threads, beam_processes=processes)) == each
