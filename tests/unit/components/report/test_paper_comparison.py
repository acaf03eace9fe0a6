"""A figure of ours enters a column of the paper only with the column's data, protocol and count (contract 8)."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from components.report import paper_comparison
from components.report.paper_tables import Table, tables

STACK = {"blocks": 8, "heads": 8, "dim": 512, "mlp": 2048}
PRIOR = {"blocks": 24, "heads": 16, "dim": 1536, "mlp": 6144}
DIGITS: dict[str, Any] = {
    "preset": "digits",
    "data": {"splits": {"train": 1495, "test": 302}, "source": "builtin:digits"},
    "settings": {
        "quantize": {"image_size": 32, "steps": 500, "batch": 128, "encoder": {**STACK, "blocks": 1}, "decoder": STACK,
                     "codebook": {"codes": 256, "dim": 8, "l2": True}},
        "prior": {"stack": PRIOR, "steps": 10, "batch": 4},
        "sample": {"count": 1000},
    },
    "tokenizer": {"grid": [4, 4]},
    "compute": {"quantize": {"seconds": 159.3, "device": "cpu", "threads": 2, "dtype": "bf16", "world": 1}},
    "samples": {"fd_classifier": 1.9, "fd_classifier_low": 1.8, "fd_classifier_high": 2.0, "count": 1000},
    "quantizer": {"psnr_db": 22.9},
    "protocols": {
        "samples.fd_classifier": {"figure": "fd_classifier", "count": 1000, "split": "samples"},
        "quantizer.psnr_db": {"figure": "psnr_db", "count": 302, "split": "test"},
    },
}  # fmt: skip


def imagenet() -> dict[str, Any]:
    """A run whose FID is of the paper's data and protocol."""
    record = deepcopy(DIGITS)
    record["data"]["splits"] = {"train": 1_281_167, "test": 50_000}
    record["settings"]["quantize"] |= {"image_size": 256, "encoder": STACK, "decoder": STACK}
    record["tokenizer"]["grid"] = [32, 32]
    record["samples"] = {"fid": 8.8123}
    record["protocols"] = {"samples.fid": {"figure": "fid", "protocol": "torch-fidelity", "count": 50_000}}
    return record


def table(number: int) -> Table:
    return next(one for one in tables() if one.number == number)


def cell(record: dict[str, Any], number: int, title: str) -> str:
    place = [column.title for column in table(number).columns].index(title)
    return paper_comparison.rows(record)[number].cells[place]


def test_a_figure_of_the_papers_protocol_enters() -> None:
    record = imagenet()
    assert [cell(record, 6, title) for title in ("FID", "IS", "Acceptance")] == ["8.81", "not run", "1.0"]
    assert [cell(record, 8, title) for title in ("Second stage", "Tokens", "FID")] == ["VIM-Base", "32×32", "8.81"]
    assert paper_comparison.rows(record)[6].excluded == ()
    assert cell(record, 5, "FID") == paper_comparison.ELSEWHERE  # faces, not ImageNet


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"protocol": "guided-diffusion"}, "protocol guided-diffusion, not torch-fidelity"),
        ({"protocol": ""}, "protocol without a name, not torch-fidelity"),
        ({"count": 10_000}, "on 10,000 images, not 50,000"),
    ],
)
def test_another_protocol_stands_below_with_the_reason(change: dict[str, Any], reason: str) -> None:
    record = imagenet()
    record["protocols"]["samples.fid"] |= change
    row = paper_comparison.rows(record)[6]
    assert (cell(record, 6, "FID"), row.entered) == (paper_comparison.ELSEWHERE, False)
    assert [(one.key, one.reason) for one in row.excluded] == [("samples.fid", reason)]


def test_the_row_says_how_samples_were_drawn() -> None:
    record = imagenet()
    assert cell(record, 6, "Model") == "VIM, this run"
    record["settings"]["sample"] |= {"temperature": 1.0, "guidance": 2.0, "top_k": 0, "top_p": 0.9}
    assert cell(record, 6, "Model") == "VIM, this run, guidance 2, top-p 0.9"
    assert cell(record, 3, "Model") == "VIM, this run"


