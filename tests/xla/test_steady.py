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
from tests.xla.run import device_bytes, on_cpu
from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.config import CodebookConfig, DiscriminatorConfig, ProbeConfig, RestartConfig
from vim_core.data.images import to_tensor
from vim_core.distributed.runtimes.base import CpuRuntime, Runtime
from vim_core.models import prior as priors
from vim_core.models.vit_vqgan import Tokenizer, model_config
from vim_core.tasks.base import Task
from vim_core.tasks.prior import PriorData, PriorTask
from vim_core.tasks.probe import ProbeTask
from vim_core.tasks.probe_data import ProbeData
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


def train_quietly(task: Task, folder: Path, count: Callable[[], tuple[int, int]]) -> Spool:
    """Train, and assert by the programs and reads so far that steps after the first `LOG` add none."""
    counts: list[tuple[int, int]] = []
    spool = Spool(folder.with_suffix(".jsonl"))
    checkpoints = Checkpoints(str(folder), {}, task.runtime)
    loop.train(task, checkpoints, spool, on_step=lambda done, figures: counts.append(count()))
    assert len({programs for programs, _ in counts[LOG:]}) == 1, f"{folder.name} compiles in a steady state: {counts}"
    read = [after[1] - before[1] for before, after in pairwise(counts)]
    # A checkpoint and the copy that pictures are drawn of come after the log line, so they count in the next step.
    quiet = [count for done, count in enumerate(read, 2) if done % LOG and done != SAVE + 1]
    assert quiet == [0] * len(quiet), f"{folder.name} reads between log lines: {read}"
    # The counter counts: a log line reads its figures.
    assert read[2 * LOG - 2] > 0
    return spool


def losses_in(spool: Spool) -> list[float]:
    return [row["m"]["loss"] for row in spool.rows() if "loss" in row.get("m", {})]


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
        spool = train_quietly(make(), tmp_path / name, lambda: (compiled(), reads()))
        assert SAVE - 1 in {row["step"] for row in spool.rows() if "png" in row}
        losses[name] = losses_in(spool)
    assert len(losses["codes"]) == STEPS // LOG
    assert losses["images"] == losses["codes"]


def test_a_probe_neither_compiles_after_its_first_epoch_nor_reads_and_equals_the_cpus(
    images: QuantizerData,
    tokens: PriorData,
    xla: Runtime,
    cpu: Runtime,
    tmp_path: Path,
    compiled: Callable[[], int],
    reads: Callable[[], int],
    fallbacks: Callable[[], list[str]],
) -> None:
    """The covariance is factored anew in each of the six steps of the first epoch; both sources."""
    network = tiny.prior_network(blocks=2, grid=(2, 2), vocabulary=16)
    (tmp_path / "weights").write_bytes(to_bytes(network))
    (tmp_path / "config").write_bytes(priors.model_config(network.shape))
    files = str(tmp_path / "weights"), str(tmp_path / "config")
    data = ProbeData(tokens.train, tokens.test, files, 3, images.train, images.test)
    config = ProbeConfig(
        steps=STEPS, batch=4, precision="fp32", log_every=LOG, checkpoint_every=SAVE, pixels=4, learning_rates=[0.1],
        validation_share=0.3,
    )  # fmt: skip
    mine, plain = ProbeTask(config, data, xla), ProbeTask(config, data, cpu)
    assert [mine.sources["codes"].any_new(step) for step in (5, 6)] == [True, False]
    losses = losses_in(train_quietly(mine, tmp_path / "xla", lambda: (compiled(), reads())))
    assert fallbacks() == []
    spool = Spool(tmp_path / "cpu.jsonl")
    loop.train(plain, Checkpoints(str(tmp_path / "cpu"), {}, cpu), spool)
    assert losses == pytest.approx(losses_in(spool), abs=1e-4)
    for name, module in plain.modules.items():
        found = on_cpu(mine.modules[name])
        for key, value in on_cpu(module).items():
            torch.testing.assert_close(found[key], value, atol=1e-4, rtol=1e-3, msg=f"{name}.{key}")


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
