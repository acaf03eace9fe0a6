"""Evaluations in a thread: one at a time, errors come back, an abandoned one ends at its next batch."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from tests.support.tiny import runtime
from vim_core.training.evaluation import BackgroundThread, CancelCheck, evaluation_device, snapshot

PATIENCE_S = 20.0


@pytest.fixture
def evaluator() -> object:
    made: BackgroundThread[float] = BackgroundThread(torch.device("cpu"), "evaluation")
    yield made
    made.close()


def test_figures_come_back_with_their_step(evaluator: BackgroundThread[float]) -> None:
    assert evaluator.poll(wait=True) is None
    evaluator.start(7, lambda check: {"figure": 3.0})
    assert evaluator.busy
    found = evaluator.poll(wait=True)
    assert found is not None
    assert (found.done, found.results["figure"], found.error) == (7, 3.0, "")
    assert found.seconds >= 0
    assert not evaluator.busy


def test_an_error_is_told_and_the_next_one_runs(
    evaluator: BackgroundThread[float], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(check: CancelCheck) -> dict[str, float]:
        raise ValueError("no such image")

    evaluator.start(1, broken)
    found = evaluator.poll(wait=True)
    assert found is not None
    assert (found.results, found.error) == ({}, "ValueError: no such image")
    assert "after 1 steps failed" in caplog.text
    evaluator.start(2, lambda check: {"figure": 1.0})
    again = evaluator.poll(wait=True)
    assert again is not None
    assert again.error == ""


def test_closing_ends_an_evaluation_at_its_next_batch() -> None:
    begun = threading.Event()

    def endless(check: CancelCheck) -> dict[str, float]:
        while True:
            check()
            begun.set()

    evaluator: BackgroundThread[float] = BackgroundThread(torch.device("cpu"), "evaluation")
    evaluator.start(1, endless)
    assert begun.wait(PATIENCE_S)
    evaluator.close()
    assert not any(thread.name.startswith("evaluation") for thread in threading.enumerate())


def products() -> tuple[torch.Tensor, int]:
    """Products large enough to be split over threads, and over how many."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(300, 300, generator=generator)
    for _ in range(10):
        x = torch.softmax(x @ x.T / 10, -1) @ x
    return x, torch.get_num_threads()


def test_sharing_the_cores_changes_no_bits(evaluator: BackgroundThread[float]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone, _ = products()
        inside: list[tuple[torch.Tensor, int]] = []

        def job(check: CancelCheck) -> dict[str, float]:
            inside.extend(products() for _ in range(3))
            return {}

        evaluator.start(1, job)
        beside = [products() for _ in range(3)]
        evaluator.poll(wait=True)
        assert [threads for _, threads in inside] == [2, 2, 2]
        assert all(torch.equal(alone, found) for found, _ in [*beside, *inside])
    finally:
        torch.set_num_threads(before)


def test_a_snapshot_stays_while_the_network_moves() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    copy = snapshot(network, runtime())
    assert copy is not None
    before = {name: value.clone() for name, value in copy.state_dict().items()}
    with torch.no_grad():
        for value in network.state_dict().values():
            value.add_(1)
    assert all(torch.equal(before[name], value) for name, value in copy.state_dict().items())
    assert network.training
    assert not copy.training
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_other_accelerators_leave_evaluation_to_the_host() -> None:
    devices = [evaluation_device(torch.device(name)).type for name in ("cpu", "cuda:0", "xla", "meta")]
    assert devices == ["cpu", "cuda", "cpu", "cpu"]
