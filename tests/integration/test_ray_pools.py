"""`tokenize` and `sample` on pools of Ray actors: the bytes of one process, whatever is lost on the way."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.contract import code
from components.contract.api import Artifact, Context
from components.engines.ray.pool import map_actors
from components.sample import component as sample
from components.tokenize import component as tokenize
from tests.support import tiny_artifacts
from tests.support.common import other_checkout
from tests.support.ingested import contents, digits_table, tiny_tokenizer
from tests.support.synthetic import context_of
from vim_core.config import AugmentConfig, SampleConfig, TokenizeConfig
from vim_core.errors import CodeError, DataError, VimError

AUGMENT = AugmentConfig(rotate_degrees=10.0, shift=0.1, flip=0.5)
BY_BEAM = TokenizeConfig(views=2, seed=5, augment=AUGMENT)
BY_RAY = TokenizeConfig(views=2, seed=5, augment=AUGMENT, engine="ray")
SAMPLES = {
    "fp32": SampleConfig(count=23, lanes=4, shards=4, guidance=1.5, guidance_schedule="cosine"),
    "bf16": SampleConfig(count=23, lanes=4, shards=4, guidance=1.5, precision="bf16"),
    "completing": SampleConfig(count=23, lanes=4, shards=4, prefix=0.5),
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cluster for both components: it takes seconds to start."""
    import ray

    from components.engines.ray.session import connect

    ctx = context_of(tmp_path_factory.mktemp("cluster"), "sample")
    ctx.run.workers = 2
    # Ray would put the current folder before all others.
    with contextlib.chdir(other_checkout(tmp_path_factory.mktemp("elsewhere"))):
        connect(ctx.run)
    yield
    ray.shutdown()


@pytest.fixture
def pool(tmp_path: Path, cluster: None) -> Context:
    """A context with two actors."""
    ctx = context_of(tmp_path / "pool", "pool")
    ctx.run.workers = 2
    return ctx


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("tables")
    return {"images": digits_table(root), "tokenizer": tiny_tokenizer(root)}


