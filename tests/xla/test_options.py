"""Options of both stages on XLA: the CPU run's losses, and no program that is compiled late.

Options that do not touch each other share a training, because compiling one takes nearly all of the time here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from tests.support import sharing, tiny
from tests.unit.vim_core.losses.test_perceptual import skip_initialisation
from tests.xla.run import Row, on_cpu, stepped
from vim_core.config import (
    CodebookConfig,
    DiscriminatorConfig,
    EntropyConfig,
    LeCamConfig,
    LossConfig,
    OptimConfig,
    StackConfig,
)
from vim_core.distributed.runtimes.base import Runtime
from vim_core.losses.perceptual import Perceptual
from vim_core.models.vit_vqgan import model_config
from vim_core.tasks.base import Task
from vim_core.tasks.prior import PriorData, PriorTask
from vim_core.tasks.quantizer import QuantizerData, QuantizerTask
from vim_core.tasks.warm_start import PretrainedTokenizer, is_decoder_tensor
from vim_core.weights.saving import to_bytes

pytestmark = pytest.mark.xla
Compare = Callable[[Callable[[Runtime], Task]], list[Row]]
STEPS = 10
R1 = 4
"""R1 comes at steps 0, 4 and 8: both programs have run twice after step 4."""
LECAM = LeCamConfig(weight=0.1, decay=0.9)
PAPER = OptimConfig(kind="factored", first_moment="int8", update_clip=1.0, lr=1e-3, warmup=2, beta2=0.96, clip_norm=1.0)
"""Adam as the paper trains its priors, and with the most compact state."""


def prior(codes: PriorData, runtime: Runtime, **fields: Any) -> PriorTask:
    base: dict[str, Any] = {"steps": STEPS, "batch": 8, "dropout": 0.0, "optim": OptimConfig(lr=1e-3, warmup=2)}
    return PriorTask(tiny.prior_config(**base | fields), codes, runtime)


@pytest.fixture
def compared(xla: Runtime, cpu: Runtime, compiled: Callable[[], int], fallbacks: Callable[[], list[str]]) -> Compare:
    """The figures of a training on XLA: losses as on the CPU, no program late, no operation left to the CPU."""

    def compare(make: Callable[[Runtime], Task]) -> list[Row]:
        rows, seen = stepped(make(xla), STEPS, compiled)
        expected, _ = stepped(make(cpu), STEPS)
        assert [row.keys() for row in rows] == [row.keys() for row in expected]
        for name in expected[0]:
            if "norm" not in name and "perplexity" not in name:
                found, wanted = ([row[name] for row in given if name in row] for given in (rows, expected))
                assert found == pytest.approx(wanted, abs=1e-4), name
        assert seen[R1:] == [seen[R1]] * (STEPS - R1)
        assert fallbacks() == []
        return rows

    return compare


def test_the_papers_adam_with_accumulated_gradients(codes: PriorData, compared: Compare) -> None:
    compared(lambda runtime: prior(codes, runtime, optim=PAPER, accumulate=2))


def test_the_modern_prior_running_its_blocks_again(codes: PriorData, xla: Runtime, compared: Compare) -> None:
    fields: dict[str, Any] = {"variant": "modern", "stack": StackConfig(blocks=2, heads=2, dim=16, mlp=32)}
    again = compared(lambda runtime: prior(codes, runtime, recompute=True, **fields))
    plain, _ = stepped(prior(codes, xla, **fields), STEPS)
    for name in ("loss", "gradient_norm"):
        assert [row[name] for row in again] == pytest.approx([row[name] for row in plain], abs=1e-5)


def test_blocks_that_run_again_draw_the_same_noise(codes: PriorData, xla: Runtime) -> None:
    """Seen by the compiler's own input: the second run is there, behind a barrier that keeps it from being merged."""
    import torch_xla

    losses, programs = [], []
    for recompute in (False, True):
        task = prior(codes, xla, dropout=0.3, ema=0.0, recompute=recompute)
        xla.mark_sharding(task.modules, task.optimizers)
        for step in range(2):
            xla.seed_step(0, step)
            figures = task.step(step, xla.to_device(task.batch(step)))
            if step:
                programs.append(torch_xla._XLAC._get_xla_tensors_hlo([p.grad for p in task.model.parameters()]))
            xla.end_step()
            losses.append([float(figures["loss"]), float(figures["gradient_norm"])])
    assert losses[2:] == [pytest.approx(row, abs=1e-5) for row in losses[:2]]
    assert [text.count(" opt-barrier(") for text in programs] == [0, 1]
    # The one block's activation once more; its gradient has a tanh of its own in both programs.
    assert [text.count(" tanh(") for text in programs] == [2, 3]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> QuantizerData:
    """Images of 16x16, the least that VGG16 can see."""
    folder = tmp_path_factory.mktemp("large")
    train = tiny.image_table(folder / "train", 32, 16)
    return QuantizerData([train], [tiny.image_table(folder / "test", 4, 16, seed=1)])


