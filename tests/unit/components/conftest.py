"""Fixtures of the component tests: a flow of fakes and a config with a root of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.contract import registry
from components.contract.api import Artifact
from tests.support import tiny_artifacts
from tests.support.common import train_here
from tests.support.fakes import Fake
from vim_core.config import PipelineConfig, RunConfig


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fake]:
    """ingest → quantize → tokenize → prior, all fakes."""
    table = {
        "ingest": Fake(),
        "quantize": Fake({"images": "ingest"}),
        "tokenize": Fake({"images": "ingest", "tokenizer": "quantize"}),
        "prior": Fake({"codes": "tokenize", "tokenizer": "quantize"}),
    }
    monkeypatch.setattr(registry, "component", table.__getitem__)
    return table


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    components = ["ingest", "quantize", "tokenize", "prior"]
    return PipelineConfig(preset="test", components=components, run=RunConfig(root=str(tmp_path / "root")))


@pytest.fixture
def trained_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker, in this process, with the slow measurement left out."""
    train_here(monkeypatch)


@pytest.fixture
def images(tmp_path: Path) -> Artifact:
    """Thirteen training and five test images of three classes."""
    return tiny_artifacts.images(tmp_path)
