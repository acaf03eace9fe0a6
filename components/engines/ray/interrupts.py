"""Ctrl-C and SIGTERM while this process waits for Ray."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise `KeyboardInterrupt` for both meanwhile, where somebody handles them; the handlers come back afterwards.

    It is the only exception that comes through Ray's waiting whole: an orchestrator's own becomes an ordinary error
    there, after which the orchestrator goes on to the next component.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    held = [number for number in SIGNALS if callable(before[number])]
    try:
        for number in held:
            signal.signal(number, signal.default_int_handler)
        yield
    finally:
        for number in held:
            signal.signal(number, before[number])
