"""Notices that a Ray Train worker gets before it is interrupted: SIGTERM, or a preemption notice for its node."""

from __future__ import annotations

import signal
import threading

from vim_core.training.preemption import Notice

_terminated = threading.Event()


def listen() -> None:
    """Take SIGTERM as a notice from now on. Call it in the main thread, which Ray keeps free of the training."""
    _terminated.clear()
    signal.signal(signal.SIGTERM, lambda *_: _terminated.set())


def termination_notice() -> Notice:
    """STOP once this process got SIGTERM."""
    return Notice.STOP if _terminated.is_set() else Notice.NONE


def preemption_notice() -> Notice:
    """SAVE while a node of this training is being drained; a barrier of all workers."""
    from ray import train as ray_train

    return Notice.SAVE if ray_train.get_preemption_info() is not None else Notice.NONE
