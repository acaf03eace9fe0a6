"""Stage-1 training steps: against parti-pytorch, against a plain implementation, against the machine's product rate."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tests.benchmarks.harness import NOT_MEASURED, Bench, Row, compiled, installed
from tests.benchmarks.plain import PlainStep
from tests.benchmarks.shapes import BASE, SMALL, Stage1, toy_stage1
from tests.support.tiny import image_table
from vim_core.config import QuantizeConfig
from vim_core.distributed.runtimes.base import Runtime
from vim_core.planning.chips import CHIPS
from vim_core.tasks.quantizer import QuantizerData, QuantizerTask


class Operations(TorchDispatchMode):
    """Adds up the multiplications and additions of every product and convolution in its block.

    `FlopCounterMode` does the same by module, but stumbles over a gradient taken inside a loss (R1).
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=result)
        return result


EXPLICIT = "plain PyTorch, explicit attention"
PARTI = "parti-pytorch ViT-VQGAN"
H200_PEAK = CHIPS["H200"].bf16 or 0.0
"""Dense bf16 products of one H200, by its data sheet."""


def sized(bench: Bench, cpu: int, gpu: int) -> Stage1:
    """ViT-VQGAN Small at this device's batch."""
    return toy_stage1() if bench.toy else Stage1("ViT-VQGAN Small", SMALL, gpu if bench.gpu else cpu)


def images_of(bench: Bench, shape: Stage1) -> Tensor:
    """Random images [B, 3, S, S] on the device."""
    return torch.rand(shape.batch, 3, shape.image_size, shape.image_size).to(bench.runtime.device)


def ours(bench: Bench, config: QuantizeConfig) -> QuantizerTask:
    """The task that VIM trains with, ready to step."""
    table = image_table(bench.folder / "images.parquet", 2, config.image_size)
    task = QuantizerTask(config, QuantizerData([table], [table]), bench.runtime)
    task.model.train()
    return task


