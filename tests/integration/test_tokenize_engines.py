"""Every engine and runner makes the same bytes: Beam in memory, over gRPC, translated for Dataflow, and Ray."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.contract.api import Artifact, Context
from components.tokenize import component as tokenize
from tests.support.ingested import contents, digits_table, tiny_tokenizer
from tests.support.synthetic import context_of
from vim_core.config import AugmentConfig, TokenizeConfig
from vim_core.errors import DataError

AUGMENT = AugmentConfig(rotate_degrees=10.0, shift=0.1, flip=0.5)
CONFIG = TokenizeConfig(views=2, seed=5, augment=AUGMENT)
BY_RAY = TokenizeConfig(views=2, seed=5, augment=AUGMENT, engine="ray")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("inputs")
    return {"images": digits_table(root), "tokenizer": tiny_tokenizer(root)}


@pytest.fixture(scope="module")
def expected(inputs: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What Beam makes in memory."""
    ctx = context_of(tmp_path_factory.mktemp("beam"), "tokenize")
    tokenize.run(CONFIG, inputs, ctx)
    return contents(ctx)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import ray

    from components.engines.ray.session import connect

    ctx = context_of(tmp_path_factory.mktemp("cluster"), "tokenize")
    ctx.run.workers = 2
    connect(ctx.run)
    yield
    ray.shutdown()


@pytest.fixture
def by_ray(tmp_path: Path, cluster: None) -> Context:
    ctx = context_of(tmp_path, "tokenize")
    ctx.run.workers = 2
    return ctx


def test_ray_makes_beams_bytes(inputs: dict[str, Artifact], expected: dict[str, bytes], by_ray: Context) -> None:
    outcome = tokenize.run(BY_RAY, inputs, by_ray)
    assert contents(by_ray) == expected
    assert (by_ray.progress.done, by_ray.progress.total) == (6, 6)  # type: ignore[attr-defined]
    assert outcome.numeric == {"device": "cpu", "dtype": "fp32", "encode_batch": 7, "threads": 1}


def test_what_beam_began_ray_ends(inputs: dict[str, Artifact], expected: dict[str, bytes], by_ray: Context) -> None:
    tokenize.run(CONFIG, inputs, by_ray)
    files = sorted(Path(by_ray.work).rglob("*.parquet"))
    for path in files[1:4]:
        path.unlink()
    ages = {path: path.stat().st_mtime_ns for path in files if path.exists()}
    by_ray.out += "-again"
    tokenize.run(BY_RAY, inputs, by_ray)
    assert contents(by_ray) == expected
    assert {path: path.stat().st_mtime_ns for path in ages} == ages
    assert any("3 of 6" in note for note in by_ray.progress.notes)  # type: ignore[attr-defined]


def test_a_lost_actor_comes_back(
    inputs: dict[str, Artifact], expected: dict[str, bytes], by_ray: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.tokenize import ray_engine

    once = Path(by_ray.work, "killed")
    once.parent.mkdir(parents=True)

    class Mortal(ray_engine.EncodeActor):
        def tokenize(self, shard: Any) -> str:
            if "train-00001" in shard.name and not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().tokenize(shard)

    monkeypatch.setattr(ray_engine, "EncodeActor", Mortal)
    tokenize.run(BY_RAY, inputs, by_ray)
    assert once.exists()
    assert contents(by_ray) == expected


def test_the_error_of_an_actor_is_the_users(inputs: dict[str, Artifact], tmp_path: Path, by_ray: Context) -> None:
    images = digits_table(tmp_path, limit=40, shards=2)
    Path(images.uri("images/train-00001-of-00002.parquet")).write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"^\S*train-00001-of-00002.parquet: not a whole Parquet file.*--force$"):
        tokenize.run(BY_RAY, {**inputs, "images": images}, by_ray)


def test_a_job_server_with_loopback_workers_makes_the_same_bytes(
    inputs: dict[str, Artifact], expected: dict[str, bytes], tmp_path: Path
) -> None:
    from apache_beam.runners.portability.local_job_service import LocalJobServicer

    server = LocalJobServicer()
    port = server.start_grpc_server(0)
    try:
        ctx = context_of(tmp_path, "tokenize")
        ctx.run.beam_runner = "PortableRunner"
        ctx.run.beam_options = [f"--job_endpoint=localhost:{port}", "--environment_type=LOOPBACK"]
        tokenize.run(CONFIG, inputs, ctx)
    finally:
        server.stop()
    assert contents(ctx) == expected
