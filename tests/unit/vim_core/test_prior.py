"""The prior: causality, cached decoding, conditioning, and features that cannot know the label."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unit.vim_core.tiny import prior_network
from vim_core.config import StackConfig
from vim_core.errors import DataError
from vim_core.models.prior import ImagePrior, PriorShape, load_prior, model_config
from vim_core.models.saving import to_bytes


def inputs(count: int = 4, tokens: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 11, (count, tokens), generator=generator), torch.arange(count) % 3


def test_every_code_is_predicted_from_the_ones_before_it_only() -> None:
    prior, (codes, labels) = prior_network(), inputs()
    before = prior(codes, labels)
    assert before.shape == (4, 6, 11)
    for changed in range(6):
        other = codes.clone()
        other[:, changed] = (other[:, changed] + 1) % 11
        after = prior(other, labels)
        assert torch.equal(after[:, : changed + 1], before[:, : changed + 1])
        for later in range(changed + 1, 6):
            assert not torch.allclose(after[:, later], before[:, later], atol=1e-4)


def test_the_class_reaches_every_prediction() -> None:
    prior, (codes, labels) = prior_network(), inputs()
    for other in ((labels + 1) % 3, torch.full_like(labels, prior.null_class)):
        changed = (prior(codes, labels) - prior(codes, other)).abs().amax(dim=(0, 2))
        assert changed.min() > 1e-4


def test_cached_steps_equal_the_whole_pass() -> None:
    prior, (codes, labels) = prior_network(), inputs()
    whole = prior(codes, labels)
    cache, steps = prior.empty_cache(4, torch.float32), torch.arange(6)
    x = prior.class_embedding(labels)[:, None]
    for t in range(6):
        mask = torch.where(steps <= t, 0.0, -torch.inf)
        logits = prior.decode_step(x, cache, steps[t : t + 1], mask)
        torch.testing.assert_close(logits, whole[:, t], atol=1e-5, rtol=1e-5)
        x = (prior.code_embedding(codes[:, t]) + prior.positions()[t])[:, None]


def test_positions_are_sums_of_row_and_column() -> None:
    prior = prior_network()
    for index, vector in enumerate(prior.positions()):
        torch.testing.assert_close(vector, prior.rows[index // 3] + prior.columns[index % 3])


def test_block_features_are_means_over_the_codes_under_the_null_class() -> None:
    prior, (codes, _) = prior_network(), inputs()
    outputs: list[Tensor] = []
    for block in prior.blocks:
        block.register_forward_hook(lambda module, given, result: outputs.append(result))
    found = list(prior.block_features(codes))
    features_of = [output[:, 1:].mean(1) for output in outputs]
    assert len(found) == 2
    for mine, expected in zip(found, features_of, strict=True):
        torch.testing.assert_close(mine, expected)
    # The same blocks in a plain pass with the null class see the same first tokens.
    outputs.clear()
    null = torch.full((4,), prior.null_class)
    x = prior.embed(codes, null)
    for block in prior.blocks:
        x = block(x)
    for mine, output in zip(found, outputs, strict=True):
        torch.testing.assert_close(mine, output[:, 1:].mean(1))


def test_an_unconditional_prior_has_the_null_class_alone() -> None:
    prior = prior_network(classes=0)
    assert prior.null_class == 0
    assert prior.class_embedding.num_embeddings == 1


def test_dropout_works_in_training_only() -> None:
    prior, (codes, labels) = prior_network(), inputs()
    assert torch.equal(prior(codes, labels), prior(codes, labels))
    prior.train()
    assert not torch.equal(prior(codes, labels), prior(codes, labels))


def test_round_trip_and_refusal(tmp_path: Path) -> None:
    prior, (codes, labels) = prior_network(), inputs()
    (tmp_path / "m").write_bytes(to_bytes(prior))
    (tmp_path / "c").write_bytes(model_config(prior.shape))
    loaded = load_prior(str(tmp_path / "m"), str(tmp_path / "c"))
    assert loaded.shape == prior.shape
    assert not loaded.training
    assert torch.equal(loaded(codes, labels), prior(codes, labels))
    other = ImagePrior(PriorShape(StackConfig(1, 2, 16, 32), [2, 3], 11, 3)).shape
    (tmp_path / "c").write_bytes(model_config(other))
    with pytest.raises(DataError, match="does not fit ImagePrior"):
        load_prior(str(tmp_path / "m"), str(tmp_path / "c"))
