"""Whole plans and what they object to."""

from __future__ import annotations

from typing import Any

import pytest

from vim_core.config import (
    ClassifyConfig,
    CodebookConfig,
    DiscriminatorConfig,
    EntropyConfig,
    IngestConfig,
    OptimConfig,
    PipelineConfig,
    PriorConfig,
    QuantizeConfig,
    RunConfig,
    SampleConfig,
    StackConfig,
)
from vim_core.errors import ConfigError
from vim_core.planning.chips import CHIPS, Chip
from vim_core.planning.plan import MODEL, ComponentPlan, PlanInputs, PresetPlan, plan_preset

V4, H200 = CHIPS["TPU-V4"], CHIPS["H200"]
WIDE = StackConfig(blocks=1, heads=2, dim=128, mlp=128)
SMALL: dict[str, Any] = {"image_size": 32, "encoder": WIDE, "decoder": WIDE, "batch": 32}


def planned(kind: Chip = V4, chips: int = 4, inputs: PlanInputs | None = None, **fields: Any) -> PresetPlan:
    base: dict[str, Any] = {
        "components": ["ingest", "quantize", "tokenize", "prior", "sample"],
        "quantize": QuantizeConfig(**SMALL, discriminator=DiscriminatorConfig(channels=32, base=256)),
        "prior": PriorConfig(stack=WIDE, batch=32, steps=100),
        "sample": SampleConfig(count=7200),
    }
    return plan_preset(PipelineConfig(**base | fields), kind, chips, inputs or PlanInputs())


def of(made: PresetPlan, name: str) -> ComponentPlan:
    return next(each for each in made.components if each.name == name)


def test_counts_of_a_step() -> None:
    prior = of(planned(), "prior")
    assert (prior.batch, prior.images_a_chip, prior.tokens, prior.steps) == (32, 8, 32 * 16, 100)
    assert prior.epochs == pytest.approx(100 * 32 / 1500, rel=1e-3)
    assert prior.precision == "bf16"
    assert planned().warnings == []


def test_hours_only_with_mfu_and_cost_only_with_a_price() -> None:
    assert of(planned(), "prior").time is None
    timed = of(planned(inputs=PlanInputs({"prior": 0.5})), "prior")
    assert timed.time is not None
    assert timed.time.cost is None
    hours = sum(timed.flops.values()) * 100 / (4 * 275e12 * 0.5) / 3600
    assert (timed.time.hours, timed.time.chip_hours) == (hours, 4 * hours)
    priced = of(planned(inputs=PlanInputs({"prior": 0.5}, price=3.0)), "prior").time
    assert priced is not None
    assert priced.cost == 3.0 * 4 * hours
    assert of(planned(inputs=PlanInputs({"prior": 0.5})), "quantize").time is None


def test_rated_components() -> None:
    made = planned(inputs=PlanInputs(rates={"sample": 2.0}))
    assert made.hours == {"ingest": None, "tokenize": None, "sample": 1.0}


def test_unknown_data_is_said_and_can_be_given() -> None:
    there = IngestConfig(source="gs://bucket/photos")
    made = planned(ingest=there)
    assert of(made, "prior").epochs is None
    assert made.tables == {"image table": None, "code table": None}
    assert ["--images" in note or "--classes" in note for note in made.notes[:2]] == [True, True]
    given = planned(ingest=there, inputs=PlanInputs(images=3200, classes=7, bytes_per_image=10.0))
    assert given.notes == [MODEL]
    assert of(given, "prior").epochs == 1.0
    assert given.tables["image table"] == 32_000


def test_a_chip_that_is_too_small_is_warned_of() -> None:
    tiny = Chip("toy", 1e6, 1e12, axes=3)
    (first, *_) = planned(tiny).warnings
    assert first.startswith("quantize: does not fit: needs ")
    # A little more than the reserve allows for.
    peak = of(planned(), "prior").memory.peak
    tight = [w for w in planned(Chip("toy", peak * 1.01, 1e12, axes=3)).warnings if w.startswith("prior")]
    assert len(tight) == 1
    assert "leaves less than 8%" in tight[0]


def test_a_shared_copy_needs_less() -> None:
    whole, shared = planned(run=RunConfig(fsdp=1)), planned(run=RunConfig(fsdp=4))
    assert of(shared, "prior").memory.weights < 0.3 * of(whole, "prior").memory.weights
    two = of(planned(H200, 4, run=RunConfig(parallel="fsdp", workers=4)), "prior")
    assert two.shards == 4
    assert of(planned(H200, 4), "prior").shards == 1
    pairs = of(planned(H200, 4, run=RunConfig(parallel="fsdp", fsdp=2, workers=4)), "prior")
    assert (pairs.shards, pairs.memory.weights > two.memory.weights) == (2, True)


def test_a_classifier_takes_one_chip() -> None:
    made = planned(components=["ingest", "classify"], classify=ClassifyConfig(batch=30))
    assert of(made, "classify").chips == 1
    assert made.warnings == []
    assert made.notes[0].startswith("classify: ")
    tight = planned(Chip("toy", 1e6, 1e12), 1, components=["ingest", "classify"], classify=ClassifyConfig(batch=30))
    assert "Try a smaller classify.batch than 30" in tight.warnings[0]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prior": PriorConfig(stack=WIDE, batch=30)}, "4 parts, which do not divide prior.batch=30"),
        ({"prior": PriorConfig(stack=WIDE, batch=24, accumulate=12)}, "prior.accumulate=12: with run.workers=4 it"),
        ({"prior": PriorConfig(stack=StackConfig(1, 2, 24, 128), batch=32)}, "heads=2: makes heads of 12 channels"),
        ({"prior": PriorConfig(stack=StackConfig(1, 2, 128, 130), batch=32)}, "mlp=130 not divisible by 128"),
        ({"prior": PriorConfig(stack=StackConfig(1, 2, 48, 126), batch=32)}, "run.fsdp=4: does not divide dimension"),
    ],
)  # fmt: skip
def test_what_does_not_come_out_even(fields: dict[str, Any], words: str) -> None:
    assert any(words in warning for warning in planned(**fields).warnings)


def test_what_a_training_would_refuse() -> None:
    entropy = CodebookConfig(entropy=EntropyConfig(weight=0.1))
    made = planned(quantize=QuantizeConfig(**SMALL, codebook=entropy, accumulate=2))
    assert any("entropy" in warning for warning in made.warnings)
    groups = QuantizeConfig(**SMALL, discriminator=DiscriminatorConfig(channels=32, base=256, stddev_group=5))
    assert any("stddev_group=5" in text and "batch of 32" in text for text in planned(quantize=groups).warnings)
    # Workers of their own see their share alone.
    assert any("batch of 8" in warning for warning in planned(H200, 4, quantize=groups).warnings)


def test_an_impossible_mesh_is_refused() -> None:
    for arguments in ((), (H200, 4)):
        with pytest.raises(ConfigError, match=r"run\.fsdp=3: does not divide the 4"):
            planned(*arguments, run=RunConfig(fsdp=3, parallel="fsdp", workers=6))


def test_copies_on_several_nodes() -> None:
    """Two chips of four share a copy: each holds what it would of two chips in all."""
    factored = PriorConfig(stack=WIDE, batch=32, optim=OptimConfig(kind="factored"))
    runs = [RunConfig(parallel="fsdp", workers=n, fsdp=2) for n in (2, 4)]
    two, four = (of(planned(H200, run.workers, prior=factored, run=run), "prior").memory for run in runs)
    assert (two.weights, two.optimizer) == (four.weights, four.optimizer)
