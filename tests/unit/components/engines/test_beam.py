"""Around Beam: flags that it knows, complete for the runner; errors of the type they were raised in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from components.engines import beam
from components.engines.beam import pipeline_options
from tests.support.common import SilentProgress
from vim_core.config import RunConfig
from vim_core.errors import ConfigError, DataError

PORTABLE = ["--job_endpoint=localhost:1", "--environment_type=LOOPBACK"]
DATAFLOW = [
    "--project=some-project",
    "--region=us-central2",
    "--temp_location=gs://some-bucket/temp",
    "--sdk_container_image=us-docker.pkg.dev/some-project/vim/vim:1",
]
TRACE = """Traceback (most recent call last):
  File "tables.py", line 1, in read
vim_core.errors.DataError: a.parquet: cut off

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "common.py", line 2, in process
vim_core.errors.DataError: a.parquet: grid [4, 4] [while running 'process']
"""


def run(runner: str, flags: list[str], **fields: Any) -> RunConfig:
    base: dict[str, Any] = {"root": "gs://some-bucket/vim", "threads": 1, "device": "cpu"}
    return RunConfig(beam_runner=runner, beam_options=flags, **base | fields)


@pytest.mark.parametrize(("processes", "mode"), [(1, "in_memory"), (3, "multi_processing")])
def test_the_local_runner_has_the_processes_asked_for(processes: int, mode: str) -> None:
    options = pipeline_options(RunConfig(beam_processes=processes)).get_all_options()
    assert (options["direct_num_workers"], options["direct_running_mode"]) == (processes, mode)


def test_flags_reach_beam() -> None:
    options = pipeline_options(run("DataflowRunner", [*DATAFLOW, "--max_num_workers=7"])).get_all_options()
    assert (options["project"], options["max_num_workers"], options["sdk_location"]) == ("some-project", 7, "container")
    changed = pipeline_options(run("DataflowRunner", [*DATAFLOW, "--sdk_location=default"]))
    assert changed.get_all_options()["sdk_location"] == "default"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_workers=3"], "Beam knows no --max_workers"),
        (["--job_endpiont=localhost:1"], "Beam knows no --job_endpiont"),
        (["max_num_workers=3"], "'max_num_workers=3' is no flag"),
        (["--max_num_workers=many"], "cannot read the value"),
    ],
)
def test_flags_that_beam_would_drop_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^run\.beam_options.*{message}"):
        pipeline_options(RunConfig(beam_options=flags))


@pytest.mark.parametrize(("runner", "flags"), [("PortableRunner", PORTABLE), ("DataflowRunner", DATAFLOW)])
def test_a_missing_flag_is_named_with_all_that_are_needed(runner: str, flags: list[str]) -> None:
    for missing in flags:
        name = missing.partition("=")[0]
        with pytest.raises(ConfigError, match=rf"run\.beam_runner={runner}: .* lacks {name}; it needs {flags[0][:8]}"):
            pipeline_options(run(runner, [flag for flag in flags if flag != missing]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"root": "artifacts"}, r"run\.root='artifacts': workers of DataflowRunner cannot reach it"),
        ({"threads": 0}, r"run\.threads=0: the cores of DataflowRunner's workers"),
        ({"device": "auto"}, r"run\.device='auto': the devices of DataflowRunner's workers"),
        ({"temp": "/tmp/temp"}, "--temp_location=/tmp/temp: Dataflow needs a gs:// folder"),
    ],
)
def test_nothing_is_guessed_about_remote_workers(fields: dict[str, Any], message: str) -> None:
    flags = [*DATAFLOW, f"--temp_location={fields.pop('temp', 'gs://some-bucket/temp')}"]
    with pytest.raises(ConfigError, match=message):
        pipeline_options(run("DataflowRunner", flags, **fields))


def test_the_error_of_a_step_is_read_from_beams_text() -> None:
    error = beam.vim_error_in(TRACE)
    assert type(error) is DataError
    assert str(error) == "a.parquet: grid [4, 4]"


def test_an_unknown_error_is_raised_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is not its own cause, or a walk along the causes would never end."""

    def fail(*_: object) -> None:
        raise RuntimeError("ValueError: something else")

    pipeline: Any = SimpleNamespace(run=lambda: SimpleNamespace(wait_until_finish=fail))
    monkeypatch.setattr("apache_beam.Pipeline", lambda **_: pipeline)
    with pytest.raises(RuntimeError, match="something else") as raised:
        beam.run_pipeline(RunConfig(), lambda pipeline: None)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("name", beam.REFUSED)
def test_runners_that_start_another_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"run\.beam_runner='{name}'.*FnApiRunner"):
        beam.run_pipeline(RunConfig(beam_runner=name), lambda pipeline: None)


def test_nothing_runs_where_everything_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = SilentProgress()
    monkeypatch.setattr(beam, "run_pipeline", lambda *_: pytest.fail("a pipeline was started"))
    beam.run_shards(RunConfig(), [1, 2], print, lambda shard: True, progress)
    assert (progress.done, progress.total) == (2, 2)
