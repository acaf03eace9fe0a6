"""`score` through Beam's local runner: the same figures as in one process, resumed shards, errors as they were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from components import score
from components.scoring import parts
from tests.synthetic import artifact, context_of, everything, image_files, inputs_of, pictures, rows, tables
from vim_core.config import ScoreConfig
from vim_core.errors import DataError

CONFIG = ScoreConfig(usage_batch=4, batch=5)


def test_beam_gives_the_figures_of_one_process(tmp_path: Path) -> None:
    inputs = inputs_of(score.INPUTS, everything(tmp_path))
    through_beam = context_of(tmp_path / "beam", "score")
    outcome = score.run(CONFIG, inputs, through_beam)
    alone = context_of(tmp_path / "alone", "score")
    for job in score.jobs_of(CONFIG, inputs, alone):
        parts.measure(job)
    assert score.run(CONFIG, inputs, alone).metrics == outcome.metrics
    for name in ("scores.json", "reconstructions.parquet", "moments/samples.npz"):
        assert Path(through_beam.path(name)).read_bytes() == Path(alone.path(name)).read_bytes()
    table = pq.read_table(through_beam.path("reconstructions.parquet"))
    assert np.mean(table["psnr_db"].to_numpy()) == pytest.approx(outcome.metrics["psnr_db"])
    assert (through_beam.progress.done, through_beam.progress.total) == (4, 4)  # type: ignore[attr-defined]


def test_finished_shards_are_not_scored_again(tmp_path: Path) -> None:
    inputs = inputs_of(score.INPUTS, tables(tmp_path))
    ctx = context_of(tmp_path, "score")
    first = score._pairs(CONFIG, inputs, ctx)[0]
    parts.measure(first)
    record = parts.load(first.result) | {"psnr_db": [1.0] * 6}
    Path(f"{first.result}.json").write_text(json.dumps(record))
    score.run(CONFIG, inputs, ctx)
    values = pq.read_table(ctx.path("reconstructions.parquet"))["psnr_db"].to_pylist()
    assert values[:6] == [1.0] * 6
    assert min(values[6:]) > 10


def test_an_error_in_a_shard_comes_out_as_it_was(tmp_path: Path) -> None:
    made = tables(tmp_path)
    strange = rows([f"other-{i}" for i in range(12)], [0] * 12, pictures(12, 0))
    made["reconstruct"] = artifact(
        tmp_path / "other",
        "reconstruct",
        image_files("test", strange, 2),
        {"images": made["ingest"]},
        config={"limit": 0},
        properties=made["reconstruct"].properties,
    )
    ctx = context_of(tmp_path, "score")
    with pytest.raises(DataError, match=r"'other-[01]', which is not in the originals: run reconstruct again"):
        score.run(CONFIG, inputs_of(score.INPUTS, made), ctx)
