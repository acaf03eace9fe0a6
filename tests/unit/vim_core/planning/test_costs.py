"""Operations, hours and disk, by hand and by torch's own counter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vim_core.config import (
    ClassifyConfig,
    IngestConfig,
    OptimConfig,
    PipelineConfig,
    PriorConfig,
    ProbeConfig,
    QuantizeConfig,
    StackConfig,
    TokenizeConfig,
    TrainConfig,
)
from vim_core.models.classifier import Classifier, ClassifierShape
from vim_core.planning import costs
from vim_core.planning.networks import PlannedNetwork, prior_shape, probe_networks


def test_the_presets_own_estimate_of_vim_large() -> None:
    # Its header: 5.6e21 operations, 111 hours on 128 chips of v4 at 40 %.
    shape = prior_shape(PriorConfig(stack=StackConfig(36, 32, 2048, 8192)), QuantizeConfig(), 1000)
    config = PipelineConfig(prior=PriorConfig(stack=shape.stack, batch=1024, steps=450_000), quantize=QuantizeConfig())
    total = sum(costs.step_flops("prior", config, 1000).values())
    assert total * 450_000 / (128 * 275e12 * 0.4) / 3600 == pytest.approx(111, rel=0.05)


def test_the_classifiers_step_against_torchs_counter() -> None:
    config = ClassifyConfig(image_size=16, width=4, features=8, batch=4)
    model = Classifier(ClassifierShape(16, 10, 4, 8, 0.0)).train()
    counter = FlopCounterMode(display=False)
    with counter:
        F.cross_entropy(model(torch.rand(4, 3, 16, 16)), torch.zeros(4, dtype=torch.int64)).backward()
    assert costs.step_flops("classify", PipelineConfig(classify=config), 10) == {
        "classifier": counter.get_total_flops()
    }


def test_the_probes_heads_by_hand() -> None:
    config = ProbeConfig(batch=8, learning_rates=[0.1], weight_decays=[0.0, 1.0], pixels=0)
    shape = prior_shape(PriorConfig(stack=StackConfig(2, 2, 16, 32)), QuantizeConfig(image_size=16, patch=8), 5)
    columns = 2 * 2 * 5
    heads = 2 * (2 * 2 * 8 * 17 * columns + 2 * 16 * 16 * columns)
    assert costs.probe_step(config, shape, 5)["heads"] == heads
    config.decorrelate = 0.0
    assert costs.probe_step(config, shape, 5)["heads"] == 2 * 2 * 2 * 8 * 17 * columns


def test_checkpoints_by_hand() -> None:
    with torch.device("meta"):
        part = PlannedNetwork("one", nn.Linear(3, 2), OptimConfig(), average=True)
    size = 2 * 4 * 8 + 2 * 4 * 8 + 2 * 4
    for count, training in (
        (3, TrainConfig(steps=1000, checkpoint_every=10, keep=2)),
        (4, TrainConfig(steps=1000, checkpoint_every=10, keep=2, best="max x")),
        (1, TrainConfig(steps=10, checkpoint_every=10)),
    ):
        assert costs.checkpoint_count_and_bytes([part], training) == (count, count * size)


def test_a_probes_checkpoint_leaves_the_prior_out() -> None:
    config, shape = ProbeConfig(pixels=0), prior_shape(PriorConfig(), QuantizeConfig(), 5)
    frozen, heads = probe_networks(config, shape, 5)
    once = TrainConfig(steps=1)
    assert costs.checkpoint_count_and_bytes([frozen, heads], once) == (1, costs.UNSPLIT.buffers(heads))
    assert costs.UNSPLIT.buffers(heads) > 0


def test_tables_by_the_measured_sizes() -> None:
    config = PipelineConfig(ingest=IngestConfig(source="data/imagenet", split="folders"), quantize=QuantizeConfig())
    assert costs.image_table_bytes(config, 1_281_167) == pytest.approx(129.0e9, rel=1e-3)
    assert costs.code_table_bytes(config, 1_281_167, 0) == pytest.approx(2.994e9, rel=1e-3)
    config.tokenize = TokenizeConfig(views=3)
    assert costs.code_table_bytes(config, 1000, 10) == pytest.approx(3010 * 1e6 / 427.9)
    config.ingest.resize = 256
    assert costs.image_table_bytes(config, 10) is None
    assert costs.image_table_bytes(config, 10, 50.0) == 500


def test_known_data() -> None:
    digits = PipelineConfig(ingest=IngestConfig(source="builtin:digits", limit=400, test_fraction=0.25))
    assert costs.known_dataset(digits) == costs.Dataset(300, 100, 10)
    assert costs.known_dataset(PipelineConfig(ingest=IngestConfig(source="elsewhere"))) is None
    faces = IngestConfig(source="data/imagenet", labelled=False)
    assert costs.known_dataset(PipelineConfig(ingest=faces)) == costs.Dataset(1_281_167, 50_000, 0)
