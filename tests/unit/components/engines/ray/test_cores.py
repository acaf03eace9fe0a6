"""Cores of workers: what nodes have, shared by those that will run there; else all of this machine on CPU."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.engines.ray.cores import largest_share, worker_threads
from vim_core.config import RunConfig

HERE = len(os.sched_getaffinity(0))


def nodes(*resources: dict[str, float]) -> list[dict[str, Any]]:
    return [{"Alive": True, "Resources": each} for each in resources] + [{"Alive": False, "Resources": {"CPU": 512.0}}]


@pytest.mark.parametrize(
    ("run", "device", "cluster", "share"),
    [
        ({}, "cpu", None, HERE),
        ({"workers": 4}, "cpu", None, HERE),  # bits: as many threads as alone
        ({"workers": 2}, "cuda", None, max(1, HERE // 2)),
        ({"workers": 2, "threads": 5}, "cuda", None, 5),
        ({"workers": 8}, "cuda", [{"CPU": 192, "GPU": 8}], 24),
        ({"workers": 16}, "cuda", [{"CPU": 192, "GPU": 8}] * 2 + [{"CPU": 999}], 24),
        ({"workers": 8}, "cuda", [{"CPU": 192, "GPU": 8}, {"CPU": 64, "GPU": 1}], 27),
        ({"workers": 4}, "xla", [{"CPU": 240, "TPU": 4}] * 4 + [{"CPU": 8}], 240),
        ({"workers": 3}, "cpu", [{"CPU": 8}, {"CPU": 8}, {"memory": 1}], 4),
        ({"workers": 2}, "cpu", [{"CPU": 8}, {"CPU": 1}], 4),
        ({"workers": 2}, "cuda", [{"CPU": 8}], 1),  # none yet: before the cluster grows
        ({"workers": 3, "threads": 2}, "cpu", [{"CPU": 8}], 2),
    ],
)
def test_workers_share_what_their_nodes_have(
    run: dict[str, int], device: str, cluster: Any, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.nodes", lambda: nodes(*cluster))
    address = "" if cluster is None else "127.0.0.1:1"
    settings = RunConfig(ray_address=address, **run)  # type: ignore[arg-type]
    assert worker_threads(settings, device, host_wide=device == "xla") == share


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=5), st.integers(1, 12))
def test_no_larger_share_fits_all_workers(places: list[tuple[int, int]], workers: int) -> None:
    def fits(share: int) -> bool:
        return sum(min(cores // share, most) for cores, most in places) >= workers

    share = largest_share(places, workers)
    assert fits(share) or share == 1
    assert not any(fits(more) for more in range(share + 1, 42))
