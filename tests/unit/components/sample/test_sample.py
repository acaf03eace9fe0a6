"""`sample`: the same pictures however many are asked for, however they are sharded, and after an interruption."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.contract.api import Artifact
from components.sample import component as sample
from components.sample.draw import GroupAssembly, class_numbers, sample_ranges
from tests.support import tiny_artifacts
from tests.support.synthetic import context_of, with_fields
from vim_core.config import SampleConfig
from vim_core.data.image_tables import ImageTable
from vim_core.errors import ConfigError, LineageError
from vim_core.models.vit_vqgan import Tokenizer
from vim_core.sampling.sampler import Sampler


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("models")
    tokenizer = tiny_artifacts.tokenizer(root)
    return {"tokenizer": tokenizer, "prior": tiny_artifacts.prior(root, tokenizer)}


def draw(inputs: dict[str, Artifact], root: Path, **fields: Any) -> dict[str, tuple[int, bytes]]:
    """Label and picture of every sample by key."""
    config = SampleConfig(**{"lanes": 4, "guidance": 1.5, **fields})
    ctx = context_of(root, "sample")
    outcome = sample.run(config, inputs, ctx)
    table = ImageTable([ctx.path(name) for name in sorted(outcome.rows)])
    assert outcome.metrics["count"] == config.count == len(table) == sum(outcome.rows.values())
    return {row.key: (row.label, row.image) for row in table}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_samples_do_not_depend_on_count_or_shards(inputs: dict[str, Artifact], tmp_path: Path, precision: str) -> None:
    many = draw(inputs, tmp_path / "a", count=22, shards=3, precision=precision)
    assert list(many) == [f"sample-{i:08d}" for i in range(22)]
    assert [label for label, _ in many.values()] == [i % 3 for i in range(22)]
    assert len({picture for _, picture in many.values()}) > 9
    for count, files in ((9, 1), (7, 4)):
        few = draw(inputs, tmp_path / str(count), count=count, shards=files, precision=precision)
        assert few == {key: many[key] for key in few}
        assert len(few) == count
    assert draw(inputs, tmp_path / "b", count=4, seed=1, precision=precision) != {
        key: many[key] for key in list(many)[:4]
    }


def test_a_decoder_that_depends_on_the_place_in_the_batch_does_no_harm(
    inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Tokenizer.decode

    def placed(self: Tokenizer, codes: Any) -> Any:
        # Some shapes of matrix products do this in the last bits; here it is seen.
        return own(self, codes) * 0.5 + torch.arange(len(codes)).view(-1, 1, 1, 1) * 0.1

    monkeypatch.setattr(Tokenizer, "decode", placed)
    many = draw(inputs, tmp_path / "a", count=11, shards=3)
    few = draw(inputs, tmp_path / "b", count=9, shards=4)
    assert few == {key: many[key] for key in few}


def test_finished_shards_are_kept(inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draw(inputs, tmp_path / "whole", count=16, shards=4)
    own, groups = Sampler.group, []

    def dying(self: Sampler, index: int, labels: Any, given: Any = None) -> Any:
        groups.append(index)
        if len(groups) == 3:
            raise KeyboardInterrupt
        return own(self, index, labels, given)

    monkeypatch.setattr(Sampler, "group", dying)
    with pytest.raises(KeyboardInterrupt):
        draw(inputs, tmp_path / "killed", count=16, shards=4)
    assert draw(inputs, tmp_path / "killed", count=16, shards=4) == whole
    assert groups == [0, 1, 2, 2, 3]


def test_an_unconditional_prior_gives_pictures_without_labels(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    free = tiny_artifacts.prior(tmp_path / "prior", inputs["tokenizer"], conditional=False)
    pictures = draw({**inputs, "prior": free}, tmp_path, count=5, guidance=1.0)
    assert {label for label, _ in pictures.values()} == {-1}
    with pytest.raises(ConfigError, match="trained without classes; leave it empty"):
        class_numbers(["ant"], free.properties["classes"])


def test_what_was_done_is_recorded(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    outcome = sample.run(SampleConfig(count=3, lanes=4, top_k=5), inputs, context_of(tmp_path, "sample"))
    assert outcome.properties["tokenizer"] == inputs["tokenizer"].digest
    assert outcome.properties["prior"] == inputs["prior"].digest
    assert outcome.properties["classes"] == tiny_artifacts.CLASSES
    assert {"count": 3, "top_k": 5, "labels": "balanced"}.items() <= outcome.properties["protocol"].items()


@given(st.integers(1, 500), st.integers(1, 9))
def test_shards_cover_every_sample_once(count: int, number: int) -> None:
    ranges = sample_ranges(SampleConfig(count=count, shards=number))
    assert len(ranges) == number
    assert (ranges[0][0], ranges[-1][1]) == (0, count)
    assert all(a[1] == b[0] for a, b in pairwise(ranges))
    sizes = [last - first for first, last in ranges]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 7), st.data())
def test_shards_are_whole_once_their_groups_are_and_hold_no_more(
    count: int, number: int, lanes: int, data: st.DataObject
) -> None:
    config = SampleConfig(count=count, shards=number, lanes=lanes)
    missing = data.draw(st.lists(st.sampled_from(range(number)), unique=True))
    assembly = GroupAssembly(config, missing)
    wanted = {i // lanes for shard in missing for i in range(*sample_ranges(config)[shard])}
    assert assembly.groups == sorted(wanted)
    made: dict[int, Any] = dict(assembly.pop_complete())
    for group in data.draw(st.permutations(assembly.groups)):
        samples: Any = list(range(group * lanes, min(count, (group + 1) * lanes)))
        for shard, rows in assembly.add(group, samples):
            assert shard not in made
            made[shard] = rows
    assert made == {shard: list(range(*sample_ranges(config)[shard])) for shard in missing}
    assert not assembly._rows


def test_chosen_classes_by_name_or_number(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    pictures = draw(inputs, tmp_path, count=6, classes=["cat", "0"])
    assert [label for label, _ in pictures.values()] == [2, 0, 2, 0, 2, 0]
    outcome = sample.run(SampleConfig(count=2, lanes=2, classes=["2"]), inputs, context_of(tmp_path / "b", "sample"))
    assert outcome.properties["protocol"]["labels"] == "balanced over cat"


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["bea"], "no class is called 'bea'; did you mean 'bee'"),
        (["3"], "there is no class 3, only 0 to 2"),
        (["bee", "1"], "'1' is there twice"),
    ],
)
def test_classes_that_there_are_none_of(inputs: dict[str, Artifact], classes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        class_numbers(classes, inputs["prior"].properties["classes"])


@pytest.fixture
def completing(inputs: dict[str, Artifact], tmp_path: Path) -> dict[str, Artifact]:
    labels = {"train": np.arange(6) % 3, "test": np.arange(5) % 3}
    return {**inputs, "codes": tiny_artifacts.codes(tmp_path / "codes", inputs["tokenizer"], labels)}


def test_completions_begin_with_the_codes_of_held_out_images(
    completing: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, seen = Sampler.group, []

    def watched(self: Sampler, index: int, labels: Any, given: Any = None) -> Any:
        seen.append(own(self, index, labels, given))
        return seen[-1]

    monkeypatch.setattr(Sampler, "group", watched)
    config = SampleConfig(count=7, lanes=4, shards=2, prefix=0.5)
    ctx = context_of(tmp_path, "sample")
    outcome = sample.run(config, completing, ctx)
    test = np.random.default_rng(len("test")).integers(0, 16, size=(5, 4))
    assert torch.cat(seen)[:, :2].tolist() == [test[i % 5, :2].tolist() for i in range(8)]
    rows = [row for name in sorted(outcome.rows) for row in ImageTable([ctx.path(name)])]
    assert [row.label for row in rows] == [i % 5 % 3 for i in range(7)]
    assert rows[6].source == "prior, completing test-001"
    assert outcome.properties["protocol"]["completes"] == "the first 2 codes of 5 held-out images are given"
    chosen = draw(completing, tmp_path / "chosen", count=3, prefix=0.5, classes=["bee"])
    assert {label for label, _ in chosen.values()} == {1}


def test_completions_that_cannot_be(completing: dict[str, Artifact], tmp_path: Path) -> None:
    def run(inputs: dict[str, Artifact], **fields: Any) -> None:
        sample.run(SampleConfig(count=2, lanes=2, **fields), inputs, context_of(tmp_path, "sample"))

    alone = {name: given for name, given in completing.items() if name != "codes"}
    with pytest.raises(ConfigError, match=r"sample\.prefix=0\.5: completes held-out images; add tokenize"):
        run(alone, prefix=0.5)
    for share, rows in ((0.1, 0), (0.9, 2)):
        with pytest.raises(ConfigError, match=rf"gives {rows} of 2 rows of codes; at least one must be given"):
            run(completing, prefix=share)
    other = tiny_artifacts.codes(
        tmp_path, with_fields(completing["tokenizer"], digest="another"), {"test": np.zeros(2, int)}
    )
    with pytest.raises(LineageError, match="was made by tokenizer another, not by digest-of-qu"):
        run({**completing, "codes": other}, prefix=0.5)
    ants = tiny_artifacts.codes(tmp_path / "ants", completing["tokenizer"], {"test": np.zeros(2, int)})
    with pytest.raises(ConfigError, match=r"no held-out image is of sample\.classes=\['bee'\]"):
        run({**completing, "codes": ants}, prefix=0.5, classes=["bee"])


def test_a_prior_of_another_tokenizer_is_refused(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    other = with_fields(inputs["tokenizer"], digest="another-tokenizer")
    with pytest.raises(LineageError, match="belongs to tokenizer digest-of-qu, not to another-toke"):
        sample.run(SampleConfig(), {**inputs, "tokenizer": other}, context_of(tmp_path, "sample"))


@pytest.mark.parametrize(("conditional", "null_trained"), [(True, False), (False, True)])
def test_guidance_needs_classes_and_a_trained_null_class(
    inputs: dict[str, Artifact], tmp_path: Path, conditional: bool, null_trained: bool
) -> None:
    prior = tiny_artifacts.prior(tmp_path, inputs["tokenizer"], conditional, null_trained)
    sample.check(SampleConfig(guidance=1.0), prior, inputs["tokenizer"])
    with pytest.raises(ConfigError, match=r"sample\.guidance=2\.0: needs a class-conditional prior"):
        sample.check(SampleConfig(guidance=2.0), prior, inputs["tokenizer"])
