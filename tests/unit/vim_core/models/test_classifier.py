"""The small classifier: features feed the head, files rebuild it."""

from __future__ import annotations

from pathlib import Path

import torch

from vim_core.models.classifier import Classifier, ClassifierShape, load_classifier, model_config
from vim_core.weights.saving import to_bytes

SHAPE = ClassifierShape(image_size=8, classes=3, width=4, features=6, dropout=0.5)


def test_logits_are_the_head_over_the_features() -> None:
    network, images = Classifier(SHAPE).eval(), torch.rand(5, 3, 8, 8)
    features = network.features(images)
    assert features.shape == (5, 6)
    assert features.min() >= 0
    torch.testing.assert_close(network(images), features @ network.head.weight.T + network.head.bias)


def test_round_trip_keeps_batch_statistics(tmp_path: Path) -> None:
    network, images = Classifier(SHAPE), torch.rand(5, 3, 8, 8)
    network.train()(images)
    (tmp_path / "m").write_bytes(to_bytes(network))
    (tmp_path / "c").write_bytes(model_config(SHAPE))
    loaded = load_classifier(str(tmp_path / "m"), str(tmp_path / "c"))
    assert not loaded.training
    assert torch.equal(loaded(images), network.eval()(images))
    assert not torch.equal(loaded(images), Classifier(SHAPE).eval()(images))
