"""`score` through Beam's local runner: the same figures as in one process, resumed shards, errors as they were."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import lpips
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.vgg import cfgs, make_layers

from components.score import component as score
from components.score import partition
from components.score.measure import measure
from components.score.partition import image_sets
from components.score.shards import read_record
from tests.support.synthetic import artifact, context_of, everything, image_files, inputs_of, pictures, rows, tables
from tests.unit.components.score.test_neighbours import flow
from tests.unit.vim_core.losses.test_perceptual import skip_initialisation
from vim_core.config import ScoreConfig
from vim_core.data.image_tables import ImageTable
from vim_core.data.images import decode, to_tensor
from vim_core.errors import DataError

NAMES = ("ingest", "reconstruct")
CONFIG = ScoreConfig(usage_batch=4, batch=5)


def test_beam_gives_the_figures_of_one_process(tmp_path: Path) -> None:
    inputs = inputs_of(score.INPUTS, everything(tmp_path))
    through_beam = context_of(tmp_path / "beam", "score")
    outcome = score.run(CONFIG, inputs, through_beam)
    alone = context_of(tmp_path / "alone", "score")
    for shard in partition.make_shards(CONFIG, inputs, alone, image_sets(CONFIG, inputs, alone)):
        measure(shard)
    assert score.run(CONFIG, inputs, alone).metrics == outcome.metrics
    for name in ("scores.json", "reconstructions.parquet", "moments/samples.npz"):
        assert Path(through_beam.path(name)).read_bytes() == Path(alone.path(name)).read_bytes()
    table = pq.read_table(through_beam.path("reconstructions.parquet"))
    assert np.mean(table["psnr_db"].to_numpy()) == pytest.approx(outcome.metrics["psnr_db"])
    assert (through_beam.progress.done, through_beam.progress.total) == (6, 6)  # type: ignore[attr-defined]


def test_finished_shards_are_not_scored_again(tmp_path: Path) -> None:
    inputs = inputs_of(score.INPUTS, tables(tmp_path))
    ctx = context_of(tmp_path, "score")
    first = partition.reconstruction_shards(CONFIG, inputs, ctx)[0]
    measure(first)
    record = read_record(first.result) | {"psnr_db": [1.0] * 6}
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


def test_the_nearest_training_images_are_sought_in_beam(tmp_path: Path) -> None:
    made = flow(tmp_path, (3, 7))
    ctx = context_of(tmp_path, "score")
    config = ScoreConfig(usage_batch=4, floor=False, groups=0, neighbours=20)
    score.run(config, inputs_of(score.INPUTS, made), ctx)
    table = pq.read_table(ctx.path("neighbours.parquet")).to_pylist()
    nearest = {row["key"]: row["train_key"] for row in table if row["rank"] == 1}
    assert (nearest["sample-003"], nearest["sample-007"]) == ("train-006", "train-014")


def test_lpips_is_the_package_s_on_the_weights_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    skip_initialisation(monkeypatch)
    layers = make_layers(cfgs["D"])
    for value in layers.parameters():
        torch.nn.Parameter.normal_(value.data, std=0.05)
    uri = tmp_path / "vgg16.safetensors"
    save_file({f"features.{name}": value for name, value in layers.state_dict().items()}, uri)
    digest = hashlib.sha256(uri.read_bytes()).hexdigest()
    made = tables(tmp_path)
    ctx = context_of(tmp_path, "score")
    config = ScoreConfig(usage_batch=4, lpips=True, lpips_weights=str(uri), lpips_sha256=digest[:12])
    outcome = score.run(config, inputs_of(score.INPUTS, made), ctx)
    network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    network.net.load_state_dict(dict(zip(network.net.state_dict(), layers.state_dict().values(), strict=True)))
    sides = [[decode(row.image) for row in ImageTable(made[name].uris("images/test-"))] for name in NAMES]
    x, y = (to_tensor(np.stack(images)) * 2 - 1 for images in sides)
    with torch.inference_mode():
        expected = network(x, y).flatten().numpy()
    table = pq.read_table(ctx.path("reconstructions.parquet"))
    np.testing.assert_allclose(table["lpips"].to_numpy(), expected, rtol=1e-4)
    assert outcome.metrics["lpips"] == pytest.approx(expected.mean(), rel=1e-4)
    assert outcome.metrics["lpips_low"] < outcome.metrics["lpips"] < outcome.metrics["lpips_high"]
    assert digest[:12] in outcome.protocols["lpips"]["notes"]
    wrong = ScoreConfig(usage_batch=4, lpips=True, lpips_weights=str(uri))
    with pytest.raises(DataError, match="397923af"):
        score.run(wrong, inputs_of(score.INPUTS, made), context_of(tmp_path / "wrong", "score"))
