"""Fake components and services: what `execute` runs in its tests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.artifacts import execute
from components.artifacts.execute import Reporting, Result
from components.contract.api import Artifact, Context, Outcome, Tracker
from tests.support.common import SilentProgress, SilentTracker
from vim_core.config import PipelineConfig
from vim_core.storage import io

Act = Callable[[Any, Mapping[str, Artifact], Context], Outcome]


@dataclass
class Fake:
    """A component module of a test."""

    inputs: dict[str, str] = field(default_factory=dict)
    act: Act | None = None
    version: int = 1
    runs: int = 0
    source: Callable[[Any], str] | None = None
    without: frozenset[str] = frozenset()

    @property
    def VERSION(self) -> int:
        return self.version

    @property
    def INPUTS(self) -> dict[str, str]:
        return self.inputs

    @property
    def source_state(self) -> Callable[[Any], str]:
        if self.source is None:
            raise AttributeError("source_state")
        return self.source

    def unused(self, config: Any) -> frozenset[str]:
        return self.without

    def run(self, config: Any, inputs: Mapping[str, Artifact], ctx: Context) -> Outcome:
        self.runs += 1
        io.write_bytes(ctx.path("made/out.bin"), b"result of " + ctx.name.encode())
        return self.act(config, inputs, ctx) if self.act else Outcome(metrics={"runs": self.runs})


@contextlib.contextmanager
def tracking(component: str, fingerprint: str, work: str) -> Iterator[Tracker]:
    yield SilentTracker(run_id=f"run of {component}")


def reporting(progress: SilentProgress | None = None) -> Reporting:
    return Reporting(lambda name: progress or SilentProgress(), tracking)


def run(name: str, config: PipelineConfig, force: bool = False) -> Result:
    return execute.execute(name, config, reporting(), force=force)


def files_below(folder: str | Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())