def quantizer(data: QuantizerData, runtime: Runtime, judge: dict[str, Any], **fields: Any) -> QuantizerTask:
    settings: dict[str, Any] = {"channels": 8, "base": 64, "ramp_steps": 8, "r1_every": R1}
    base: dict[str, Any] = {"steps": STEPS, "batch": 8, "codebook": CodebookConfig(codes=16, dim=4)}
    base |= {"optim": OptimConfig(lr=1e-3, warmup=2), "discriminator": DiscriminatorConfig(**settings | judge)}
    return QuantizerTask(tiny.quantize_config(**base | fields), data, runtime)


def test_rotation_entropy_patches_lecam_and_the_papers_adam(images: QuantizerData, compared: Compare) -> None:
    book = CodebookConfig(codes=16, dim=4, gradient="rotation", entropy=EntropyConfig(weight=0.1, temperature=0.1))
    judge = {"kind": "patch", "patch_layers": 1, "lecam": LECAM, "optim": OptimConfig(lr=1e-3)}
    rows = compared(lambda runtime: quantizer(images, runtime, judge, codebook=book, optim=PAPER, recompute=True))
    assert {"entropy", "r1", "lecam"} <= rows[0].keys()


def backbone() -> dict[str, Tensor]:
    """VGG16 with random weights."""
    torch.manual_seed(0)
    features: nn.Sequential = make_layers(cfgs["D"])
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return {f"features.{name}": value for name, value in features.state_dict().items()}


def source(folder: Path) -> PretrainedTokenizer:
    """A tokenizer to start from, as files."""
    network = tiny.tokenizer_network(seed=3, image_size=16)
    (folder / "model.safetensors").write_bytes(to_bytes(network))
    (folder / "config.json").write_bytes(model_config(network.config))
    return sharing.source(folder)


def test_a_decoder_on_a_frozen_encoder_with_perception(large: QuantizerData, tmp_path: Path, compared: Compare) -> None:
    weights, data = backbone(), replace(large, pretrained=source(tmp_path))
    before = tiny.tokenizer_network(seed=3, image_size=16).state_dict()
    made: list[QuantizerTask] = []

    def make(runtime: Runtime) -> QuantizerTask:
        with pytest.MonkeyPatch.context() as patch:
            skip_initialisation(patch)
            perceptual = Perceptual(weights, runtime.device)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Perceptual, "create", lambda config, device: perceptual)
            loss = LossConfig(perceptual=0.1, l1=0.5, logit_laplace=0.0, adversarial=0.0)
            fields = {"init_from": "there", "freeze_encoder": True, "image_size": 16}
            made.append(quantizer(data, runtime, {}, loss=loss, **fields))
        return made[-1]

    rows = compared(make)
    assert rows[0]["perceptual"] > 0
    assert rows[-1]["loss"] < rows[0]["loss"]
    after = on_cpu(made[0].model)
    assert [name for name in before if not is_decoder_tensor(name) and not torch.equal(after[name], before[name])] == []


def test_accumulated_gradients_of_both_networks_with_spectral_norm(images: QuantizerData, compared: Compare) -> None:
    """The discriminator looks at groups of four images: those of a microbatch."""
    judge = {"spectral_norm": True, "channels": 4, "r1_gamma": 0.0, "optim": OptimConfig(lr=1e-3)}
    compared(lambda runtime: quantizer(images, runtime, judge, accumulate=2))
