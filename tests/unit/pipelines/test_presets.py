"""The paper's experiments as presets: its values, its sizes, headers that are a record, networks that can be built."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from components.contract import settings
from pipelines.cli import main as cli
from tests.support.common import CONF
from vim_core.config import PipelineConfig, StackConfig
from vim_core.models.discriminator import StyleGANDiscriminator
from vim_core.models.prior import ImagePrior, PriorShape
from vim_core.models.vit_vqgan import ViTVQGAN

Size = tuple[int, int, int, int]
"""Blocks, heads, width, MLP width."""

SMALL, BASE, LARGE = (8, 8, 512, 2048), (12, 12, 768, 3072), (32, 16, 1280, 5120)
VIM_BASE, VIM_LARGE = (24, 16, 1536, 6144), (36, 32, 2048, 8192)


@dataclass(frozen=True)
class Paper:
    """One experiment of the paper, and the sizes in millions of the networks that are built for it.

    `tokenizer_m` and `prior_m` count every weight. The paper's own column leaves out one attention matrix a block, and
    adds two tables of 8,192 codes and one of 1,024 positions that a tokenizer does not have.
    """

    encoder: Size
    decoder: Size
    tokenizer_m: float
    prior: Size | None = None
    prior_m: float = 0.0
    patch: int = 8
    perceptual: float = 0.1
    dropout: float = 0.1
    conditional: bool = True


SS = (SMALL, SMALL, 55.8)
PAPER = {
    "imagenet256_base": Paper(*SS, VIM_BASE, 706.8),
    "imagenet256_large": Paper(*SS, VIM_LARGE, 1848.6),
    "imagenet256_large_rejection": Paper(*SS, VIM_LARGE, 1848.6),
    "imagenet256_base_16x16": Paper(SMALL, SMALL, 57.7, VIM_BASE, 706.7, patch=16),
    "imagenet256_large_16x16": Paper(SMALL, SMALL, 57.7, VIM_LARGE, 1848.6, patch=16),
    "imagenet256_tokenizer_ss": Paper(*SS),
    "imagenet256_tokenizer_bb": Paper(BASE, BASE, 180.4),
    "imagenet256_tokenizer_sl": Paper(SMALL, LARGE, 667.8),
    "imagenet256_probe": Paper(*SS, VIM_LARGE, 1846.6, perceptual=0.0, dropout=0.0, conditional=False),
    "imagenet256_probe_base": Paper(*SS, VIM_BASE, 705.2, perceptual=0.0, conditional=False),
    "celebahq256": Paper(*SS, VIM_LARGE, 1846.6, conditional=False),
    "ffhq256": Paper(*SS, VIM_LARGE, 1846.6, conditional=False),
}
OWN = ["digits", "imagenet256_large_modern", "smoke", "tiny_imagenet", "tiny_imagenet_cpu"]
NAMES = sorted([*PAPER, *OWN])
CLASSES = 1000


@cache
def load(preset: str) -> PipelineConfig:
    return settings.load(preset, [], CONF)


def size(stack: StackConfig) -> Size:
    return stack.blocks, stack.heads, stack.dim, stack.mlp


def header(preset: str) -> str:
    lines = (CONF / f"{preset}.yaml").read_text(encoding="utf-8").splitlines()
    return "\n".join(line.lstrip("# ") for line in lines[: next(i for i, line in enumerate(lines) if not line)])


def field(preset: str, name: str) -> str:
    """The text of a header below `Name:`, in one line."""
    match = re.search(rf"^{name}:(.*?)(?=^[A-Z][a-z]+:|\Z)", header(preset), re.MULTILINE | re.DOTALL)
    return " ".join(match.group(1).split()) if match else ""


def millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def test_no_preset_is_missing_here() -> None:
    assert settings.presets(CONF) == NAMES


@pytest.mark.parametrize("preset", NAMES)
def test_the_header_is_the_experiments_record(preset: str) -> None:
    first = header(preset).splitlines()[0]
    assert first.endswith(".")
    assert all(field(preset, name) for name in ("Source", "Expected", "Cost"))
    assert field(preset, "Command").split() == ["vimctl", "run", "--preset", preset]
    if preset in PAPER:
        assert field(preset, "Data")
        assert "2110.04627" in field(preset, "Source")
    if preset.startswith("imagenet256") or preset in PAPER:
        assert "estimate" in field(preset, "Cost")
        assert field(preset, "Hardware").startswith("run.hardware=v4-64, h100x8, h200x8, a100x8")


@pytest.mark.parametrize("preset", NAMES)
def test_settings_as_yaml_load_again(preset: str) -> None:
    assert settings.from_yaml(settings.to_yaml(load(preset)), preset) == load(preset)


def test_config_prints_what_loads_as_a_preset(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["config", "--preset", "smoke"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert settings.load(str(tmp_path / "printed.yaml")) == load("smoke")


@pytest.mark.parametrize("preset", PAPER)
def test_the_tokenizer_is_the_papers(preset: str) -> None:
    """Table 2 and sections 3.2, 3.3 and 5.1."""
    paper, ours = PAPER[preset], load(preset).quantize
    assert (size(ours.encoder), size(ours.decoder), ours.patch) == (paper.encoder, paper.decoder, paper.patch)
    assert (ours.steps, ours.batch, ours.image_size) == (500_000, 256, 256)
    book = ours.codebook
    assert (book.codes, book.dim, book.l2, book.commitment) == (8192, 32, True, 0.25)
    # Restarts are ours, and the paper's exact recipe is one override away.
    paper_exact = settings.load(preset, ["quantize.codebook.restart.every=0"], CONF).quantize.codebook.restart
    assert (book.restart.every, paper_exact.every) == (100, 0)
    assert (ours.usage_alarm, ours.usage_halt, ours.usage_grace) == (0.5, 0.1, 20_000)
    assert ours.usage_grace + ours.evaluate_every + ours.checkpoint_every < 0.1 * ours.steps
    loss = ours.loss
    assert (loss.l2, loss.logit_laplace, loss.perceptual, loss.adversarial) == (1.0, 0.1, paper.perceptual, 0.1)
    assert bool(loss.perceptual_weights) == (paper.perceptual > 0)
    assert not loss.perceptual_optional
    for optim in (ours.optim, ours.discriminator.optim):
        assert (optim.lr, optim.final_lr, optim.warmup, optim.decay) == (1e-4, 5e-5, 50_000, "cosine")
        assert (optim.beta1, optim.beta2, optim.weight_decay) == (0.9, 0.99, 1e-4)
    assert ours.ema == 0


@pytest.mark.parametrize("preset", [name for name, paper in PAPER.items() if paper.prior])
def test_the_prior_is_the_papers(preset: str) -> None:
    """Table 2 and section 5.2; Table 7 on dropout."""
    paper, config = PAPER[preset], load(preset)
    ours = config.prior
    assert size(ours.stack) == paper.prior
    assert (ours.dropout, ours.conditional, ours.label_dropout) == (paper.dropout, paper.conditional, 0.0)
    assert (ours.steps, ours.batch, ours.precision, ours.ema) == (450_000, 1024, "fp32", 0.0)
    optim = ours.optim
    assert (optim.lr, optim.final_lr, optim.warmup) == (4.5e-4, 1e-5, 5000)
    assert (optim.decay, optim.decay_start, optim.beta1, optim.beta2) == ("exponential", 80_000, 0.9, 0.96)
    drawn = config.sample
    assert (drawn.temperature, drawn.top_k, drawn.top_p, drawn.guidance) == (1.0, 0, 1.0, 1.0)
    assert config.score.usage_batch == 256


def test_guidance_can_be_asked_of_the_modern_preset_which_is_else_the_papers() -> None:
    large, modern = load("imagenet256_large"), load("imagenet256_large_modern")
    assert (modern.prior.variant, modern.prior.label_dropout) == ("modern", 0.1)
    assert modern.sample.guidance > 1
    changes = {"variant": "paper", "label_dropout": 0.0}
    assert dataclasses.replace(modern.prior, **changes) == large.prior  # type: ignore[arg-type]
    assert (modern.quantize, modern.components) == (large.quantize, large.components)


@pytest.mark.parametrize("preset", NAMES)
def test_the_networks_can_be_built(preset: str) -> None:
    """On the meta device, which takes no memory: every size fits every other one."""
    config = load(preset)
    grid = config.quantize.image_size // config.quantize.patch
    classes = CLASSES if config.prior.conditional else 0
    shape = PriorShape(config.prior.stack, [grid, grid], config.quantize.codebook.codes, classes, config.prior.dropout)
    with torch.device("meta"):
        tokenizer, prior = ViTVQGAN(config.quantize), ImagePrior(shape)
        discriminator = StyleGANDiscriminator(config.quantize.discriminator, config.quantize.image_size)
    for stack, module in (
        (config.quantize.encoder, tokenizer.encoder.blocks),
        (config.quantize.decoder, tokenizer.decoder.blocks),
        (config.prior.stack, prior.blocks),
    ):
        dim, mlp = stack.dim, stack.mlp
        # Four attention matrices, the MLP's two, their biases, and two norms.
        weights = 4 * dim**2 + 2 * dim * mlp + 4 * dim + mlp + dim + 4 * dim
        assert millions(module) == pytest.approx(stack.blocks * weights / 1e6)
    if preset in PAPER:
        paper = PAPER[preset]
        assert millions(tokenizer) == pytest.approx(paper.tokenizer_m, rel=2e-3)
        assert millions(discriminator) == pytest.approx(28.9, rel=2e-3)
        if paper.prior:
            assert millions(prior) == pytest.approx(paper.prior_m, rel=2e-3)
            assert shape.tokens == (1024 if paper.patch == 8 else 256)


def test_presets_that_share_a_stage_share_its_artifact() -> None:
    """Nobody trains the Small-Small tokenizer twice: its settings, and those before it, are the same."""
    base = load("imagenet256_base")
    for other in ("imagenet256_large", "imagenet256_tokenizer_ss"):
        assert (load(other).ingest, load(other).quantize) == (base.ingest, base.quantize)
    pairs = (
        ("imagenet256_large", "imagenet256_base"),
        ("imagenet256_large_16x16", "imagenet256_base_16x16"),
        ("imagenet256_probe_base", "imagenet256_probe"),
    )
    for one, other in pairs:
        first, second = load(one), load(other)
        assert (first.quantize, first.tokenize) == (second.quantize, second.tokenize)
        assert first.prior != second.prior
