"""Tiny networks, settings and tables: small enough that a training step takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vim_core.checkpoint.shard_files import SavedCheckpoint
from vim_core.checkpoint.state_dict import flat_state_dict
from vim_core.config import (
    AugmentConfig,
    ClassifyConfig,
    CodebookConfig,
    DiscriminatorConfig,
    LossConfig,
    OptimConfig,
    PriorConfig,
    QuantizeConfig,
    RestartConfig,
    StackConfig,
)
from vim_core.data.code_files import CodeMeta, write_codes
from vim_core.data.image_tables import ImageRow, write_images
from vim_core.data.images import encode_png
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.models.prior import ImagePrior, PriorShape
from vim_core.models.vit_vqgan import ViTVQGAN
from vim_core.tasks.base import Task
from vim_core.tasks.classifier import ClassifierData, ClassifierTask
from vim_core.tasks.prior import PriorData, PriorTask
from vim_core.tasks.quantizer import QuantizerData, QuantizerTask

STACK = StackConfig(blocks=1, heads=2, dim=16, mlp=32)
VIEW = AugmentConfig(rotate_degrees=5.0, zoom=0.1, shift=0.1)
TRAINING: dict[str, Any] = {
    "steps": 6,
    "batch": 4,
    "precision": "fp32",
    "ema": 0.9,
    "checkpoint_every": 2,
    "log_every": 1,
}
"""Settings of every training here."""


def runtime(precision: str = "fp32") -> CpuRuntime:
    return CpuRuntime(precision, threads=1)


def pixels(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Random images uint8 [count, size, size, 3]."""
    return np.random.default_rng(seed).integers(0, 256, size=(count, size, size, 3), dtype=np.uint8)


def image_table(path: Path, count: int, size: int = 8, classes: int = 3, seed: int = 0) -> str:
    """A file of random images: key image-000 …, label i mod classes."""
    rows = [
        ImageRow(f"image-{i:03d}", i % classes, encode_png(picture), size, size, "test")
        for i, picture in enumerate(pixels(count, size, seed))
    ]
    write_images(str(path), rows)
    return str(path)


