"""A flow of four tiny components in place of the real ones, so that wiring is tested in seconds."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.contract import registry
from components.contract.api import Context, Inputs, Outcome
from pipelines import presets
from pipelines.orchestration import history
from vim_core.config import PipelineConfig, RunConfig
from vim_core.storage import io

INPUTS = {
    "ingest": {},
    "quantize": {"images": "ingest"},
    "tokenize": {"images": "ingest", "tokenizer": "quantize"},
    "prior": {"codes": "tokenize", "tokenizer": "quantize"},
}
PNG = b"\x89PNG\r\n\x1a\n of no size"


class Flow:
    """Fake components; `ran` lists what was executed, `acts` may replace what one of them does.

    `usage` is the share of its codebook that the tokenizer uses.
    """

    def __init__(self, root: Path) -> None:
        self.ran: list[str] = []
        self.acts: dict[str, Callable[[Context], None]] = {}
        self.usage = 0.9
        run = RunConfig(root=str(root), tracking_uri="off")
        self.config = PipelineConfig(preset="fake", components=list(INPUTS), run=run)

    def component(self, name: str) -> Any:
        """The fake module."""

        def run(config: Any, inputs: Inputs, ctx: Context) -> Outcome:
            return self._run(name, inputs, ctx)

        return SimpleNamespace(VERSION=1, INPUTS=INPUTS[name], run=run)

    def _run(self, name: str, inputs: Inputs, ctx: Context) -> Outcome:
        self.ran.append(name)
        ctx.progress.start(2, "step")
        if name in self.acts:
            self.acts[name](ctx)
        ctx.progress.advance(2, loss=1.0)
        text = name + repr(getattr(ctx.pipeline, name)) + "".join(item.digest for item in inputs.values())
        io.write_bytes(ctx.path("data.txt"), text.encode())
        extras = frozenset(self._write_extras(name, ctx))
        # The quality gates read these: tables without a row, and the digests of the inputs.
        tables = {"read": 0, "dead_letter": 0, "splits": {"train": 0, "test": 0}, "classes": [], "views": 1}
        properties = {**{key: item.digest for key, item in inputs.items()}, **tables}
        return Outcome(metrics={"rows": 3.0}, properties=properties, extras=extras)

    def _write_extras(self, name: str, ctx: Context) -> list[str]:
        """Write pictures and curves, as trainings leave them, and return their names."""
        if name != "quantize":
            return []
        figures = {"loss": 0.5, "codebook_usage": self.usage}
        io.write_bytes(ctx.path("curves.jsonl"), json.dumps({"step": 9, "t": 1, "m": figures}).encode() + b"\n")
        io.write_bytes(ctx.path("pictures/reconstructions-00000009.png"), PNG)
        return ["curves.jsonl", "pictures/reconstructions-00000009.png"]


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """The fake flow in place of the registry's components."""
    fakes = Flow(tmp_path / "root")
    real = registry.component
    monkeypatch.setattr(registry, "component", lambda name: fakes.component(name) if name in INPUTS else real(name))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setattr(history, "instance", lambda config: contextlib.nullcontext(in_memory()))
    return fakes


@functools.cache
def in_memory() -> Any:
    """A Dagster instance in memory, which tests share: one takes a tenth of a second to make."""
    import dagster

    return dagster.DagsterInstance.ephemeral()


@pytest.fixture
def fake(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """The fake flow, which every preset is."""
    monkeypatch.setattr(presets, "load", lambda preset, overrides: flow.config)
    return flow
