"""An actor's encoder on XLA: the codes of one call of encode there, the same graph for every batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.tokenize import stages
from components.tokenize.plan import TokenizePlan, TokenizeShard
from tests.support import tiny
from vim_core.config import AugmentConfig
from vim_core.data.code_files import CodeMeta
from vim_core.data.code_tables import CodeTable
from vim_core.data.images import to_tensor
from vim_core.distributed.runtimes.base import Runtime
from vim_core.models.vit_vqgan import load_tokenizer, model_config
from vim_core.storage import io
from vim_core.weights.saving import to_bytes

pytestmark = pytest.mark.xla


def test_codes_are_those_of_encode_on_the_device_and_nothing_compiles_again(
    tmp_path: Path, xla: Runtime, compiled: Callable[[], int], fallbacks: Callable[[], list[str]]
) -> None:
    weights, config = str(tmp_path / "weights"), str(tmp_path / "config")
    io.write_bytes(weights, to_bytes(tiny.tokenizer_network()))
    io.write_bytes(config, model_config(tiny.quantize_config()))
    images = tiny.image_table(tmp_path / "images", 23)
    meta = CodeMeta("train", (2, 2), 16, "t" * 64, views=2)
    plan = TokenizePlan(weights, config, "xla", 1, 8, 5, {"train": meta}, 0, AugmentConfig(flip=0.5), 10_000)
    shard = TokenizeShard("codes/0", "train", images, str(tmp_path / "codes"))

    actor = stages.EncodeActor(plan)
    assert actor.tokenizer.device.type == "xla"
    batches = list(stages.decode_shard(plan, shard))
    stages.encode_batch(batches[0], actor.tokenizer)
    stages.encode_batch(batches[0], actor.tokenizer)
    before = compiled()
    actor.tokenize(shard)
    assert compiled() == before, "every batch has one shape"
    assert fallbacks() == []

    (whole,) = stages.decode_shard(dataclasses.replace(plan, encode_batch=46), shard)
    trainers = load_tokenizer(weights, config, str(xla.device)).encode(to_tensor(whole.values))
    assert torch.equal(torch.from_numpy(CodeTable([shard.result]).codes.astype("int64")), trainers)
