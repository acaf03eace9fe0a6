"""Codes belong to an encoder and its codebook: another decoder behind them is taken, everything else is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from components import prior, probe, quantize
from components.artifacts import execute
from components.contract import lineage
from components.contract.api import Artifact
from components.sample import component as sample
from components.score import component as score
from components.tokenize import component as tokenize
from components.tokenize.plan import make_plan, make_shards
from tests.support import tiny_artifacts
from tests.support.synthetic import artifact, context_of, everything, with_fields
from tests.support.tiny import prior_config, quantize_config
from vim_core.config import CodebookConfig, PipelineConfig, RunConfig, SampleConfig, StackConfig, TokenizeConfig
from vim_core.errors import LineageError
from vim_core.tasks.warm_start import encoder_digest, is_decoder_tensor

OLD, NEW = {"tokenizer": "a" * 64, "encoder": "e" * 64}, {"tokenizer": "b" * 64, "encoder": "f" * 64}


def trained(images: Artifact, root: Path, digest: str, **fields: Any) -> Artifact:
    """A tokenizer as `quantize` leaves it."""
    ctx = context_of(root, "quantize")
    outcome = quantize.run(quantize_config(steps=2, **fields), {"images": images}, ctx)
    names = ("model.safetensors", "config.json")
    copied = {name: lambda uri, name=name: Path(uri).write_bytes(Path(ctx.path(name)).read_bytes()) for name in names}
    return artifact(root, "quantize", copied, properties=outcome.properties, digest=digest)


def coded(images: Artifact, tokenizer: Artifact, root: Path) -> Artifact:
    """Its code table, whose properties are those that `tokenize` records."""
    labels = {split: np.zeros(count, np.int32) for split, count in {"train": 8, "test": 3}.items()}
    made = tiny_artifacts.codes(root, tokenizer, labels)
    inputs = {"images": images, "tokenizer": tokenizer}
    plan = make_plan(TokenizeConfig(), inputs, "cpu", 1)
    found = zip(make_shards(plan, inputs, str(root)), made.uris("codes/"), strict=False)
    outcome = tokenize.make_outcome(
        TokenizeConfig(), inputs, plan, [replace(shard, result=uri) for shard, uri in found]
    )
    return with_fields(made, properties=outcome.properties)


@pytest.mark.usefixtures("trained_here")
def test_a_prior_is_taken_with_a_finetuned_decoder_and_refused_with_another_encoder(
    images: Artifact, tmp_path: Path
) -> None:
    images = with_fields(images, config={"max_pixels": 10_000})
    first = trained(images, tmp_path / "first", "1" * 64)
    frozen: dict[str, Any] = {"freeze_encoder": True, "codebook": CodebookConfig(codes=16, dim=4)}
    decoder = StackConfig(blocks=2, heads=2, dim=24, mlp=40)
    second = trained(images, tmp_path / "second", "2" * 64, init_from=first.folder, decoder=decoder, **frozen)
    third = trained(images, tmp_path / "third", "3" * 64, init_from=first.folder)
    assert first.properties["encoder"] == second.properties["encoder"] != third.properties["encoder"]

    codes = coded(images, first, tmp_path)
    assert codes.properties["encoder"] == first.properties["encoder"]
    made = prior.run(
        prior_config(steps=2), {"codes": codes, "tokenizer": second}, context_of(tmp_path / "taken", "prior")
    )
    assert lineage.recorded_digests(made.properties) == lineage.tokenizer_digests(first)
    with pytest.raises(
        LineageError, match=r"was made by tokenizer 1{12}, not by 3{12} \(encoder and codebook \w{12}, "
    ):
        prior.run(prior_config(), {"codes": codes, "tokenizer": third}, context_of(tmp_path / "refused", "prior"))

    network = with_fields(codes, properties=made.properties)
    sample.check(SampleConfig(), network, second)
    with pytest.raises(LineageError, match=r"belongs to tokenizer 1{12}, not to 3{12} \(encoder and codebook \w{12}, "):
        sample.check(SampleConfig(), network, third)


def test_a_finetuned_decoder_asks_for_no_new_codes_and_no_new_prior(tmp_path: Path) -> None:
    plain = tiny_artifacts.tokenizer(tmp_path)
    old, new, other = (
        with_fields(plain, digest=digest * 64, properties={"encoder": encoder * 64})
        for digest, encoder in (("1", "e"), ("2", "e"), ("3", "f"))
    )
    config = PipelineConfig("test", run=RunConfig(root=str(tmp_path)))

    def asked(name: str, tokenizer: Artifact) -> str:
        return execute._request(name, config, {"tokenizer": tokenizer}).fingerprint

    for name in ("tokenize", "prior"):
        assert asked(name, old) == asked(name, new) != asked(name, other)
    for name in ("reconstruct", "sample"):
        assert len({asked(name, given) for given in (old, new, other)}) == 3
    # Made before encoders had digests of their own.
    bare = [with_fields(given, properties={}) for given in (old, new)]
    assert asked("tokenize", bare[0]) != asked("tokenize", bare[1])


def test_codes_are_those_of_one_tokenizer_or_of_one_encoder() -> None:
    old = {"tokenizer": OLD["tokenizer"]}
    assert lineage.same_codes(OLD, OLD)
    assert lineage.same_codes(OLD, NEW | {"encoder": OLD["encoder"]})
    assert lineage.same_codes(OLD, old), "made before encoders had digests"
    assert not lineage.same_codes(OLD, NEW)
    assert not lineage.same_codes(old, {"tokenizer": NEW["tokenizer"]})
    assert not lineage.same_codes(old | {"encoder": ""}, {"tokenizer": NEW["tokenizer"], "encoder": ""})
    assert lineage.mismatch(OLD, NEW, "belongs to") == (
        f"belongs to tokenizer {'a' * 12}, not to {'b' * 12} (encoder and codebook {'e' * 12}, not {'f' * 12})"
    )


def test_a_probe_takes_codes_of_the_same_encoder_alone(tmp_path: Path) -> None:
    tokenizer = tiny_artifacts.tokenizer(tmp_path)
    network = tiny_artifacts.prior(tmp_path, tokenizer)
    codes = with_fields(network, properties=OLD)

    def of(found: dict[str, str]) -> Artifact:
        return with_fields(network, properties={**network.properties, **found})

    probe.check(codes, of(NEW | {"encoder": OLD["encoder"]}))
    with pytest.raises(LineageError, match=r"different tokenizers: .* a{12}, not to b{12} \(encoder"):
        probe.check(codes, of(NEW))


def test_scores_are_of_one_decoder_and_of_codes_of_its_encoder(tmp_path: Path) -> None:
    made = everything(tmp_path)
    inputs = {"images": made["ingest"], "codes": made["tokenize"], "reconstructions": made["reconstruct"]}
    inputs["samples"] = made["sample"]

    def given(**records: dict[str, str]) -> dict[str, Artifact]:
        return inputs | {
            name: with_fields(inputs[name], properties={**inputs[name].properties, **found})
            for name, found in records.items()
        }

    finetuned = NEW | {"encoder": OLD["encoder"]}
    score.check_lineage(given(codes=OLD, reconstructions=finetuned, samples=finetuned))
    with pytest.raises(LineageError, match="samples was made with tokenizer aaaaaaaaaaaa, reconstructions with bbb"):
        score.check_lineage(given(codes=OLD, reconstructions=finetuned, samples=OLD))
    with pytest.raises(LineageError, match="reconstructions was made with tokenizer bbbbbbbbbbbb, codes with aaa"):
        score.check_lineage(given(codes=OLD, reconstructions=NEW, samples=NEW))


def test_the_digest_sees_whatever_makes_codes_and_nothing_else(tmp_path: Path) -> None:
    tokenizer = tiny_artifacts.tokenizer(tmp_path)
    weights, config = tokenizer.uri("model.safetensors"), tokenizer.uri("config.json")
    known, tensors = encoder_digest(weights, config), load_file(weights)
    changed = str(tmp_path / "changed")
    for name, value in tensors.items():
        save_file({**tensors, name: value + 1}, changed)
        decides = not is_decoder_tensor(name) and name != "codebook.usage"
        assert (encoder_digest(changed, config) != known) is decides, name
    text = Path(config).read_text()
    for key, now, other, decides in (("heads", 2, 4, True), ("encode_batch", 5, 6, True), ("seed", 0, 1, False)):
        assert f'"{key}": {now}' in text
        Path(changed).write_text(text.replace(f'"{key}": {now}', f'"{key}": {other}'))
        assert (encoder_digest(weights, changed) != known) is decides, key
