"""Around Beam: errors of the type they were raised in, refused runners."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from components.engines.beam import runner
from tests.support.common import SilentProgress
from vim_core.config import RunConfig
from vim_core.errors import ConfigError, DataError

TRACE = """Traceback (most recent call last):
  File "tables.py", line 1, in read
vim_core.errors.DataError: a.parquet: cut off

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "common.py", line 2, in process
vim_core.errors.DataError: a.parquet: grid [4, 4] [while running 'process']
"""


def test_the_error_of_a_step_is_read_from_beams_text() -> None:
    error = runner.vim_error_in(TRACE)
    assert type(error) is DataError
    assert str(error) == "a.parquet: grid [4, 4]"


def test_an_unknown_error_is_raised_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is not its own cause, or a walk along the causes would never end."""
    import apache_beam as beam

    def fail(*_: object) -> None:
        raise RuntimeError("ValueError: something else")

    pipeline: Any = SimpleNamespace(run=lambda: SimpleNamespace(wait_until_finish=fail))
    monkeypatch.setattr(beam, "Pipeline", lambda **_: pipeline)
    with pytest.raises(RuntimeError, match="something else") as raised:
        runner.run_pipeline(RunConfig(), lambda pipeline: None)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("name", ["DirectRunner", "PrismRunner"])
def test_runners_that_start_another_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"run\.beam_runner='{name}'.*FnApiRunner"):
        runner.run_pipeline(RunConfig(beam_runner=name), lambda pipeline: None)


def test_nothing_runs_where_everything_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = SilentProgress()
    monkeypatch.setattr(runner, "run_pipeline", lambda *_: pytest.fail("a pipeline was started"))
    runner.run_shards(RunConfig(), [1, 2], print, lambda shard: True, progress)
    assert (progress.done, progress.total) == (2, 2)
