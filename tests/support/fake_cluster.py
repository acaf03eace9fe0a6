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

    def submit(self, identity: str, spec_uri: str) -> bool:
        if identity in self.known:
            return False
        self.sent.append((identity, spec_uri))
        self.known[identity] = JobState(identity, RUNNING, started=float(len(self.sent)))
        return True

    def state(self, identity: str) -> JobState | None:
        self._knock()
        return self.known.get(identity)

    def jobs(self) -> list[JobState]:
        self._knock()
        return list(reversed(self.known.values()))

    def follow(self, identity: str) -> Iterator[str]:
        self._knock()
        if self.stalls:
            self.stalls -= 1
            yield self.lines[0]
            return
        yield from self.lines
        if self.forgets:
            self.forgets = False
            self.known.clear()
        elif identity in self.known:
            ending = self.endings[min(len(self.sent), len(self.endings)) - 1]
            message = "its node went" if ending == LOST else ""
            self.known[identity] = replace(self.known[identity], status=ending, message=message)

    def stop(self, identity: str) -> None:
        self.known[identity] = replace(self.known[identity], status="stopped")

    def dashboard(self, identity: str = "") -> str:
        return ""

    def _knock(self) -> None:
        if self.away:
            self.away -= 1
            raise VimError("cluster fake: no Ray cluster answers")