def code_table(path: Path, codes: np.ndarray, labels: np.ndarray, vocabulary: int, split: str = "train") -> str:
    """A file of codes [N, T] on a grid of two rows."""
    meta = CodeMeta(split, (2, codes.shape[1] // 2), vocabulary, "t" * 64)
    keys = [f"image-{i:03d}" for i in range(len(codes))]
    write_codes(str(path), keys, labels, np.zeros(len(codes), np.int32), codes, meta)
    return str(path)


def image_data(folder: Path, train: int = 13, test: int = 3) -> QuantizerData:
    """So many training and held-out images of 8x8."""
    test_table = image_table(folder / "test.parquet", test, seed=1)
    return QuantizerData([image_table(folder / "train.parquet", train)], [test_table])


def code_data(folder: Path, count: int = 13) -> PriorData:
    """The same 2x2 codes of nine and three classes in both splits."""
    codes, labels = np.random.default_rng(0).integers(0, 9, size=(count, 4)), np.arange(count) % 3
    tables = [[code_table(folder / f"{split}-codes.parquet", codes, labels, 9, split)] for split in ("train", "test")]
    return PriorData(tables[0], tables[1], 3, "t" * 64)


Make = Callable[..., Task]
"""A task from fields of its settings."""


def tasks_on(
    images: QuantizerData, codes: PriorData, runtime_of: Callable[[str], CpuRuntime] | None = None
) -> dict[str, Make]:
    """Each stage and the classifier by name."""

    def place(fields: dict[str, Any]) -> CpuRuntime:
        return (runtime_of or runtime)(str(fields.get("precision", "fp32")))

    judged = ClassifierData(images.train, images.test, 3)
    return {
        "quantizer": lambda **f: QuantizerTask(quantize_config(**f), images, place(f)),
        "prior": lambda **f: PriorTask(prior_config(**f), codes, place(f)),
        "classifier": lambda **f: ClassifierTask(classify_config(**f), judged, place(f)),
    }


def quantize_config(**fields: Any) -> QuantizeConfig:
    """Images of 8x8 as 2x2 codes, with everything switched on: discriminator, R1, restarts, average."""
    base = TRAINING | {
        "image_size": 8,
        "patch": 4,
        "encoder": STACK,
        "decoder": STACK,
        "codebook": CodebookConfig(
            codes=16, dim=4, restart=RestartConfig(every=2, threshold=0.5, decay=0.5, until=1.0)
        ),
        "loss": LossConfig(perceptual=0.0),
        "discriminator": DiscriminatorConfig(channels=4, base=64, ramp_start=1, ramp_steps=2, r1_every=2),
        "augment": VIEW,
        "encode_batch": 5,
        "optim": OptimConfig(lr=1e-2, warmup=2),
    }
    return QuantizeConfig(**base | fields)


def tokenizer_network(seed: int = 0, **fields: Any) -> ViTVQGAN:
    """An untrained tokenizer with weights of order one, so that images differ in their codes."""
    torch.manual_seed(seed)
    model = ViTVQGAN(quantize_config(**fields))
    enlarge(model)
    return model


def prior_config(**fields: Any) -> PriorConfig:
    optim = OptimConfig(lr=1e-2, warmup=2, clip_norm=1.0)
    base = TRAINING | {"stack": STACK, "dropout": 0.2, "label_dropout": 0.3, "optim": optim}
    return PriorConfig(**base | fields)


def classify_config(**fields: Any) -> ClassifyConfig:
    base = TRAINING | {"image_size": 8, "width": 4, "features": 8, "dropout": 0.2, "augment": VIEW}
    base["optim"] = OptimConfig(lr=1e-2, warmup=2)
    return ClassifyConfig(**base | fields)


def prior_network(
    seed: int = 0,
    blocks: int = 2,
    classes: int = 3,
    grid: tuple[int, int] = (2, 3),
    stack: StackConfig | None = None,
    **fields: Any,
) -> ImagePrior:
    """A prior over 11 codes in evaluation mode, with weights of order one."""
    torch.manual_seed(seed)
    stack = stack or StackConfig(blocks=blocks, heads=2, dim=16, mlp=32)
    shape = PriorShape(stack, list(grid), vocabulary=11, classes=classes, dropout=0.2)
    model = ImagePrior(replace(shape, **fields)).eval()
    enlarge(model)
    return model


@torch.no_grad()
def enlarge(module: nn.Module) -> None:
    """Weights and biases large enough that every layer matters in a comparison."""
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.3)


def quantizer(images: QuantizerData, **fields: Any) -> QuantizerTask:
    """The first stage on these images."""
    return QuantizerTask(quantize_config(**fields), images, runtime())


def stepped(task: Task, steps: int) -> list[dict[str, Tensor]]:
    """The figures of its first steps."""
    return [task.step(step, task.batch(step)) for step in range(steps)]


def state_of(task: Task) -> dict[str, Tensor]:
    """Everything a checkpoint would keep."""
    state = flat_state_dict(task.modules, task.optimizers)
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}


class InMemory(SavedCheckpoint):
    """A state in memory, as a checkpoint to restore from."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def names(self) -> set[str]:
        return set(self.state)

    def describe(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        return tuple(self.state[name].shape), self.state[name].dtype

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        value = self.state[name]
        return value[start:stop] if value.ndim else value


def assert_equal_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """The same names and the same bits."""
    assert a.keys() == b.keys()
    odd = [name for name in a if not torch.equal(a[name], b[name])]
    assert not odd, f"{len(odd)} of {len(a)} tensors differ: {odd[:4]}"


class Killed(Exception):
    """Stands for kill -9 in the middle of a step."""


def killed_at(task: Task, step: int) -> Task:
    """The task, dying when it comes to `step`."""
    own: Callable[..., dict[str, Tensor]] = task.step

    def dying(number: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if number == step:
            raise Killed
        return own(number, batch)

    task.step = dying  # type: ignore[method-assign,assignment]
    return task
