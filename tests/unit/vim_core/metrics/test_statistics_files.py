"""Statistics files tell their own kind and merge to those of any subset or union."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vim_core.errors import DataError
from vim_core.metrics import npz, statistics_files
from vim_core.metrics.inception_score import ScoreSums
from vim_core.metrics.moments import Moments
from vim_core.metrics.precision_recall import FeatureSample
from vim_core.storage import io


def statistics(rows: np.ndarray, keys: np.ndarray) -> list[object]:
    features = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)[rows]
    return [
        Moments.from_batch(features),
        ScoreSums.from_batch(features, keys % 2, 2),
        FeatureSample.from_batch(features, keys.astype(np.uint64), 7),
    ]


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_files_of_any_subset_merge_to_the_whole(tmp_path: Path, kind: int) -> None:
    uris = []
    for index, rows in enumerate(np.array_split(np.arange(60), 5)):
        uris.append(str(tmp_path / f"{index}.npz"))
        io.write_bytes(uris[-1], statistics(rows, rows)[kind].to_bytes())  # type: ignore[attr-defined]
    chosen = np.concatenate([np.arange(12), np.arange(24, 48)])
    found = statistics_files.merged([uris[0], *uris[2:4]])
    expected = statistics(chosen, chosen)[kind]
    assert type(found) is type(expected)
    a, b = (np.load(_file(tmp_path, name, part)) for name, part in (("a", found), ("b", expected)))
    for name in b:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-10, atol=1e-12)


def _file(folder: Path, name: str, part: object) -> str:
    io.write_bytes(str(folder / f"{name}.npz"), part.to_bytes())  # type: ignore[attr-defined]
    return str(folder / f"{name}.npz")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a statistics file"):
        statistics_files.from_bytes(b"text")
    with pytest.raises(DataError, match="arrays: mu"):
        statistics_files.from_bytes(npz.pack(mu=np.zeros(3)))
    with pytest.raises(DataError, match="no statistics files"):
        statistics_files.merged([])
    rows = np.arange(9)
    made = statistics(rows, rows)
    uris = [_file(tmp_path, str(index), part) for index, part in enumerate(made)]
    with pytest.raises(DataError, match="holds ScoreSums, the files before it Moments"):
        statistics_files.merged(uris)
