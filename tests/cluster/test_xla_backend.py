"""A real Ray Train run on XLA: one worker whose four devices are pretended by the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from components import prior
from tests.support import tiny_artifacts
from tests.support.synthetic import context_of
from tests.support.tiny import prior_config
from vim_core.errors import ConfigError
from vim_core.models.prior import load_prior
from vim_core.training.spool import parse_rows

pytestmark = pytest.mark.cluster


def test_a_prior_trains_under_ray_on_four_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    monkeypatch.setenv("CPU_NUM_DEVICES", "4")
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    tokenizer = tiny_artifacts.tokenizer(tmp_path)
    codes = tiny_artifacts.codes(tmp_path, tokenizer, {"train": np.arange(13) % 3, "test": np.arange(5) % 3})
    inputs = {"codes": codes, "tokenizer": tokenizer}
    ctx = context_of(tmp_path, "prior")
    ctx.run.device, ctx.run.compile_cache = "xla", str(tmp_path / "programs")
    with pytest.raises(ConfigError, match="batch=6: not divisible by the 4 XLA devices"):
        prior.run(prior_config(batch=6), inputs, ctx)
    outcome = prior.run(prior_config(batch=4), inputs, ctx)
    assert outcome.properties["trained_by"] == "Ray Train, 1 worker process(es)"
    assert outcome.numeric is not None
    assert (outcome.numeric["device"], outcome.numeric["world"]) == ("xla-cpu", 4)
    curves = [row["m"]["loss"] for row in parse_rows(Path(ctx.path("curves.jsonl")).read_bytes())]
    assert len(curves) == 6
    assert curves[-1] < curves[0]
    assert load_prior(ctx.path("model.safetensors"), ctx.path("config.json")).shape.classes == 3
    # The backend set the worker's folder for compiled programs before torch_xla was there.
    assert list((tmp_path / "programs").iterdir())
