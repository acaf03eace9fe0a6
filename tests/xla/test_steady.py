"""A steady state of the training loop: no program is compiled and the host reads nothing, except for a log line."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import tiny
from tests.xla.conftest import DEVICES
from tests.xla.run import device_bytes
from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.config import CodebookConfig, DiscriminatorConfig, RestartConfig
from vim_core.data.images import to_tensor
from vim_core.distributed.runtimes.base import CpuRuntime, Runtime
from vim_core.models.vit_vqgan import Tokenizer, model_config
from vim_core.tasks.base import Task
from vim_core.tasks.prior import PriorData, PriorTask
from vim_core.tasks.quantizer import QuantizerData, QuantizerTask
from vim_core.training import loop
from vim_core.training.spool import Spool
from vim_core.weights.saving import to_bytes

pytestmark = pytest.mark.xla
STEPS, LOG, SAVE = 12, 4, 8
ENCODE = 8
"""Images encoded at once: two from each device, of four that it holds."""


@pytest.fixture(scope="module")
def tokens(images: QuantizerData, tmp_path_factory: pytest.TempPathFactory) -> PriorData:
    """The training images, the tokenizer, and what it makes of them."""
    folder, network = tmp_path_factory.mktemp("tokens"), tiny.tokenizer_network(encode_batch=ENCODE)
    (folder / "weights").write_bytes(to_bytes(network))
    (folder / "config").write_bytes(model_config(network.config))
    codes = Tokenizer(network).encode(to_tensor(tiny.pixels(24, 8))).numpy()
    table = tiny.code_table(folder / "train", codes, np.arange(24) % 3, 16)
    test = tiny.code_table(folder / "test", codes[:6], np.arange(6) % 3, 16, "test")
    files = str(folder / "weights"), str(folder / "config")
    return PriorData([table], [test], 3, "t" * 64, files, images.train)


def prior(tokens: PriorData, runtime: Runtime, source: str) -> PriorTask:
    config = tiny.prior_config(
        steps=STEPS, batch=16, accumulate=2, source=source, log_every=LOG, checkpoint_every=SAVE, preview=3
    )
    return PriorTask(config, tokens, runtime)


def quantizer(images: QuantizerData, runtime: Runtime) -> QuantizerTask:
    """R1 and restarts at every step, so that one program has both."""
    config = tiny.quantize_config(
        steps=STEPS,
        batch=8,
        log_every=LOG,
        checkpoint_every=SAVE,
        codebook=CodebookConfig(codes=16, dim=4, restart=RestartConfig(every=1, threshold=0.5, decay=0.5, until=1)),
        discriminator=DiscriminatorConfig(channels=4, base=64, ramp_start=1, ramp_steps=16, r1_every=1),
    )
    return QuantizerTask(config, images, runtime)


def test_a_steady_step_compiles_nothing_and_reads_nothing(
    images: QuantizerData,
    tokens: PriorData,
    xla: Runtime,
    tmp_path: Path,
    compiled: Callable[[], int],
    reads: Callable[[], int],
) -> None:
    """Both stages, both sources, with a checkpoint and pictures, which are drawn beside the training.

    With dropout, which the encoder's own programs must not move.
    """
    losses: dict[str, list[float]] = {}
    tasks: dict[str, Callable[[], Task]] = {
        "codes": lambda: prior(tokens, xla, "codes"),
        "images": lambda: prior(tokens, xla, "images"),
        "quantize": lambda: quantizer(images, xla),
    }
    for name, make in tasks.items():
        counts: list[tuple[int, int]] = []
        spool = Spool(tmp_path / f"{name}.jsonl")
        loop.train(
            make(),
            Checkpoints(str(tmp_path / name), {}, xla),
            spool,
            on_step=lambda done, figures, counts=counts: counts.append((compiled(), reads())),  # type: ignore[misc]
        )
        assert len({programs for programs, _ in counts[LOG:]}) == 1, f"{name} compiles in a steady state: {counts}"
        read = [after[1] - before[1] for before, after in pairwise(counts)]
        # A checkpoint and the copy that pictures are drawn of come after the log line, so they count in the next step.
        quiet = [count for done, count in enumerate(read, 2) if done % LOG and done != SAVE + 1]
        assert quiet == [0] * len(quiet), f"{name} reads between log lines: {read}"
        assert SAVE - 1 in {row["step"] for row in spool.rows() if "png" in row}
        # The counter counts: a log line reads its figures.
        assert read[2 * LOG - 2] > 0
        losses[name] = [row["m"]["loss"] for row in spool.rows() if "loss" in row.get("m", {})]
    assert len(losses["codes"]) == STEPS // LOG
    assert losses["images"] == losses["codes"]


@pytest.mark.parametrize("parts", [1, 2])
def test_codes_on_the_devices_are_those_of_the_host_whatever_the_layout(
    tokens: PriorData, xla: Runtime, parts: int
) -> None:
    """Also where the last chunk is not full: four rows of each device are encoded three at a time."""
    network = tiny.tokenizer_network(encode_batch=3 * DEVICES)
    pixels = to_tensor(tiny.pixels(16, 8, seed=2))
    expected = Tokenizer(network).encode(pixels)
    assert torch.equal(Tokenizer(network).encode_on_device(pixels, CpuRuntime("fp32", 1)), expected)
    placed = xla.to_device({"images": pixels}, parts)["images"]
    codes = Tokenizer(network, xla.device).encode_on_device(placed, xla)
    assert torch.equal(torch.cat([part.cpu() for part in xla.microbatches(codes, parts)]), expected)
    xla.end_step()
    assert device_bytes(codes) == [codes.numel() * 8 // DEVICES] * DEVICES
