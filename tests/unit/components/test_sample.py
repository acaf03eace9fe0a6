"""`sample`: the same pictures however many are asked for, however they are sharded, and after an interruption."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components import sample
from components.api import Artifact
from tests.synthetic import context_of, with_fields
from tests.unit.components import models
from tests.unit.vim_core.tiny import prior_network
from vim_core.config import SampleConfig
from vim_core.data.tables import ImageTable
from vim_core.errors import ConfigError, LineageError
from vim_core.models.vit_vqgan import Tokenizer
from vim_core.sampling import Sampler, Settings


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("models")
    tokenizer = models.tokenizer(root)
    return {"tokenizer": tokenizer, "prior": models.prior(root, tokenizer)}


def drawn(inputs: dict[str, Artifact], root: Path, **fields: Any) -> dict[str, tuple[int, bytes]]:
    """Label and picture of every sample by key."""
    config = SampleConfig(**{"lanes": 4, "guidance": 1.5, **fields})
    ctx = context_of(root, "sample")
    outcome = sample.run(config, inputs, ctx)
    table = ImageTable([ctx.path(name) for name in sorted(outcome.rows)])
    assert outcome.metrics["count"] == config.count == len(table) == sum(outcome.rows.values())
    return {row.key: (row.label, row.image) for row in table}


def test_samples_do_not_depend_on_count_or_shards(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    many = drawn(inputs, tmp_path / "a", count=19, shards=3)
    assert list(many) == [f"sample-{i:08d}" for i in range(19)]
    assert [label for label, _ in many.values()] == [i % 3 for i in range(19)]
    assert len({picture for _, picture in many.values()}) > 9
    for number, (count, shards) in enumerate([(19, 1), (7, 2), (10, 4), (1, 1)]):
        few = drawn(inputs, tmp_path / str(number), count=count, shards=shards)
        assert few == {key: many[key] for key in few}
        assert len(few) == count


def test_a_decoder_that_depends_on_the_place_in_the_batch_does_no_harm(
    inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Tokenizer.decode

    def placed(self: Tokenizer, codes: Any) -> Any:
        # Some shapes of matrix products do this in the last bits; here it is seen.
        return own(self, codes) * 0.5 + torch.arange(len(codes)).view(-1, 1, 1, 1) * 0.1

    monkeypatch.setattr(Tokenizer, "decode", placed)
    many = drawn(inputs, tmp_path / "a", count=11, shards=3)
    few = drawn(inputs, tmp_path / "b", count=9, shards=4)
    assert few == {key: many[key] for key in few}


def test_finished_shards_are_kept(inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drawn(inputs, tmp_path / "whole", count=16, shards=4)
    own, groups = Sampler.group, []

    def dying(self: Sampler, index: int, labels: Any) -> Any:
        groups.append(index)
        if len(groups) == 3:
            raise KeyboardInterrupt
        return own(self, index, labels)

    monkeypatch.setattr(Sampler, "group", dying)
    with pytest.raises(KeyboardInterrupt):
        drawn(inputs, tmp_path / "killed", count=16, shards=4)
    assert drawn(inputs, tmp_path / "killed", count=16, shards=4) == whole
    assert groups == [0, 1, 2, 2, 3]


def test_another_seed_gives_other_pictures(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    assert drawn(inputs, tmp_path / "a", count=4, seed=0) != drawn(inputs, tmp_path / "b", count=4, seed=1)


def test_an_unconditional_prior_gives_pictures_without_labels(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    free = models.prior(tmp_path / "prior", inputs["tokenizer"], conditional=False)
    pictures = drawn({**inputs, "prior": free}, tmp_path, count=5, guidance=1.0)
    assert {label for label, _ in pictures.values()} == {-1}


def test_what_was_done_is_recorded(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    outcome = sample.run(SampleConfig(count=3, lanes=4, top_k=5), inputs, context_of(tmp_path, "sample"))
    assert outcome.properties["tokenizer"] == inputs["tokenizer"].digest
    assert outcome.properties["prior"] == inputs["prior"].digest
    assert outcome.properties["classes"] == models.CLASSES
    assert {"count": 3, "top_k": 5, "labels": "balanced"}.items() <= outcome.properties["protocol"].items()


@given(st.integers(1, 500), st.integers(1, 9))
def test_shards_cover_every_sample_once(count: int, shards: int) -> None:
    ranges = sample.shards(SampleConfig(count=count, shards=shards))
    assert len(ranges) == shards
    assert (ranges[0][0], ranges[-1][1]) == (0, count)
    assert all(a[1] == b[0] for a, b in pairwise(ranges))
    sizes = [last - first for first, last in ranges]
    assert max(sizes) - min(sizes) <= 1


def test_labels_go_round_over_groups() -> None:
    sampler = Sampler(prior_network(classes=3), Settings(), lanes=4)
    found = [int(label) for group in range(3) for label in sample.lane_labels(sampler, group)]
    assert found == [i % 3 for i in range(12)]
    free = Sampler(prior_network(classes=0), Settings(), lanes=4)
    assert sample.lane_labels(free, 2).tolist() == [free.prior.null_class] * 4


def test_a_prior_of_another_tokenizer_is_refused(inputs: dict[str, Artifact]) -> None:
    other = with_fields(inputs["tokenizer"], digest="another-tokenizer")
    with pytest.raises(LineageError, match="belongs to tokenizer digest-of-qu, not to another-toke"):
        sample.check(SampleConfig(), inputs["prior"], other)


@pytest.mark.parametrize(("conditional", "null_trained"), [(True, False), (False, True)])
def test_guidance_needs_classes_and_a_trained_null_class(
    inputs: dict[str, Artifact], tmp_path: Path, conditional: bool, null_trained: bool
) -> None:
    prior = models.prior(tmp_path, inputs["tokenizer"], conditional, null_trained)
    sample.check(SampleConfig(guidance=1.0), prior, inputs["tokenizer"])
    with pytest.raises(ConfigError, match=r"sample\.guidance=2\.0: needs a class-conditional prior"):
        sample.check(SampleConfig(guidance=2.0), prior, inputs["tokenizer"])
