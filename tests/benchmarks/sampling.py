"""Tokens per second of drawing codes, against `transformers`' generate and against what memory allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from tests.benchmarks.harness import Bench, Row, free, installed, rounded
from tests.benchmarks.shapes import SMALL, VIM_BASE, VIM_LARGE, Stage2, toy_stage2
from tests.benchmarks.stage2 import gpt2
from vim_core.models.prior import ImagePrior
from vim_core.sampling.logits import SamplingSettings
from vim_core.sampling.sampler import Sampler

GENERATE = "transformers GPT-2, generate, sdpa"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def ours(shape: Stage2, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """One lane group of the batch's size."""
    torch.manual_seed(0)
    prior = ImagePrior(shape.shape()).to(device)
    sampler = Sampler(prior, SamplingSettings(), shape.batch, dtype)
    del prior
    labels = torch.arange(shape.batch) % shape.classes
    return lambda: sampler.group(0, labels)


def theirs(shape: Stage2, dtype: torch.dtype, device: torch.device, cache: str) -> Callable[[], object]:
    """`generate` of the same number of tokens, drawn from the whole distribution, with one kind of cache."""
    # one code to begin with, which is never drawn
    sizes = {"vocab_size": shape.vocabulary + 1, "n_positions": shape.side**2 + 1}
    special = {"bos_token_id": shape.vocabulary, "eos_token_id": None, "pad_token_id": shape.vocabulary}
    model: Any = gpt2(shape.stack, **sizes, **special).to(device, dtype).eval()
    start = torch.full((shape.batch, 1), shape.vocabulary, device=device)
    tokens = shape.side**2
    options: dict[str, Any] = {"do_sample": True, "top_k": 0, "min_new_tokens": tokens, "max_new_tokens": tokens}
    if cache != "default":
        options["cache_implementation"] = cache
        # Compiled for a GPU; on CPU that would need a C++ compiler.
        options["disable_compile"] = device.type != "cuda"

    def draw() -> object:
        with torch.inference_mode():
            found: object = model.generate(start, attention_mask=torch.ones_like(start), **options)
        return found

    return draw


def against_generate(bench: Bench, shape: Stage2, name: str) -> Row:
    """One row in one dtype: theirs is that of its caches which is faster."""
    dtype, tokens = DTYPES[name], shape.batch * shape.side**2
    device, figure, unit = bench.runtime.device, f"sampling, {name}", "tokens/s"
    sides: dict[str, Callable[[], object]] = {"ours": ours(shape, dtype, device)}
    if not installed("transformers"):
        value = rounded(tokens / bench.medians(sides)["ours"])
        row = bench.absent(figure, unit, GENERATE, shape.words(), "not installed: not measured", value)
        return replace(row, dtype=name)
    for cache in ("default", "static"):
        sides[cache] = theirs(shape, dtype, device, cache)
    seconds = bench.medians(sides)
    mine = tokens / seconds.pop("ours")
    best = min(seconds, key=lambda cache: seconds[cache])
    row = bench.faster(figure, unit, (mine, tokens / seconds[best]), f"{GENERATE}, {best} cache", shape.words())
    return replace(row, dtype=name)


def sampling_gpt2(bench: Bench) -> list[Row]:
    """Against `generate` of a GPT-2 of the same size: 30M parameters, batch 8, 256 tokens on CPU; VIM-Base on a GPU."""
    if bench.toy:
        shape = toy_stage2()
    elif bench.gpu:
        shape = Stage2("VIM-Base", VIM_BASE, 64, side=32)
    else:
        shape = Stage2("30M parameters", SMALL, 8, side=16)
    rows = []
    for name in ("bf16",) if bench.gpu else ("fp32", "bf16"):
        rows.append(against_generate(bench, shape, name))
        free()
    return rows


def step_bytes(shape: Stage2, batch: int, width: int = 2) -> float:
    """Bytes that a decoding step has to read: all products' weights, and the cache, of which on average half is filled.

    Args:
        shape: the network.
        batch: lanes.
        width: bytes of a number.
    """
    stack, tokens = shape.stack, shape.side**2
    weights = stack.blocks * (4 * stack.dim**2 + 2 * stack.dim * stack.mlp) + stack.dim * shape.vocabulary
    cache = batch * stack.blocks * 2 * stack.dim * (tokens + 1) / 2
    return float(width * (weights + cache))


def memory_rate(bench: Bench) -> float:
    """Bytes per second that this device copies: those read and those written."""
    count = 1 << (16 if bench.toy else 30 if bench.gpu else 26)
    source = torch.zeros(count, dtype=torch.uint8, device=bench.runtime.device)
    target = torch.empty_like(source)
    best, deadline = float("inf"), time.perf_counter() + (0.05 if bench.toy else 1.0)
    while time.perf_counter() < deadline:
        best = min(best, bench.medians({"copy": lambda: target.copy_(source)})["copy"])
    return 2.0 * count / best


def sampling_bound(bench: Bench) -> list[Row]:
    """Share of the memory's speed in VIM-Base's and VIM-Large's steps at 1,024 tokens (target 0.6 for VIM-Base)."""
    rate, rows, unit = memory_rate(bench), [], "tokens/s"
    peer = "bound: weights and cache over measured bandwidth"
    for label, stack, batches in (("VIM-Base", VIM_BASE, (8, 64)), ("VIM-Large", VIM_LARGE, (64,))):
        for batch in (2,) if bench.toy else batches:
            shape = toy_stage2() if bench.toy else Stage2(label, stack, batch)
            draw = ours(shape, torch.bfloat16, bench.runtime.device)
            seconds = bench.medians({"ours": draw})["ours"]
            bound = shape.batch * rate / step_bytes(shape, shape.batch)
            found = shape.batch * shape.side**2 / seconds
            name, words = f"sampling, {label}", shape.words()
            if bench.gpu:
                rows.append(bench.faster(name, unit, (found, bound), peer, words))
            else:
                rows.append(bench.absent(name, unit, peer, words, "no GPU"))
            free()
    return rows
