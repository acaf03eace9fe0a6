"""Ctrl-C and SIGTERM while this process waits for Ray: one exception for both; the workers end first."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from components.engines.ray import session
from components.engines.ray.session import SIGNALS, interruptible
from vim_core.config import RunConfig
from vim_core.errors import VimError

CONTEXT: Any = SimpleNamespace(name="prior")


class OrchestratorInterrupt(BaseException):
    """Raised by an orchestrator's own handlers."""


def interrupt(number: int, frame: object) -> None:
    raise OrchestratorInterrupt


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_the_waiting_and_the_handler_comes_back(number: signal.Signals) -> None:
    before = signal.signal(number, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), interruptible():
            os.kill(os.getpid(), number)
        with pytest.raises(OrchestratorInterrupt):
            os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_set_no_handlers() -> None:
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            with interruptible():
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert failed == []


def test_a_cluster_that_is_not_there_is_named() -> None:
    with pytest.raises(VimError, match=r"run\.ray_address='127\.0\.0\.1:1': no Ray cluster answers there"):
        session.connect(RunConfig(ray_address="127.0.0.1:1"))


class Controller:
    """Ray's actor over the workers, which cannot answer once it has ended itself."""

    def __init__(self) -> None:
        self.aborted = 0
        self.abort = SimpleNamespace(remote=self._abort)

    def _abort(self) -> str:
        self.aborted += 1
        return "reference"


class Trainer:
    """Registers its controller as Ray's does, then raises `end`."""

    def __init__(self, controller: Controller, end: BaseException) -> None:
        self.controller, self.end = controller, end
        self._register_sigint_handler: Any = None

    def fit(self) -> None:
        self._register_sigint_handler(self.controller)
        raise self.end


def test_an_interrupt_ends_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def get(reference: Any, timeout: float) -> None:
        raise ray.exceptions.RayActorError

    monkeypatch.setattr(ray, "get", get)
    controller = Controller()
    with pytest.raises(KeyboardInterrupt):
        session.run_trainer(Trainer(controller, KeyboardInterrupt()), CONTEXT)
    assert controller.aborted == 1


def test_another_error_is_the_trainings() -> None:
    controller = Controller()
    with pytest.raises(VimError, match="prior: training failed: RuntimeError: no memory"):
        session.run_trainer(Trainer(controller, RuntimeError("no memory")), CONTEXT)
    assert controller.aborted == 0
