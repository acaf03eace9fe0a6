"""A GPU as far as a runtime asks for its properties."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch


def pretend(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0), multiprocessors: int = 132) -> None:
    """Let torch.cuda say that there is one of this capability; no tensor can lie on it."""
    properties = SimpleNamespace(multi_processor_count=multiprocessors)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: capability >= (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda on, warn_only: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
