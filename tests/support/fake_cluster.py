"""A cluster in memory, for tests of submitting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pipelines.jobs.api import LOST, RUNNING, SUCCEEDED, JobState
from vim_core.errors import VimError


@dataclass
class FakeCluster:
    """A `Backend`: each job that is sent ends as `endings` say, in turn, after printing `lines`.

    `away` is how many more calls find no cluster; `stalls` how often a log ends although its job goes on.
    """

    endings: Sequence[str] = (SUCCEEDED,)
    lines: Sequence[str] = ("one", "two")
    away: int = 0
    stalls: int = 0
    known: dict[str, JobState] = field(default_factory=dict)
    sent: list[tuple[str, str]] = field(default_factory=list)
    forgets: bool = False

    def submit(self, job_id: str, spec_uri: str) -> bool:
        if job_id in self.known:
            return False
        self.sent.append((job_id, spec_uri))
        self.known[job_id] = JobState(job_id, RUNNING, started=float(len(self.sent)))
        return True

    def state(self, job_id: str) -> JobState | None:
        self._knock()
        return self.known.get(job_id)

    def jobs(self) -> list[JobState]:
        self._knock()
        return list(reversed(self.known.values()))

    def follow(self, job_id: str) -> Iterator[str]:
        self._knock()
        if self.stalls:
            self.stalls -= 1
            yield self.lines[0]
            return
        yield from self.lines
        if self.forgets:
            self.forgets = False
            self.known.clear()
        elif job_id in self.known:
            ending = self.endings[min(len(self.sent), len(self.endings)) - 1]
            message = "its node went" if ending == LOST else ""
            self.known[job_id] = replace(self.known[job_id], status=ending, message=message)

    def stop(self, job_id: str) -> None:
        self.known[job_id] = replace(self.known[job_id], status="stopped")

    def dashboard(self, job_id: str = "") -> str:
        return ""

    def _knock(self) -> None:
        if self.away:
            self.away -= 1
            raise VimError("cluster fake: no Ray cluster answers")