@pytest.fixture(scope="module")
def expected(tables: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The code files of Beam in memory."""
    ctx = context_of(tmp_path_factory.mktemp("beam"), "tokenize")
    tokenize.run(BY_BEAM, tables, ctx)
    return contents(ctx)


def test_ray_makes_beams_bytes(tables: dict[str, Artifact], expected: dict[str, bytes], pool: Context) -> None:
    outcome = tokenize.run(BY_RAY, tables, pool)
    assert contents(pool) == expected
    assert (pool.progress.done, pool.progress.total) == (6, 6)  # type: ignore[attr-defined]
    assert outcome.numeric == {"device": "cpu", "dtype": "fp32", "encode_batch": 7, "threads": 1}


def test_a_worker_of_another_code_is_refused(
    tables: dict[str, Artifact], pool: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "current", lambda: code.Code("/opt/vim", "0.0.1", "0123456789ab"))
    with pytest.raises(CodeError, match=r"runs another code \(.*\) than the command \(version 0\.0\.1, .*/opt/vim\)"):
        list(map_actors(OneActor, [], "double", [1], pool, {"num_cpus": 1}))


class OneActor:
    """An actor's class that does nothing."""

    def __init__(self, plan: Any) -> None:
        self.plan = plan

    def double(self, job: int) -> int:
        return 2 * job


@pytest.mark.slow
def test_ray_finishes_what_beam_began(tables: dict[str, Artifact], expected: dict[str, bytes], pool: Context) -> None:
    tokenize.run(BY_BEAM, tables, pool)
    files = sorted(Path(pool.work).rglob("*.parquet"))
    for path in files[1:4]:
        path.unlink()
    ages = {path: path.stat().st_mtime_ns for path in files if path.exists()}
    pool.out += "-again"
    tokenize.run(BY_RAY, tables, pool)
    assert contents(pool) == expected
    assert {path: path.stat().st_mtime_ns for path in ages} == ages
    assert any("3 of 6" in note for note in pool.progress.notes)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_lost_actor_comes_back_and_tokenizes_its_shard_again(
    tables: dict[str, Artifact], expected: dict[str, bytes], pool: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.tokenize import stages

    once = Path(pool.work, "killed")
    once.parent.mkdir(parents=True)

    class Mortal(stages.EncodeActor):
        def tokenize(self, shard: Any) -> str:
            if "train-00001" in shard.name and not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().tokenize(shard)

    monkeypatch.setattr(stages, "EncodeActor", Mortal)
    tokenize.run(BY_RAY, tables, pool)
    assert once.exists()
    assert contents(pool) == expected


@pytest.mark.slow
def test_the_error_of_an_actor_reaches_the_user(tables: dict[str, Artifact], tmp_path: Path, pool: Context) -> None:
    images = digits_table(tmp_path, limit=40, shards=2)
    Path(images.uri("images/train-00001-of-00002.parquet")).write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"^\S*train-00001-of-00002.parquet: not a whole Parquet file.*--force$"):
        tokenize.run(BY_RAY, {**tables, "images": images}, pool)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("models")
    tokenizer = tiny_artifacts.tokenizer(root)
    codes = tiny_artifacts.codes(root, tokenizer, {"train": np.arange(6) % 3, "test": np.arange(5) % 3})
    return {"tokenizer": tokenizer, "prior": tiny_artifacts.prior(root, tokenizer), "codes": codes}


def in_process(root: Path, models: dict[str, Artifact], config: SampleConfig) -> dict[str, bytes]:
    """The samples of one worker in this process."""
    ctx = context_of(root / "in-process", "sample")
    sample.run(config, models, ctx)
    return contents(ctx)


def test_two_workers_draw_the_bytes_of_one(models: dict[str, Artifact], tmp_path: Path, pool: Context) -> None:
    outcome = sample.run(SAMPLES["fp32"], models, pool)
    assert contents(pool) == in_process(tmp_path, models, SAMPLES["fp32"])
    assert outcome.metrics["images_per_s"] > 0
    assert (pool.progress.done, pool.progress.total) == (23, 23)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_lost_actor_comes_back_and_draws_its_group_again(
    models: dict[str, Artifact], tmp_path: Path, pool: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.sample import draw

    once = tmp_path / "killed"

    class Mortal(draw.GroupDrawer):
        def draw(self, group: Any) -> Any:
            if group.index == 3 and not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().draw(group)

    with monkeypatch.context() as patch:
        patch.setattr(draw, "GroupDrawer", Mortal)
        sample.run(SAMPLES["bf16"], models, pool)
    assert once.exists()
    assert contents(pool) == in_process(tmp_path, models, SAMPLES["bf16"])


@pytest.mark.slow
def test_shards_that_a_pool_finished_before_it_failed_are_kept(
    models: dict[str, Artifact], tmp_path: Path, pool: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.sample import draw

    class Broken(draw.GroupDrawer):
        def draw(self, group: Any) -> Any:
            if group.index == 5:
                raise RuntimeError("a bad lane")
            return super().draw(group)

    pool.run.workers = 1
    pool.run.ray_address = "local"  # connected already: an actor although it is the only one
    with monkeypatch.context() as patch:
        patch.setattr(draw, "GroupDrawer", Broken)
        with pytest.raises(VimError, match="pool: RuntimeError: a bad lane"):
            sample.run(SAMPLES["completing"], models, pool)
    ages = {path: path.stat().st_mtime_ns for path in Path(pool.work).rglob("*.parquet")}
    assert len(ages) == 3, "groups 0 to 4 are samples 0 to 19, and the last shard begins at 17"
    pool.out += "-again"
    pool.run.ray_address = ""
    sample.run(SAMPLES["completing"], models, pool)
    assert {path: path.stat().st_mtime_ns for path in ages} == ages
    assert contents(pool) == in_process(tmp_path, models, SAMPLES["completing"])
    assert "3 of 4 shards were finished by an earlier attempt" in pool.progress.notes  # type: ignore[attr-defined]
