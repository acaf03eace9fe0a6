"""Ctrl-C and SIGTERM while waiting: one exception for both, whoever handles them otherwise."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from components.engines.ray.interrupts import SIGNALS, interruptible


class OrchestratorsOwn(BaseException):
    pass


def own(number: int, frame: object) -> None:
    raise OrchestratorsOwn


@pytest.fixture
def handled() -> Iterator[None]:
    """Somebody handles both signals."""
    before = {number: signal.signal(number, own) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_the_waiting_and_the_handler_comes_back(handled: None, number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), number)
    with pytest.raises(OrchestratorsOwn):
        os.kill(os.getpid(), number)


def test_a_signal_that_nobody_handles_is_left_alone() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_are_left_alone() -> None:
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
