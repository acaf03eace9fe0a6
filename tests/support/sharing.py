"""What tests let two workers do to see that networks which they share are made, put together and left in parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tests.support.live_bytes import gathered_bytes, live_bytes
from tests.support.tiny import prior_config, quantize_config, tokenizer_network
from tests.support.workers import runtime_of
from vim_core.config import DiscriminatorConfig, LossConfig, StackConfig
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.models.vit_vqgan import model_config
from vim_core.tasks.prior import PriorData, PriorTask
from vim_core.tasks.quantizer import QuantizerData, QuantizerTask
from vim_core.tasks.warm_start import PretrainedTokenizer
from vim_core.weights.saving import to_bytes

Made = QuantizerTask | PriorTask

# Three rows are not divisible by two workers; nor are the codebook's, which stay whole.
ODD = StackConfig(blocks=2, heads=3, dim=12, mlp=27)
MANY = StackConfig(blocks=12, heads=2, dim=64, mlp=256)
"""Twelve blocks: the largest tensor is a small part of the whole."""
JUDGE = DiscriminatorConfig(channels=4, base=64, spectral_norm=True)
PATCHES = DiscriminatorConfig(kind="patch", channels=8, patch_layers=1, spectral_norm=True)


def quantizer(folder: Path, runtime: CpuRuntime, **fields: Any) -> QuantizerTask:
    """Stage 1; with `init_from` it starts from the tokenizer in the folder."""
    data = QuantizerData([str(folder / "train.parquet")], [str(folder / "test.parquet")])
    if "init_from" in fields:
        data.pretrained = source(folder)
    return QuantizerTask(quantize_config(**fields), data, runtime)


def prior(folder: Path, runtime: CpuRuntime, **fields: Any) -> PriorTask:
    """Stage 2."""
    codes = str(folder / "codes.parquet")
    return PriorTask(prior_config(**fields), PriorData([codes], [codes], 3, "t"), runtime)


def tokenizer(folder: Path) -> None:
    """A trained tokenizer's two files."""
    network = tokenizer_network(seed=3, encoder=MANY, decoder=MANY)
    (folder / "model.safetensors").write_bytes(to_bytes(network))
    (folder / "config.json").write_bytes(model_config(network.config))


def source(folder: Path) -> PretrainedTokenizer:
    """The same, as a task takes it."""
    places = [folder / "model.safetensors", folder / "config.json"]
    pairs = [(str(place), hashlib.sha256(place.read_bytes()).hexdigest()) for place in places]
    return PretrainedTokenizer(*pairs[0], *pairs[1], "digest-of-both")


LARGE: dict[str, Any] = {"encoder": MANY, "decoder": MANY, "ema": 0.0, "loss": LossConfig(perceptual=0, adversarial=0)}
TASKS: dict[str, Callable[[Path, CpuRuntime], Made]] = {
    "tokenizer": lambda f, r: quantizer(f, r, encoder=ODD, decoder=ODD, positions="sincos", discriminator=JUDGE),
    "patches": lambda f, r: quantizer(f, r, encoder=ODD, ema=0.0, discriminator=PATCHES),
    "started": lambda f, r: quantizer(f, r, encoder=MANY, decoder=ODD, init_from="there"),
    "paper": lambda f, r: prior(f, r, stack=ODD),
    "modern": lambda f, r: prior(f, r, stack=StackConfig(2, 3, 12, 27), variant="modern", ema=0.0),
}
"""Every kind of network that is drawn, with and without an average."""
SIZED: dict[str, Callable[[Path, CpuRuntime], Made]] = {
    "tokenizer": lambda f, r: quantizer(f, r, **LARGE),
    "started": lambda f, r: quantizer(f, r, **LARGE, init_from="there", init_decoder="load"),
    "prior": lambda f, r: prior(f, r, stack=MANY, ema=0.0),
}
"""Large enough to count bytes; without averages, which would be a second network."""


def size(module: nn.Module) -> int:
    """Bytes of all of its weights, wherever they are."""
    return sum(p.numel() * p.element_size() for p in module.parameters())


def tensors(task: Made) -> dict[str, Tensor]:
    """Parameters and buffers of all networks, saved or not, put together where they are split."""
    named = {
        f"{name}.{key}": value.detach()
        for name, module in task.modules.items()
        for key, value in [*module.named_parameters(), *module.named_buffers()]
    }
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in named.items()}


def shared(rank: int, world: int, folder: Path) -> None:
    """Write down what the tests look at."""
    record: dict[str, Any] = {"bytes": {name: _bytes(make, rank, folder) for name, make in SIZED.items()}}
    for name, make in TASKS.items():
        ordinary, after = make(folder, runtime_of(rank, 2, "data")), torch.rand(1)
        split = make(folder, runtime_of(rank, 2, "fsdp"))
        same = bool(torch.equal(torch.rand(1), after))
        record[name] = {"generator": same, **_values(ordinary, split), **_files(ordinary, split)}
    (folder / f"shared-{rank}.json").write_text(json.dumps(record))


def _values(ordinary: Made, split: Made) -> dict[str, Any]:
    """Where a task that shares its networks differs from one that has them whole."""
    found, expected = tensors(split), tensors(ordinary)
    asked = [{n: p.requires_grad for n, p in task.model.named_parameters()} for task in (split, ordinary)]
    return {
        "names": found.keys() == expected.keys(),
        "different": [name for name in expected if not torch.equal(found[name], expected[name])],
        "split": sum(isinstance(p, DTensor) for p in split.model.parameters()),
        "gradients": asked[0] == asked[1],
    }


def _bytes(make: Callable[[Path, CpuRuntime], Made], rank: int, folder: Path) -> dict[str, float]:
    """Shares of a full copy: kept after construction, the most during it, the most while it is put together."""
    with live_bytes() as ordinary:
        whole = make(folder, runtime_of(rank, 2, "data"))
    with live_bytes() as sharded:
        split = make(folder, runtime_of(rank, 2, "fsdp"))
    full = size(whole.model)
    with gathered_bytes() as gathered:
        files = split.export()
    shares = {"whole": ordinary.kept, "kept": sharded.kept, "peak": sharded.peak, "gathered": gathered.peak}
    return {name: value / full for name, value in shares.items()} | {"files": len(files)}


def _files(ordinary: Made, split: Made) -> dict[str, Any]:
    """What is exported and scored, and whether the network that was put together computes what it should."""
    files, figures, pictures = split.export(), split.finish(), split.pictures()
    found, expected = split.runtime.full_network(split.result), dict(ordinary.result.named_buffers())
    buffers = None if found is None else dict(found.named_buffers())
    return {
        "files": files == ordinary.export() if files else None,
        "figures": figures == ordinary.finish() if figures else None,
        "pictures": pictures == ordinary.pictures() if pictures else None,
        "buffers": None if buffers is None else _equal(buffers, expected),
    }


def _equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