def test_usage_needs_the_papers_batches_and_the_probe_a_tokenizer_without_labels() -> None:
    record = imagenet()
    record["quantizer"], record["probe"] = {"codebook_usage": 0.9512}, {"top1": 0.651}
    record["protocols"] |= {"quantizer.codebook_usage": {"count": 49_920}, "probe.top1": {"count": 50_000}}
    assert (cell(record, 4, "Usage (%)"), cell(record, 7, "Top-1 (%)")) == ("95", "65.1")
    record["protocols"]["quantizer.codebook_usage"]["count"] = 49_984  # batches of 64
    record["tokenizer"]["perceptual"] = True
    assert (cell(record, 4, "Usage (%)"), cell(record, 7, "Top-1 (%)")) == (
        paper_comparison.ELSEWHERE,
        paper_comparison.ELSEWHERE,
    )
    assert "carries labels" in paper_comparison.rows(record)[7].excluded[0].reason


def test_accepted_samples_have_rows_of_their_own() -> None:
    record = imagenet()
    for rate, value in (("0.5", 3.0412), ("0.05", 9.0)):
        record["samples"][f"fid_accepted_{rate}"] = value
        record["protocols"][f"samples.fid_accepted_{rate}"] = record["protocols"]["samples.fid"]
    row = paper_comparison.rows(record)[6]
    assert row.cells[1:3] == ("1.0", "8.81")
    assert [cells[1:] for cells in row.by_rate] == [("0.5", "3.04", "not run"), ("0.05", "9.00", "not run")]
    assert paper_comparison.rows(record)[8].by_rate == ()
    record["protocols"]["samples.fid_accepted_0.5"] = {"protocol": "torch-fidelity", "count": 5}
    row = paper_comparison.rows(record)[6]
    assert row.by_rate[0][2] == paper_comparison.ELSEWHERE
    assert [one.reason for one in row.excluded] == ["on 5 images, not 50,000"]


def test_other_images_never_enter() -> None:
    record = imagenet()
    record["data"]["splits"]["train"] -= 1
    [excluded] = paper_comparison.rows(record)[6].excluded
    assert excluded.reason == "measured on 50,000 held-out images at 256 × 256, not on ImageNet at 256 × 256"
    record = imagenet()
    record["settings"]["quantize"]["image_size"] = 128
    assert cell(record, 6, "FID") == paper_comparison.ELSEWHERE


def test_our_distance_is_no_fid() -> None:
    rows = paper_comparison.rows(DIGITS)
    assert not any(row.entered for row in rows.values())
    assert cell(DIGITS, 6, "FID") == paper_comparison.NOT_RUN
    [excluded] = rows[6].excluded
    assert excluded.key == "samples.fd_classifier"
    assert excluded.reason.startswith("not FID")


def test_the_row_says_what_ran_and_what_it_cost() -> None:
    assert cell(DIGITS, 1, "Encoder-decoder") == "1 × 512 / Small"
    assert [cell(DIGITS, 3, title) for title in ("Latent", "Codes", "Data set")] == ["4×4", "256", "builtin:digits"]
    assert paper_comparison.rows(DIGITS)[1].compute == (
        "quantize 159 s on cpu, 2 threads, bf16, 500 steps of 128 images"
    )  # fmt: skip
    assert cell(DIGITS, 1, "images/s") == "–"


def test_states_of_the_tables() -> None:
    states = {one.number: state for one, _, state in paper_comparison.tables([("a", DIGITS)])}
    assert states == {1: "other protocol", 3: "other protocol", 4: "other protocol", 5: "other protocol",
                      6: "other protocol", 7: "not run", 8: "other protocol"}  # fmt: skip
    both = {one.number: (state, [name for name, _ in rows]) for one, rows, state in
            paper_comparison.tables([("a", DIGITS), ("b", imagenet())])}  # fmt: skip
    assert both[6] == ("compared", ["a", "b"])
    assert paper_comparison.tables([("only images", {"settings": {"ingest": {}}})]) == []


def test_figures_below_have_value_interval_and_protocol() -> None:
    [(_, row)] = next(rows for one, rows, _ in paper_comparison.tables([("a", DIGITS)]) if one.number == 6)
    [shown] = row.excluded
    assert (shown.value, shown.interval, shown.sentence) == ("1.900", "1.800 to 2.000", "On 1,000 samples.")