def parti_step(runtime: Runtime, shape: Stage1) -> Callable[[Tensor], None]:
    """One training step of parti-pytorch's ViT-VQGAN at the same sizes, without its VGG and discriminator.

    Its default quantizer is another one (lookup-free, 65,536 codes): the one with a codebook of cosine similarity is
    chosen, which the paper describes.
    """
    from parti_pytorch.vit_vqgan import VitVQGanVAE

    stack = shape.stack
    model = VitVQGanVAE(
        dim=stack.dim,
        image_size=shape.image_size,
        layers=stack.blocks,
        l2_recon_loss=True,
        lookup_free_quantization=False,
        codebook_size=shape.codes,
        vq_kwargs={"codebook_dim": shape.code_dim, "commitment_weight": 0.25},
        use_vgg_and_gan=False,
        encdec_patch_size=shape.patch,
        encdec_dim_head=stack.dim // stack.heads,
        encdec_heads=stack.heads,
        encdec_ff_mult=stack.mlp // stack.dim,
    ).to(runtime.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(images: Tensor) -> None:
        optimizer.zero_grad()
        with runtime.autocast():
            loss = model(images, return_loss=True)
        loss.backward()
        optimizer.step()

    return step


def stage1_parti(bench: Bench) -> list[Row]:
    """Generator only, against parti-pytorch."""
    shape = sized(bench, cpu=2, gpu=16)
    name, words = "training step against parti-pytorch", f"{shape.words()}, generator only"
    task, images = ours(bench, shape.config(adversarial=False)), images_of(bench, shape)
    theirs = partial(parti_step(bench.runtime, shape), images) if installed("parti_pytorch") else None
    mine = partial(task.step, 1, {"images": images})
    return [bench.compare(name, "images/s", shape.batch, mine, theirs, PARTI, words)]


def stage1_generator(bench: Bench) -> list[Row]:
    """Generator only, against the plain implementation and the product rate."""
    shape = sized(bench, cpu=8, gpu=64)
    config, images = shape.config(adversarial=False), images_of(bench, shape)
    task, plain = ours(bench, config), PlainStep(config, bench.runtime.device, bench.runtime.autocast)
    before = bench.product_rate()
    seconds = bench.medians({"ours": lambda: task.step(1, {"images": images}), "plain": lambda: plain(images)})
    peak = max(before, bench.product_rate())
    words = f"{shape.words()}, generator only"
    rates = (shape.batch / seconds["ours"], shape.batch / seconds["plain"])
    rows = [bench.faster("generator step", "images/s", rates, EXPLICIT, words)]
    work = step_flops(config)
    for name, side in (("generator step", "ours"), ("the plain generator step", "plain")):
        rows.append(share_of(bench, f"achieved product rate of {name}", work / seconds[side], peak, words))
    return rows


def share_of(bench: Bench, name: str, rate: float, peak: float, words: str) -> Row:
    """Achieved FLOP/s over the measured product rate."""
    peer = "measured rate of square matrix products"
    return bench.faster(name, "GFLOP/s", (rate / 1e9, peak / 1e9), peer, words)


def stage1_whole(bench: Bench) -> list[Row]:
    """Generator, discriminator and R1 every 16 steps, against the plain implementation."""
    shape = sized(bench, cpu=2, gpu=32)
    config, images = shape.config(adversarial=True), images_of(bench, shape)
    task, plain = ours(bench, config), PlainStep(config, bench.runtime.device, bench.runtime.autocast)
    seconds = bench.medians(
        {
            "ours": lambda: task.step(1, {"images": images}),
            "ours, R1": lambda: task.step(0, {"images": images}),
            "plain": lambda: plain(images),
            "plain, R1": lambda: plain(images, penalised=True),
        }
    )
    every = config.discriminator.r1_every
    mine, theirs = (amortised(seconds[side], seconds[f"{side}, R1"], every) for side in ("ours", "plain"))
    words = f"{shape.words()}, generator + discriminator + R1 every {every} steps"
    rates = (shape.batch / mine, shape.batch / theirs)
    rows = [bench.faster("whole step", "images/s", rates, f"{EXPLICIT}, same discriminator network", words)]
    work = step_flops(config)
    rows.append(share_of(bench, "achieved product rate of the whole step", work / mine, bench.product_rate(), words))
    return rows


def stage1_base(bench: Bench) -> list[Row]:
    """Share of an H200's peak in the whole step of ViT-VQGAN Base (target 35 %)."""
    shape = toy_stage1(4) if bench.toy else Stage1("ViT-VQGAN Base", BASE, 64)
    config = shape.config(adversarial=True)
    words = f"{shape.words()}, generator + discriminator + R1 every {config.discriminator.r1_every} steps"
    task, images = ours(bench, config), images_of(bench, shape)
    if bench.gpu:
        # R1's second derivative is beyond the compiler: the discriminator stays eager.
        compiled(task.model)
    seconds = bench.medians({"plain": lambda: task.step(1, {"images": images})}, warmup=3)
    seconds |= bench.medians({"R1": lambda: task.step(0, {"images": images})}, warmup=3)
    mean = amortised(seconds["plain"], seconds["R1"], config.discriminator.r1_every)
    return [peak_share(bench, "MFU of the whole Base step", step_flops(config) / mean, words)]


def peak_share(bench: Bench, name: str, rate: float, words: str) -> Row:
    """Achieved TFLOP/s over the H200's peak; not a figure of any other device."""
    peer = "peak of one H200 in bf16"
    if not bench.gpu:
        return bench.row(name, NOT_MEASURED, "TFLOP/s", f"{peer} (no GPU)", H200_PEAK / 1e12, NOT_MEASURED, words)
    return bench.faster(name, "TFLOP/s", (rate / 1e12, H200_PEAK / 1e12), peer, words)


def amortised(plain: float, penalised: float, every: int) -> float:
    """Mean seconds of a step when every `every`-th one carries R1."""
    return plain + (penalised - plain) / every


def step_flops(config: QuantizeConfig) -> float:
    """Operations of one step by torch's own counter, over the plain network on the meta device; R1 by its share.

    Explicit attention computes nothing twice, so what ours recomputes does not count as work done.
    """
    plain = PlainStep(config, torch.device("meta"), contextlib.nullcontext)
    images = torch.empty(config.batch, 3, config.image_size, config.image_size, device="meta")
    counted = {penalised: _count(plain, images, penalised) for penalised in (False, True)}
    return amortised(counted[False], counted[True], config.discriminator.r1_every)


def _count(plain: PlainStep, images: Tensor, penalised: bool) -> float:
    with Operations() as counter:
        loss, fake = plain.generator_loss(images)
        loss.backward()
        if plain.discriminator is not None:
            plain.discriminator_loss(images, fake.detach(), penalised).backward()
    return float(counter.total)
