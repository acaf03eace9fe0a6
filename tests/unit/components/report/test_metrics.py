"""Metrics for people: values with units, which direction is better, protocols in words."""

from __future__ import annotations

import pytest

from components.report import metrics


@pytest.mark.parametrize(
    ("value", "style", "text"),
    [
        (0.9731, "share", "97.3 %"),
        (1000.0, "count", "1,000"),
        (22.456, "db", "22.46 dB"),
        (3.6612, "bits", "3.66 bits"),
        (0.91234, "number", "0.912"),
    ],
)
def test_figures_for_people(value: float, style: str, text: str) -> None:
    assert metrics.format_value(value, style) == text


def test_protocol_sentences() -> None:
    protocol = {
        "compares": "samples with real images",
        "split": "samples",
        "count": 1000,
        "reference": "test images",
        "reference_count": 297,
        "sampling": {"seed": 0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "guidance": 2.5},
    }
    sentence = "Samples with real images, on 1,000 samples against 297 (test images); drawn with "
    assert metrics.sentence(protocol) == sentence + "temperature 1, guidance 2.5."
    assert metrics.sentence({"split": "test", "count": 297}) == "On 297 test images."
    assert metrics.sentence({}) == ""


@pytest.mark.parametrize(
    ("name", "sign"),
    [("samples.fd_classifier", -1), ("samples.fid", -1), ("quantizer.psnr_db", 1), ("probe.top1", 1),
     ("samples.inception_score", 1), ("samples.fd_classifier_real_vs_real", 0), ("quantizer.perplexity", 0)],
)  # fmt: skip
def test_which_way_is_better(name: str, sign: int) -> None:
    assert metrics.direction(name) == sign
