"""An interrupt while Ray trains: the workers end first, and it comes out as what it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from components.engines.ray import session
from vim_core.errors import VimError

CONTEXT: Any = SimpleNamespace(name="prior")


class Controller:
    """Ray's actor over the workers, which cannot answer once it has ended itself."""

    def __init__(self) -> None:
        self.aborted = 0
        self.abort = SimpleNamespace(remote=self._abort)

    def _abort(self) -> str:
        self.aborted += 1
        return "gone"


class Trainer:
    """Registers its controller as Ray's does, then ends as told."""

    def __init__(self, controller: Controller, end: BaseException) -> None:
        self.controller, self.end = controller, end
        self._register_sigint_handler: Any = None

    def fit(self) -> None:
        self._register_sigint_handler(self.controller)
        raise self.end


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def get(asked: Any, timeout: float) -> None:
        raise ray.exceptions.RayActorError

    monkeypatch.setattr(ray, "get", get)


def test_an_interrupt_ends_the_workers(answers: None) -> None:
    controller = Controller()
    with pytest.raises(KeyboardInterrupt):
        session._run(Trainer(controller, KeyboardInterrupt()), CONTEXT)
    assert controller.aborted == 1


def test_another_error_is_the_trainings(answers: None) -> None:
    controller = Controller()
    with pytest.raises(VimError, match="prior: training failed: RuntimeError: no memory"):
        session._run(Trainer(controller, RuntimeError("no memory")), CONTEXT)
    assert controller.aborted == 0
