"""Advice: each sign of bad learning is named with its figure and a setting that helps; good learning is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.artifacts import learning
from components.artifacts.verdicts import Verdict
from components.contract import settings
from components.contract.api import Artifact
from tests.support.common import CONF
from tests.support.synthetic import artifact, curves, image_files, pictures, rows
from vim_core.config import PipelineConfig


def config(*overrides: str) -> PipelineConfig:
    return settings.load(str(CONF / "digits.yaml"), ["quantize.steps=100", "prior.steps=100", *overrides])


def trained(root: Path, name: str, series: dict[str, list[float]], **metrics: float) -> Artifact:
    """A training whose curves have a point at each tenth of its 100 steps."""
    files: dict[str, Callable[[str], Any]] = {"curves.jsonl": lambda uri: Path(uri).write_text(curves(series))}
    return artifact(root, name, files, metrics=metrics)


SETTLED = [1.0, 0.5, 0.4, 0.35, 0.32, 0.3, 0.29, 0.28, 0.28, 0.27, 0.27]
FALLING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15]


def expect(verdict: Verdict, text: str, remedy: str) -> None:
    """A verdict that passes where no text is expected, and never blocks."""
    assert (verdict.passed, verdict.blocking) == (not text, False), verdict
    assert (text or "nothing looks suspicious") in verdict.text
    assert remedy in verdict.remedy
    assert verdict.passed or verdict.remedy.startswith("try ")


@pytest.mark.parametrize(
    ("usage", "losses", "overrides", "text", "remedy"),
    [
        (0.9, SETTLED, [], "", ""),
        (0.15, SETTLED, ["quantize.codebook.restart.every=0"], "15% of the codes are in use",
         "try quantize.codebook.restart.every=10, quantize.codebook.entropy.weight=0.02, more quantize.steps"),
        (0.15, SETTLED, ["quantize.codebook.entropy.weight=0.1"], "15% of the codes", "try more quantize"),
        (0.9, FALLING, [], "l2 still falls: by 40% from 0.25 in the last two", "a higher quantize.optim.lr"),
    ],
)  # fmt: skip
def test_a_tokenizer(
    tmp_path: Path, usage: float, losses: list[float], overrides: list[str], text: str, remedy: str
) -> None:
    made = trained(tmp_path, "quantize", {"l2": losses, "codebook_usage": [usage] * 11})
    expect(learning.check_tokenizer(config(*overrides), made, {}), text, remedy)


@pytest.mark.parametrize(
    ("held_out", "unigram", "loss", "text", "remedy"),
    [
        (4.0, 7.0, 2.7, "", ""),
        (
            6.95,
            7.0,
            4.8,
            "held-out codes cost 6.95 bits, by their frequencies alone 7.00",
            "more prior.steps (now 100)",
        ),
        (7.5, 7.0, 1.0, "by their frequencies alone 7.00", "more tokenize.views (now 24)"),
        (5.0, 7.0, 1.4, "it knows them by heart", "more prior.dropout (now 0.1)"),
    ],
)
def test_a_prior(tmp_path: Path, held_out: float, unigram: float, loss: float, text: str, remedy: str) -> None:
    figures = {"nll_bits_per_token": held_out, "unigram_bits_per_token": unigram}
    made = trained(tmp_path, "prior", {"loss": [loss] * 11}, **figures)
    expect(learning.check_prior(config(), made, {}), text, remedy)


@pytest.mark.parametrize(
    ("accuracy", "text"), [(0.9, ""), (0.62, "right on 62% of held-out images, and always naming one")]
)
def test_a_classifier_and_what_it_says_of_samples(tmp_path: Path, accuracy: float, text: str) -> None:
    images = artifact(tmp_path, "ingest", {}, properties={"class_counts": {"test": [600, 400]}, "classes": ["a", "b"]})
    made = trained(tmp_path, "selector", {"loss": SETTLED}, test_accuracy=accuracy)
    expect(learning.check_classifier(config(), made, {"images": images}), text, "more selector.steps" if text else "")
    few = artifact(tmp_path, "ingest", {}, properties={"class_counts": {"test": [3, 2]}})
    assert learning.check_classifier(config(), made, {"images": few}).passed, "three of five may be chance"
    scored = artifact(tmp_path, "score", {}, metrics={"conditional_accuracy": accuracy - 0.1})
    text = "52% of samples are of their class, by chance 50% are" if text else ""
    expect(learning.check_samples(config(), scored, {"images": images}), text, "more prior.steps" if text else "")


def as_grey(images: np.ndarray) -> Any:
    return images.mean(axis=3, keepdims=True).repeat(3, axis=3).astype(np.uint8)


def as_mean_colour(images: np.ndarray) -> Any:
    return np.broadcast_to(images.mean(axis=(1, 2), keepdims=True), images.shape).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda images: np.clip(images.astype(int) + 9, 0, 255).astype(np.uint8), ""),
        (as_grey, "reconstructions keep 0% of the originals' colour"),
        (as_mean_colour, "each image's mean colour alone gives"),
    ],
)
def test_pictures(tmp_path: Path, change: Callable[[np.ndarray], Any], text: str) -> None:
    keys, originals = [f"image-{i:02d}" for i in range(12)], pictures(12, 0)
    config_of_images = {"max_pixels": 1_000_000}
    tables = [
        artifact(tmp_path / name, name, image_files("test", rows(keys, [0] * 12, images), 1), config=config_of_images)
        for name, images in (("ingest", originals), ("reconstruct", change(originals)))
    ]
    verdict = learning.check_pictures(config(), tables[1], {"images": tables[0]})
    expect(verdict, text, "quantize.codebook.entropy.weight=0.02" if text else "")
    images = {"ingest": tables[0], "reconstruct": tables[1]}
    assert learning.remarks(config(), images) == [], "an artifact's own inputs are looked at"


def test_what_is_not_there_is_not_judged(tmp_path: Path) -> None:
    for name, gates in learning.ADVICE.items():
        for gate in gates.values():
            verdict = gate(config(), artifact(tmp_path / name, name, {}), {})
            assert (verdict.passed, verdict.blocking) == (True, False)
