"""The reference file of `statistics` from a remote store, and what is taken from it."""

from __future__ import annotations

import hashlib
import io as stdio
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from components.statistics import component as statistics
from tests.support.synthetic import context_of
from vim_core.config import StatisticsConfig
from vim_core.errors import DataError
from vim_core.metrics.frechet import Moments

URI = "memory://references/fid.npz"


@pytest.fixture
def remote() -> Iterator[bytes]:
    stream = stdio.BytesIO()
    np.savez(stream, arr_0=np.zeros((3, 4, 4, 3), np.uint8), mu=np.zeros(2), sigma=np.eye(2))
    fsspec.filesystem("memory").pipe_file("/references/fid.npz", stream.getvalue())
    yield stream.getvalue()
    fsspec.filesystem("memory").rm("/references", recursive=True)


def test_a_remote_file_is_read_and_its_state_follows_it(remote: bytes) -> None:
    digest = hashlib.sha256(remote).hexdigest()
    found = statistics.read_reference_file(StatisticsConfig(reference=URI, reference_sha256=digest[:10]))
    assert found is not None
    assert (found.sha256, found.images) == (digest, (3, 4, 4, 3))
    first = statistics.source_state(StatisticsConfig(reference=URI))
    assert first.startswith(str(len(remote)))
    fsspec.filesystem("memory").pipe_file("/references/fid.npz", remote + b"x")
    assert statistics.source_state(StatisticsConfig(reference=URI)) != first
    with pytest.raises(DataError, match=r"statistics\.reference='memory://references/none\.npz': no such file"):
        statistics.source_state(StatisticsConfig(reference="memory://references/none.npz"))


def test_images_are_measured_only_where_something_needs_them(remote: bytes) -> None:
    plain = StatisticsConfig(reference=URI)
    found = statistics.read_reference_file(plain)
    assert found is not None
    assert not statistics.needs_measuring(plain, found)
    assert statistics.needs_measuring(StatisticsConfig(reference=URI, features=8), found)
    assert statistics.read_reference_file(StatisticsConfig()) is None


def test_spatial_statistics_go_into_the_reference_or_are_measured(remote: bytes, tmp_path: Path) -> None:
    wanted = StatisticsConfig(network="inception", reference=URI, spatial=True)
    found = statistics.read_reference_file(wanted)
    assert found is not None
    assert statistics.needs_measuring(wanted, found)
    measured = {"spatial": Moments.from_batch(np.random.default_rng(0).normal(size=(9, 3)))}
    context = context_of(tmp_path, "statistics")
    statistics.write_reference_file(wanted, context, found, measured, 2)
    with np.load(context.path("reference.npz")) as file:
        np.testing.assert_array_equal(file["mu"], np.zeros(2))
        np.testing.assert_array_equal(file["sigma_s"], measured["spatial"].covariance)
