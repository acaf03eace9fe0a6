"""Stage 1 on real photographs: a small tokenizer learns, its codebook stays in use, nothing collapses."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.benchmarks import tiny_imagenet
from vim_core.config import PipelineConfig
from vim_core.tasks.quantizer import QuantizerData

pytestmark = pytest.mark.slow

WORDS = [
    "ingest.test_fraction=0.2",
    "ingest.shards=2",
    "quantize.steps=180",
    "quantize.log_every=60",
    "quantize.batch=32",
    # Patches of 8 leave 64 tokens an image, a quarter of the preset's: the test takes seconds, not minutes.
    "quantize.patch=8",
    "quantize.encoder.heads=2",
    "quantize.encoder.dim=64",
    "quantize.encoder.mlp=128",
    "quantize.decoder.blocks=1",
    "quantize.codebook.codes=256",
    "quantize.optim.lr=4e-3",
    "quantize.discriminator.channels=16",
    "quantize.discriminator.base=128",
    "quantize.discriminator.ramp_start=60",
    "quantize.discriminator.ramp_steps=60",
]
PER_CLASS = 10


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny_imagenet")


@pytest.fixture(scope="module")
def config() -> PipelineConfig:
    return tiny_imagenet.load(WORDS)


@pytest.fixture(scope="module")
def data(test_data: Path, work: Path, config: PipelineConfig) -> QuantizerData:
    return tiny_imagenet.tables(config.ingest, tiny_imagenet.unpack(test_data, work / "photos", PER_CLASS), work)


def test_a_small_tokenizer_learns_photographs(data: QuantizerData, work: Path, config: PipelineConfig) -> None:
    """It stops after the first row and goes on from its checkpoint, as the long run does."""
    first = tiny_imagenet.train(config, data, work, seconds=0, threads=1)
    assert [row["step"] for row in first] == [0, 60]
    rows = tiny_imagenet.train(config, data, work, seconds=600, threads=1)
    assert rows[:2] == first
    assert [row["step"] for row in rows] == [0, 60, 120, 180]
    psnr = [row["test_psnr_db"] for row in rows]
    assert all(later > earlier for earlier, later in itertools.pairwise(psnr))
    # The mean colour of all images gives 11.8 dB, each image's own 13.5: the codes must say where things are.
    assert psnr[-1] > 15
    assert rows[-1]["test_usage"] >= 0.9
    assert rows[-1]["test_perplexity"] > 100
    # Without the entropy term the codes end on a circle.
    assert rows[-1]["test_spread"] > 2.5
    assert rows[-1]["adversarial"] > 0
    assert not any(row["skipped"] for row in rows[1:])
