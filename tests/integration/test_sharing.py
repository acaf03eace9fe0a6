"""Networks that two workers share: drawn alike, never whole on either, put together by the first alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support import sharing, workers

pytestmark = pytest.mark.slow

Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """What both workers found."""
    folder = tmp_path_factory.mktemp("sharing")
    workers.tables(folder)
    sharing.tokenizer(folder)
    workers.spawn(sharing.shared, 2, folder)
    return [json.loads((folder / f"shared-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", sharing.TASKS)
def test_shared_networks_begin_with_the_very_values_of_whole_ones(records: Records, name: str) -> None:
    for record in records:
        found = record[name]
        assert found["split"] > 0
        assert found["names"]
        assert found["different"] == []
        assert found["gradients"]
        assert found["generator"], "what is drawn afterwards must be the same, too"


@pytest.mark.parametrize("name", sharing.SIZED)
def test_no_worker_ever_has_a_full_copy(records: Records, name: str) -> None:
    for record in records:
        shares = record["bytes"][name]
        assert shares["whole"] == pytest.approx(1, abs=0.05), "what is counted is the network"
        assert shares["kept"] == pytest.approx(0.5, abs=0.05)
        assert shares["peak"] < 0.65


@pytest.mark.parametrize("name", sharing.SIZED)
def test_only_the_first_worker_keeps_what_all_put_together(records: Records, name: str) -> None:
    first, other = (record["bytes"][name] for record in records)
    assert (first["files"], other["files"]) == (2, 0)
    assert first["gathered"] > 0.95
    assert other["gathered"] < 0.05


@pytest.mark.parametrize("name", sharing.TASKS)
def test_the_first_worker_has_what_a_whole_network_gives(records: Records, name: str) -> None:
    first, other = (record[name] for record in records)
    drawn = None if name in ("paper", "modern") else True
    assert (first["files"], first["figures"], first["pictures"], first["buffers"]) == (True, True, drawn, True)
    assert {other[key] for key in ("files", "figures", "pictures", "buffers")} == {None}
