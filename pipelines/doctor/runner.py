"""Runs all checks at once, each in a thread with a time limit: one that hangs or fails does not affect the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from pipelines.doctor.results import Check, Result, Target, fail
from vim_core.errors import VimError


def run_checks(target: Target, checks: Sequence[Check]) -> list[Result]:
    """Results in the order of the checks; takes as long as the slowest check, at most its time limit."""
    running = [_RunningCheck(check, target) for check in checks if check.applies(target)]
    return [result for check in running for result in check.results()]


class _RunningCheck:
    """A check in a thread. A late one is abandoned: it is a daemon thread and ends with the command."""

    def __init__(self, check: Check, target: Target) -> None:
        self._check, self._subject = check, target
        self._deadline = time.monotonic() + check.timeout
        self._results: list[Result] = []
        self._done = threading.Event()
        threading.Thread(target=self._run, name=f"doctor-{check.name}", daemon=True).start()

    def results(self) -> list[Result]:
        """Return the check's results, or one failure if its time is up; wait until then."""
        if self._done.wait(max(0.0, self._deadline - time.monotonic())):
            return self._results
        limit = f"no answer within {self._check.timeout:.0f} s"
        return [fail(self._check.name, limit, "check the network to it, and try again")]

    def _run(self) -> None:
        try:
            self._results = self._check.run(self._subject)
        except VimError as error:
            self._results = [fail(self._check.name, str(error), "")]
        except Exception as error:
            # Any error of this check must not hide the other results.
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self._results = [fail(self._check.name, f"could not be checked: {what}", "")]
        self._done.set()
