"""Figures compare where their records agree in all that matters."""

from __future__ import annotations

import pytest

from vim_core.metrics.protocol import Protocol, differences


def fid(**fields: object) -> dict[str, object]:
    defaults: dict[str, object] = {
        "figure": "fid", "compares": "samples with real images", "split": "samples", "count": 50000,
        "network": "inception", "network_digest": "6726", "reference": "test images", "reference_digest": "abc",
        "sampling": {"temperature": 1.0},
    }  # fmt: skip
    return Protocol(**(defaults | fields)).record()  # type: ignore[arg-type]


def test_the_record_has_only_the_fields_that_apply() -> None:
    record = Protocol(figure="psnr_db", compares="a with b", split="test", count=0).record()
    assert record == {"figure": "psnr_db", "compares": "a with b", "split": "test", "count": 0}


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"sampling": {"temperature": 0.9}, "interval": "jackknife"}, []),
        ({"count": 10000}, ["count"]),
        ({"network_digest": "other"}, ["network_digest"]),
        ({"reference": "gs://elsewhere/file.npz"}, []),
        ({"reference_digest": "other", "reference": "train images"}, ["reference", "reference_digest"]),
        ({"protocol": "guided-diffusion"}, ["protocol"]),
        ({"notes": "k = 5", "resize": "64"}, ["resize", "notes"]),
    ],
)
def test_fields_that_differ_are_named(change: dict[str, object], fields: list[str]) -> None:
    assert differences(fid(), fid(**change)) == differences(fid(**change), fid()) == fields


def test_the_network_that_a_figure_is_about_may_differ() -> None:
    subject = {"network": "tokenizer", "reference": "code table"}
    one, other = (fid(**subject, network_digest=digest, reference_digest=digest) for digest in ("a", "b"))
    assert differences(one, other) == []


def test_fields_of_later_versions_count() -> None:
    assert differences(fid(), fid() | {"later": 1}) == ["later"]
