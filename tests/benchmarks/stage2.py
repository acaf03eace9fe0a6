"""Prior training steps against a `transformers` GPT-2 of the same size, and VIM-Large's memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.benchmarks.harness import NOT_MEASURED, Bench, Row, compiled, free, installed, rounded
from tests.benchmarks.shapes import GPT2_SIZE, VIM_BASE, VIM_LARGE, Stage2, toy_stage2
from tests.benchmarks.stage1 import peak_share
from vim_core.config import OptimConfig, PriorConfig, StackConfig
from vim_core.data.code_files import CodeMeta, write_codes
from vim_core.models.prior import ImagePrior
from vim_core.optim.optimizers import make_optimizer
from vim_core.tasks.prior import PriorData, PriorTask

GPT2 = "transformers GPT-2, sdpa"
GIB = 2.0**30


def ours(bench: Bench, shape: Stage2) -> PriorTask:
    """The task that VIM trains with, ready to step."""
    codes, zeros = np.random.default_rng(0).integers(0, shape.vocabulary, (2, shape.side**2)), np.zeros(2, np.int32)
    meta = CodeMeta("train", (shape.side, shape.side), shape.vocabulary, "random")
    table = str(bench.folder / f"codes-{shape.side}.parquet")
    write_codes(table, ["image-0", "image-1"], zeros, zeros, codes, meta)
    config = PriorConfig(
        batch=shape.batch, stack=shape.stack, dropout=shape.dropout, optim=OptimConfig(decay="constant")
    )
    return PriorTask(config, PriorData([table], [table], shape.classes, "random"), bench.runtime)


def batch_of(bench: Bench, shape: Stage2) -> dict[str, Tensor]:
    """Random codes [B, T] and labels [B] on the device."""
    codes = torch.randint(shape.vocabulary, (shape.batch, shape.side**2))
    labels = torch.randint(shape.classes, (shape.batch,))
    return {"codes": codes.to(bench.runtime.device), "labels": labels.to(bench.runtime.device)}


def gpt2(stack: StackConfig, **settings: Any) -> nn.Module:
    """GPT-2 of the same width and depth, softmax weights not tied, as ours."""
    from transformers import GPT2Config, GPT2LMHeadModel

    size: dict[str, Any] = {"n_embd": stack.dim, "n_layer": stack.blocks, "n_head": stack.heads, "n_inner": stack.mlp}
    config = GPT2Config(**size, tie_word_embeddings=False, **settings)
    config._attn_implementation = "sdpa"
    network: nn.Module = GPT2LMHeadModel(config)
    return network


def gpt2_step(bench: Bench, shape: Stage2, compile_it: bool) -> Callable[[Tensor], None]:
    """One training step with the optimizer that ours has.

    Dropout follows embedding, attention and feed-forward, never attention's probabilities: where ours has it too.
    """
    dropout = {"resid_pdrop": shape.dropout, "embd_pdrop": shape.dropout, "attn_pdrop": 0.0}
    sizes = {"vocab_size": shape.vocabulary, "n_positions": shape.side**2}
    model = gpt2(shape.stack, **sizes, **dropout, use_cache=False, bos_token_id=0, eos_token_id=0)
    model = model.to(bench.runtime.device).train()
    optimizer = make_optimizer(model, OptimConfig())
    if compile_it:
        compiled(model)

    def step(codes: Tensor) -> None:
        optimizer.zero_grad()
        with bench.runtime.autocast():
            loss = model(input_ids=codes, labels=codes).loss
        loss.backward()
        optimizer.step()

    return step


def against_gpt2(bench: Bench, shape: Stage2, compile_it: bool) -> Row:
    """One row: tokens/s of both, both compiled or neither."""
    how = "compiled" if compile_it else "eager"
    task, batch = ours(bench, shape), batch_of(bench, shape)
    if compile_it:
        compiled(task.model)
    theirs = partial(gpt2_step(bench, shape, compile_it), batch["codes"]) if installed("transformers") else None
    return bench.compare(
        f"prior step, {how}", "tokens/s", shape.batch * shape.side**2, partial(task.step, 1, batch), theirs,
        f"{GPT2}, {how}", shape.words(), warmup=3 if compile_it else 1,
    )  # fmt: skip


def stage2_gpt2(bench: Bench) -> list[Row]:
    """Against GPT-2, without dropout and with the paper's."""
    rows = []
    for dropout in (0.0, 0.1):
        if bench.toy:
            shape = toy_stage2(dropout)
        elif bench.gpu:
            shape = Stage2("VIM-Base", VIM_BASE, 16, dropout=dropout)
        else:
            shape = Stage2("GPT-2's size", GPT2_SIZE, 4, dropout=dropout)
        for compile_it in (True, False) if bench.gpu else (False,):
            rows.append(against_gpt2(bench, shape, compile_it))
            free()
    return rows


def step_flops(shape: Stage2) -> float:
    """Operations of one step: products with weights, attention over all T x T pairs as usually counted; times three."""
    stack, tokens = shape.stack, shape.side**2
    weights = stack.blocks * (4 * stack.dim**2 + 2 * stack.dim * stack.mlp) + stack.dim * shape.vocabulary
    return 3.0 * shape.batch * tokens * (2 * weights + 4 * stack.blocks * tokens * stack.dim)


def stage2_mfu(bench: Bench) -> list[Row]:
    """Share of an H200's peak in VIM-Base's and VIM-Large's steps (target 55 %), dropout as in the paper."""
    rows = []
    for label, stack, batch in (("VIM-Base", VIM_BASE, 32), ("VIM-Large", VIM_LARGE, 16)):
        shape = toy_stage2(0.1) if bench.toy else Stage2(label, stack, batch, dropout=0.1)
        task, codes = ours(bench, shape), batch_of(bench, shape)
        if bench.gpu:
            compiled(task.model)
        seconds = bench.medians({"ours": lambda task=task, codes=codes: task.step(1, codes)}, warmup=3)  # type: ignore[misc]
        rows.append(peak_share(bench, f"MFU of the {label} step", step_flops(shape) / seconds["ours"], shape.words()))
        del task
        free()
    return rows


def stage2_memory(bench: Bench) -> list[Row]:
    """Memory of a VIM-Large step with batch 8: the peak on a GPU, and bytes counted without a device."""
    shape = toy_stage2(0.1) if bench.toy else Stage2("VIM-Large", VIM_LARGE, 8, dropout=0.1)
    held = rounded(counted_bytes(shape) / GIB)
    peer = "counted: fp32 weights, gradients and AdamW's two moments"
    name = "peak memory of the VIM-Large step"
    if not bench.gpu:
        return [bench.row(name, NOT_MEASURED, "GiB", f"{peer} (no GPU)", held, NOT_MEASURED, shape.words())]
    torch.cuda.reset_peak_memory_stats(bench.runtime.device)
    task, batch = ours(bench, shape), batch_of(bench, shape)
    for step in range(2):
        task.step(step, batch)
    peak = torch.cuda.max_memory_allocated(bench.runtime.device) / GIB
    return [bench.row(name, rounded(peak), "GiB", peer, held, rounded(held / peak), shape.words())]


def counted_bytes(shape: Stage2) -> float:
    """Bytes that stay from step to step, by the meta device."""
    with torch.device("meta"):
        model = ImagePrior(shape.shape())
    return sum(4.0 * p.numel() * p.element_size() for p in model.parameters())
