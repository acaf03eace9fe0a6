"""All checks at once, each in a thread of its own with a limit: one that hangs or fails takes nobody along."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from pipelines.doctor.findings import Check, Finding, Subject, fail
from vim_core.errors import VimError


def examine(subject: Subject, checks: Sequence[Check]) -> list[Finding]:
    """Findings in the order of the checks; takes as long as the slowest check, at most its limit."""
    wanted = [check for check in checks if check.needs(subject)]
    begun = [_Examination(check, subject) for check in wanted]
    return [finding for each in begun for finding in each.findings()]


class _Examination:
    """One check at work. A thread that is late is left behind: it is a daemon, and ends with the command."""

    def __init__(self, check: Check, subject: Subject) -> None:
        self._check, self._subject = check, subject
        self._deadline = time.monotonic() + check.seconds
        self._found: list[Finding] = []
        self._done = threading.Event()
        threading.Thread(target=self._run, name=f"doctor-{check.name}", daemon=True).start()

    def findings(self) -> list[Finding]:
        """What it found within its time."""
        if self._done.wait(max(0.0, self._deadline - time.monotonic())):
            return self._found
        limit = f"no answer within {self._check.seconds:.0f} s"
        return [fail(self._check.name, limit, "look at the network between here and there, and try again")]

    def _run(self) -> None:
        try:
            self._found = self._check.act(self._subject)
        except VimError as error:
            self._found = [fail(self._check.name, str(error), "")]
        except Exception as error:
            # The others are worth hearing, whatever this one ran into.
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self._found = [fail(self._check.name, f"could not be looked at: {what}", "")]
        self._done.set()
