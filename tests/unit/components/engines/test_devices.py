"""Devices and threads of the processes that Beam starts."""

from __future__ import annotations

import pytest

from components.engines.devices import beam_device, beam_threads
from vim_core.config import RunConfig


@pytest.mark.parametrize(("threads", "processes", "share"), [(4, 1, 4), (1, 8, 1), (3, 2, 1)])
def test_processes_share_the_threads(threads: int, processes: int, share: int) -> None:
    assert beam_threads(RunConfig(threads=threads, beam_processes=processes)) == share


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_remote_workers_have_the_device_of_the_setting(device: str) -> None:
    assert beam_device(RunConfig(beam_runner="DataflowRunner", device=device)) == device
