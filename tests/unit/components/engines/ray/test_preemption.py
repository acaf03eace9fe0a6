"""Notices that a worker gets before it is interrupted."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from components.engines.ray import preemption
from vim_core.training.interruptions import Preemption


@pytest.fixture
def handler() -> Iterator[None]:
    """Puts the handler of SIGTERM back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("handler")
def test_sigterm_is_a_notice_to_stop() -> None:
    preemption.listen()
    assert preemption.termination_notice() is Preemption.NONE
    os.kill(os.getpid(), signal.SIGTERM)
    assert preemption.termination_notice() is Preemption.STOP
    preemption.listen()
    assert preemption.termination_notice() is Preemption.NONE, "a worker process may be used again"


@pytest.mark.parametrize(("info", "expected"), [(None, Preemption.NONE), (object(), Preemption.SAVE)])
def test_a_drained_node_is_a_notice_to_save(
    monkeypatch: pytest.MonkeyPatch, info: object, expected: Preemption
) -> None:
    stand_in = SimpleNamespace(train=SimpleNamespace(get_preemption_info=lambda: info))
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    assert preemption.preemption_notice() is expected
