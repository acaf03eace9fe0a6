"""A collapsing codebook is reported and ends a training early, on all workers alike and after a resume alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.tiny import assert_equal_bits, image_table, quantize_config, runtime, state_of
from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.config import CodebookConfig
from vim_core.distributed.runtimes.base import Runtime
from vim_core.errors import CollapseError, ConfigError
from vim_core.tasks.quantizer import QuantizerData, QuantizerTask
from vim_core.training.evaluation import BackgroundThread
from vim_core.training.loop import train
from vim_core.training.spool import Spool
from vim_core.training.usage_watch import ALARM, USAGE, UsageWatch


def test_the_alarm_speaks_when_usage_crosses_its_bound() -> None:
    watch = UsageWatch(alarm=0.5, halt=0.1, grace=20, codes=8192)
    assert watch.observe(10, {USAGE: 0.01}) == ({ALARM: 0.0}, "")  # within the grace
    figures, text = watch.observe(20, {USAGE: 0.031})
    assert figures == {ALARM: 1.0}
    assert text.startswith(
        "3.1% of 8,192 codes are in use by 256 held-out images after 20 steps, below quantize.usage_al"
    )
    assert "quantize.codebook.restart.every=100" in text
    assert watch.summary() == "3.1% of 8,192 codes are in use by 256 held-out images after 20 steps (alarm below 50%)"
    assert watch.observe(30, {USAGE: 0.2}) == ({ALARM: 1.0}, "")
    assert "again, above" in watch.observe(40, {USAGE: 0.6})[1]
    assert (watch.summary(), watch.low) == ("", False)


def test_what_cannot_be_measured_is_said_once() -> None:
    watch = UsageWatch(alarm=0.5, halt=0.0, grace=0, codes=16)
    assert "256 held-out images, and fewer" in watch.observe(1, {"codebook_usage_of_9_images": 0.1})[1]
    assert watch.observe(2, {"codebook_usage_of_9_images": 0.1}) == ({}, "")
    assert UsageWatch(0.0, 0.0, 0, 16).observe(1, {}) == ({}, "")


class Second(Runtime):
    """The second of two workers; what the first one says comes before its own."""

    def __init__(self, first: Tensor) -> None:
        self.first = first

    def gather_host(self, value: Tensor) -> Tensor:
        return torch.cat([self.first, value])

    has_bf16 = None  # type: ignore[assignment]


Second.__abstractmethods__ = frozenset()


@pytest.mark.parametrize(("done", "usage", "halts"), [(20, 0.05, True), (20, 0.1, False), (19, 0.05, False)])
def test_workers_without_evaluations_decide_as_the_first_does(done: int, usage: float, halts: bool) -> None:
    first, second = (UsageWatch(0.5, 0.1, 20, 8192) for _ in range(2))
    first.observe(done, {USAGE: usage})
    errors = []
    for watch, worker in ((first, runtime()), (second, Second(torch.tensor([[done, usage]])))):
        try:
            watch.raise_collapse(worker)
        except CollapseError as error:
            errors.append(str(error))
    assert errors == [errors[0]] * 2 if halts else errors == []
    UsageWatch(0.5, 0.0, 0, 8192).raise_collapse(Second(torch.tensor([[done, 0.0]])))  # 0 never halts


def test_a_halt_without_evaluations_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"quantize\.usage_halt=0\.1: needs evaluations of 256 images"):
        quantize_config(usage_halt=0.1)
    with pytest.raises(ConfigError, match="evaluate_limit"):
        quantize_config(usage_halt=0.1, evaluate_every=2, evaluate_limit=255)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> QuantizerData:
    folder = tmp_path_factory.mktemp("tables")
    train, test = (image_table(folder / f"{name}.parquet", count) for name, count in (("train", 16), ("test", 256)))
    return QuantizerData([train], [test])


def test_a_collapsing_codebook_ends_the_training_and_its_resumes_until_told_otherwise(
    data: QuantizerData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 images of 4 tokens cannot use most of 4,096 codes."""
    poll = BackgroundThread.poll  # so few steps would be over before the first evaluation is
    monkeypatch.setattr(BackgroundThread, "poll", lambda evaluator, wait=False: poll(evaluator, True))
    codebook = CodebookConfig(codes=4096, dim=4)
    settings: dict[str, Any] = {
        "codebook": codebook,
        "steps": 8,
        "batch": 4,
        "checkpoint_every": 2,
        "evaluate_every": 2,
        "evaluate_limit": 0,
    }
    config = quantize_config(**settings, usage_alarm=0.9, usage_halt=0.5, usage_grace=4)

    def trained(folder: str, **changes: Any) -> QuantizerTask:
        task = QuantizerTask(replace(config, **changes), data, runtime())
        train(
            task,
            Checkpoints(str(tmp_path / folder / "checkpoints"), {}, task.runtime),
            Spool(tmp_path / folder / "spool"),
        )
        return task

    with pytest.raises(
        CollapseError, match=r"^quantize\.usage_halt=0\.5: .* of 4,096 codes are in use.*restart\.every=100"
    ):
        trained("halted")
    rows = Spool(tmp_path / "halted" / "spool").rows()
    notes = [row["note"] for row in rows if "codes are in use" in row.get("note", "")]
    assert len(notes) == 1
    (tags,) = [row["tags"] for row in rows if "tags" in row]
    assert tags[ALARM].endswith("after 4 steps (alarm below 90%)")
    assert {row["m"].get(f"eval/{ALARM}") for row in rows if f"eval/{USAGE}" in row.get("m", {})} >= {1.0}
    stopped = max(int(row["step"]) for row in rows if "loss" in row.get("m", {})) + 1
    assert stopped == 4  # the first checkpoint after the grace
    with pytest.raises(CollapseError):  # at once: no step was made
        trained("halted")
    after = Spool(tmp_path / "halted" / "spool").rows()
    assert max(int(row["step"]) for row in after if "loss" in row.get("m", {})) + 1 == stopped
    resumed, whole = trained("halted", usage_halt=0.0), trained("whole", usage_halt=0.0)
    assert_equal_bits(state_of(resumed), state_of(whole))
    summary = next(row["note"] for row in reversed(Spool(tmp_path / "halted" / "spool").rows()) if row.get("summary"))
    assert "(alarm below 90%)" in summary
