"""Which figures may stand side by side."""

from __future__ import annotations

import pytest

from vim_core.errors import DataError
from vim_core.metrics.protocol import Protocol, compare, differences, groups, same_protocol


def fid(**fields: object) -> dict[str, object]:
    given: dict[str, object] = {
        "figure": "fid", "compares": "samples with real images", "split": "samples", "count": 50000,
        "network": "inception", "network_digest": "6726", "reference": "test images", "reference_digest": "abc",
        "sampling": {"temperature": 1.0},
    }  # fmt: skip
    return Protocol(**(given | fields)).record()  # type: ignore[arg-type]


def test_figures_of_other_samples_compare() -> None:
    assert same_protocol(fid(), fid(sampling={"temperature": 0.9}, interval="jackknife"))
    compare({"one": fid(), "two": fid(sampling={}), "three": fid()})


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"count": 10000}, ["count"]),
        ({"network_digest": "other"}, ["network_digest"]),
        ({"reference_digest": "other", "reference": "train images"}, ["reference", "reference_digest"]),
        ({"protocol": "guided-diffusion"}, ["protocol"]),
        ({"notes": "k = 5", "resize": "64"}, ["resize", "notes"]),
    ],
)
def test_what_differs_is_named(change: dict[str, object], fields: list[str]) -> None:
    assert differences(fid(), fid(**change)) == differences(fid(**change), fid()) == fields
    with pytest.raises(DataError, match=f"fid of ours and theirs do not compare.* differ in {', '.join(fields)}"):
        compare({"ours": fid(), "theirs": fid(**change)})


def test_the_message_has_the_values() -> None:
    with pytest.raises(DataError, match="count: 50000 and 9"):
        compare({"a": fid(), "b": fid(count=9)}, "FID")


def test_a_reference_may_lie_elsewhere() -> None:
    assert same_protocol(fid(reference="/one/file.npz"), fid(reference="gs://two/file.npz"))


def test_the_network_a_figure_is_about_may_differ_and_a_judge_may_not() -> None:
    of_tokenizer = {"network": "tokenizer", "reference": "code table"}
    one, other = (fid(**of_tokenizer, network_digest=d, reference_digest=d) for d in ("a", "b"))
    assert same_protocol(one, other)
    assert differences(fid(network_digest="a"), fid(network_digest="b")) == ["network_digest"]


def test_fields_of_later_versions_count() -> None:
    assert differences(fid(), fid() | {"later": 1}) == ["later"]


def test_columns_of_figures_that_compare() -> None:
    assert groups({"a": fid(), "b": fid(count=9), "c": fid(), "d": fid(count=9)}) == [["a", "c"], ["b", "d"]]
