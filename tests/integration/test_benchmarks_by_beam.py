"""The benchmarks that need Beam, at toy size."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.test_benchmarks import BY_BEAM, check_toy


@pytest.mark.parametrize("name", BY_BEAM)
def test_a_benchmark_by_beam_runs_at_toy_size(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_toy(name, tmp_path, capsys)
