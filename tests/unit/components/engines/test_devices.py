"""Devices and threads of the processes that Beam starts."""

from __future__ import annotations

import pytest

from components.engines.devices import beam_device, beam_threads, numeric_folder
from vim_core.config import RunConfig


@pytest.mark.parametrize(("threads", "processes", "share"), [(4, 1, 4), (1, 8, 1), (3, 2, 1)])
def test_processes_share_the_threads(threads: int, processes: int, share: int) -> None:
    assert beam_threads(RunConfig(threads=threads, beam_processes=processes)) == share


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_remote_workers_have_the_device_of_the_setting(device: str) -> None:
    assert beam_device(RunConfig(beam_runner="DataflowRunner", device=device)) == device


def test_threads_name_unfinished_work_only_where_they_change_bits() -> None:
    def parts(device: str, **fields: bool) -> list[str]:
        return numeric_folder(device, 6, 4, **fields).split("-")[1:]

    assert parts("cpu") == parts("cpu", on_host=True) == ["cpu", "fp32", "t6", "b4"]
    assert parts("cuda") == ["cuda", "fp32", "b4"]
    assert parts("cuda", on_host=True) == ["cuda", "fp32", "t6", "b4"]
