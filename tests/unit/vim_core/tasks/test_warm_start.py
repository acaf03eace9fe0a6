"""Training from a tokenizer: what is loaded, what stays frozen, which misfits are refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny import (
    STACK,
    Killed,
    assert_equal_bits,
    killed_at,
    pixels,
    quantize_config,
    runtime,
    state_of,
    tokenizer_network,
)
from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.config import CodebookConfig, LossConfig, StackConfig
from vim_core.errors import ConfigError, DataError
from vim_core.models.vit_vqgan import load_tokenizer, model_config
from vim_core.tasks.base import Task
from vim_core.tasks.quantizer import QuantizerData, QuantizerTask
from vim_core.tasks.warm_start import DECODER_PARTS, PretrainedTokenizer, is_decoder_tensor
from vim_core.training.loop import train
from vim_core.training.spool import Spool
from vim_core.weights.saving import to_bytes

STILL = CodebookConfig(codes=16, dim=4)
FROZEN: dict[str, Any] = {"init_from": "there", "freeze_encoder": True, "codebook": STILL}
LARGER = StackConfig(blocks=2, heads=2, dim=24, mlp=40)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> PretrainedTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    network = tokenizer_network(seed=3)
    files = {"model.safetensors": to_bytes(network), "config.json": model_config(network.config)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    weights, config = "model.safetensors", "config.json"
    return PretrainedTokenizer(
        str(folder / weights), sha256[weights], str(folder / config), sha256[config], "digest-of-both"
    )


def started(images: QuantizerData, source: PretrainedTokenizer | None, **fields: Any) -> QuantizerTask:
    return QuantizerTask(quantize_config(**fields), replace(images, pretrained=source), runtime())


def run(task: QuantizerTask, steps: int = 4) -> None:
    for step in range(steps):
        assert float(task.step(step, task.batch(step))["skipped"]) == 0


@pytest.mark.parametrize(("decoder", "logit_laplace"), [(LARGER, 0.0), (STACK, 0.1)])
def test_a_frozen_encoder_keeps_its_codes_while_the_decoder_learns(
    images: QuantizerData, source: PretrainedTokenizer, tmp_path: Path, decoder: StackConfig, logit_laplace: float
) -> None:
    loss = LossConfig(perceptual=0.0, logit_laplace=logit_laplace)
    task = started(images, source, decoder=decoder, loss=loss, **FROZEN)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    run(task)
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, before[name]) != is_decoder_tensor(name), name
    assert all((p.grad is not None) == is_decoder_tensor(name) for name, p in task.model.named_parameters())
    for name, data in task.export().items():
        (tmp_path / name).write_bytes(data)
    finetuned = load_tokenizer(str(tmp_path / "model.safetensors"), str(tmp_path / "config.json"))
    original = load_tokenizer(source.weights, source.config)
    pictures = torch.from_numpy(pixels(40, 8, 7)).permute(0, 3, 1, 2) / 255
    codes = original.encode(pictures)
    assert codes.unique().numel() > 4
    assert torch.equal(finetuned.encode(pictures), codes)
    assert not torch.equal(finetuned.decode(codes), original.decode(codes))


def test_the_optimizer_holds_the_decoder_only(images: QuantizerData, source: PretrainedTokenizer) -> None:
    task = started(images, source, **FROZEN)
    held = {id(p) for group in task.optimizer.param_groups for p in group["params"]}
    trained = {name for name, p in task.model.named_parameters() if id(p) in held}
    assert trained == {name for name, _ in task.model.named_parameters() if name.split(".")[0] in DECODER_PARTS}


def test_a_finetuning_resumes_bit_for_bit(images: QuantizerData, source: PretrainedTokenizer, tmp_path: Path) -> None:
    def kept(task: Task, folder: str) -> dict[str, torch.Tensor]:
        train(task, Checkpoints(str(tmp_path / folder), {}, task.runtime), Spool(tmp_path / f"{folder}.jsonl"))
        return state_of(task)

    whole = kept(started(images, source, decoder=LARGER, **FROZEN), "whole")
    with pytest.raises(Killed):
        kept(killed_at(started(images, source, decoder=LARGER, **FROZEN), 3), "killed")
    assert_equal_bits(kept(started(images, source, decoder=LARGER, **FROZEN), "killed"), whole)


def test_decoder_is_new_unless_it_is_asked_for(images: QuantizerData, source: PretrainedTokenizer) -> None:
    trained = tokenizer_network(seed=3).state_dict()
    fresh = QuantizerTask(quantize_config(), images, runtime()).model.state_dict()
    for kind, decoder in (("fresh", fresh), ("load", trained)):
        state = started(images, source, init_from="there", init_decoder=kind).model.state_dict()
        for name, value in state.items():
            assert torch.equal(value, (decoder if is_decoder_tensor(name) else trained)[name]), name


def test_without_freezing_everything_learns(images: QuantizerData, source: PretrainedTokenizer) -> None:
    task = started(images, source, init_from="there")
    before = {name: value.clone() for name, value in task.model.named_parameters()}
    run(task, 2)
    assert not any(torch.equal(value, before[name]) for name, value in task.model.named_parameters())


def test_what_is_exported_says_where_it_comes_from_but_not_where_that_lay(
    images: QuantizerData, source: PretrainedTokenizer
) -> None:
    text = started(images, source, **FROZEN).export()["config.json"].decode()
    assert '"init_from": "digest:digest-of-both"' in text
    assert '"there"' not in text


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"encoder": LARGER}, r"quantize\.encoder="),
    ({"patch": 2}, r"quantize\.patch=2: the tokenizer of quantize\.init_from has 4"),
    ({"codebook": replace(STILL, codes=8)}, r"quantize\.codebook\.codes=8: .* has 16"),
    ({"codebook": replace(STILL, l2=False)}, r"quantize\.codebook\.l2=False"),
    ({"positions": "sincos"}, r"quantize\.positions='sincos'"),
    ({"encode_batch": 7}, r"quantize\.encode_batch=7: .* has 5"),
    ({"init_decoder": "load", "decoder": LARGER}, r"quantize\.decoder="),
    ({"init_decoder": "load", "loss": LossConfig(perceptual=0.0, logit_laplace=0.0)}, r"another number of channels"),
]


@pytest.mark.parametrize(("fields", "message"), MISFITS)
def test_other_settings_than_the_tokenizers_are_refused(
    images: QuantizerData, source: PretrainedTokenizer, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        started(images, source, **FROZEN | fields)


def test_changed_missing_or_odd_files_are_refused(
    images: QuantizerData, source: PretrainedTokenizer, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"quantize\.init_from='there': the task was given no tokenizer"):
        started(images, None, **FROZEN)
    with pytest.raises(DataError, match=r"model\.safetensors has sha256 .*: it was changed"):
        started(images, replace(source, weights_sha256="0" * 64), **FROZEN)
    with pytest.raises(DataError, match="nowhere is gone"):
        started(images, replace(source, config=str(tmp_path / "nowhere")), **FROZEN)
    network = tokenizer_network()
    del network.to_code
    data = to_bytes(network)
    (tmp_path / "odd").write_bytes(data)
    odd = replace(source, weights=str(tmp_path / "odd"), weights_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(DataError, match=r"odd does not fit .*: to_code\.bias, to_code\.weight"):
        started(images, odd, **FROZEN)
    (tmp_path / "torn").write_bytes(data[:100])
    torn = replace(source, weights=str(tmp_path / "torn"), weights_sha256=hashlib.sha256(data[:100]).hexdigest())
    with pytest.raises(DataError, match="not a whole safetensors file"):
        started(images, torn, **FROZEN)
