"""Notices that a Ray Train worker gets before it is interrupted: SIGTERM, or a preemption notice for its node."""

from __future__ import annotations

import signal
import threading

from vim_core.training.interruptions import Preemption

_terminated = threading.Event()


def listen() -> None:
    """Take SIGTERM as a notice from now on. Call it in the main thread, which Ray keeps free of the training."""
    _terminated.clear()
    signal.signal(signal.SIGTERM, lambda *_: _terminated.set())


def termination_notice() -> Preemption:
    """STOP once this process got SIGTERM."""
    return Preemption.STOP if _terminated.is_set() else Preemption.NONE


def preemption_notice() -> Preemption:
    """SAVE while a node of this training is being drained; a barrier of all workers."""
    from ray import train as ray_train

    return Preemption.SAVE if ray_train.get_preemption_info() is not None else Preemption.NONE
