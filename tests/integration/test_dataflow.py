"""Dataflow without Dataflow: the template's entry point translates the pipeline, and Beam's own checks pass."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from apache_beam.runners.portability.fn_api_runner import translations

from components.artifacts import execute
from components.contract.api import Artifact
from components.engines import beam
from components.tokenize import component as tokenize
from tests.support.common import REPOSITORY
from tests.support.ingested import contents, digits_table, tiny_tokenizer
from tests.support.synthetic import context_of
from vim_core.config import AugmentConfig, TokenizeConfig
from vim_core.errors import ConfigError, DataError

INFRA = REPOSITORY / "infra" / "dataflow"
IMAGE = "us-docker.pkg.dev/some-project/vim/vim:1"
FLAGS = [
    "--runner=DataflowRunner",
    "--project=some-project",
    "--region=us-central2",
    "--job_name=vim-tokenize",
    "--temp_location=gs://some-bucket/temp",
    "--staging_location=gs://some-bucket/staging",
    f"--sdk_container_image={IMAGE}",
    "--dry_run=true",
    "--no_auth",
]


def launch() -> Any:
    """The entry point as a module; nothing imports infra."""
    spec = importlib.util.spec_from_file_location("launch", INFRA / "launch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("inputs")
    return {"images": digits_table(root), "tokenizer": tiny_tokenizer(root)}


@pytest.fixture
def prepared(inputs: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher finds its inputs without a bucket."""
    request = SimpleNamespace(inputs=inputs, work="memory://some-bucket/vim/.work/tokenize/abc")
    monkeypatch.setattr(execute, "prepare", lambda name, config: request)


def started(*more: str) -> Any:
    """The job that the template would submit."""
    words = ["--preset=smoke", "--root=gs://some-bucket/vim", "--overrides=tokenize.views=3", *FLAGS, *more]
    return launch().main(words).job


def test_the_translated_pipeline_runs_our_image_and_is_small(prepared: None) -> None:
    job = started("--max_num_workers=20")
    pipeline = job.proto_pipeline
    images = {env.payload for env in pipeline.components.environments.values()}
    assert all(IMAGE.encode() in payload for payload in images)
    staged = [each for env in pipeline.components.environments.values() for each in env.dependencies]
    found = [each.role_payload + each.type_payload for each in staged]
    assert all(b"submission_environment_dependencies.txt" in name for name in found), found
    names = {transform.unique_name for transform in pipeline.components.transforms.values()}
    assert {"decode", "encode", "write", "spread"} <= names
    assert pipeline.ByteSize() < 100_000
    options = job.options.get_all_options()
    assert (options["project"], options["region"], options["max_num_workers"]) == ("some-project", "us-central2", 20)


def test_the_three_stages_are_one_to_a_runner(prepared: None) -> None:
    """Fusion leaves no shuffle between them: pixels stay in memory and a shard is written when it is encoded."""
    pipeline = started().proto_pipeline
    phases = [translations.expand_sdf, translations.expand_gbk, translations.greedily_fuse, translations.sort_stages]
    _, stages = translations.create_and_optimize_stages(pipeline, phases, known_runner_urns=frozenset())
    parts = [{transform.unique_name for transform in stage.transforms} for stage in stages]
    (fused,) = [names for names in parts if "decode" in names]
    assert {"decode", "encode/BeamML_RunInference", "write"} <= fused, parts


def test_bad_flags_end_before_anything_is_submitted(prepared: None) -> None:
    with pytest.raises(ConfigError, match="Beam knows no --max_workers"):
        started("--max_workers=3")
    with pytest.raises(ConfigError, match=r"run\.beam_options=.*Invalid GCP project|nvalid Project"):
        started("--project=Some Project")


def test_shards_that_a_job_left_become_the_artifact(
    inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, ctx = context_of(tmp_path / "whole", "tokenize"), context_of(tmp_path, "tokenize")
    config = TokenizeConfig(views=2, augment=AugmentConfig(flip=0.5))
    outcome = tokenize.run(config, inputs, whole)
    tokenize.start(config, inputs, ctx.run, ctx.work).wait_until_finish()
    monkeypatch.setattr(beam, "run_pipeline", lambda *_: pytest.fail("everything was finished"))
    assert tokenize.start(config, inputs, ctx.run, ctx.work) is None
    assert tokenize.run(config, inputs, ctx) == outcome
    assert contents(ctx) == contents(whole)


def test_the_launcher_reads_the_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tokenize needs the output of ingest"):
        launch().main(["--preset=smoke", f"--root=memory://{tmp_path.name}", *FLAGS])


def test_the_template_offers_what_the_entry_point_takes() -> None:
    offered = {each["name"]: each for each in json.loads((INFRA / "metadata.json").read_text())["parameters"]}
    text = (INFRA / "launch.py").read_text()
    taken = set(re.findall(r'add_argument\("--(\w+)"', text))
    assert taken | {"sdk_container_image"} == set(offered)
    for name, each in offered.items():
        required = name == "sdk_container_image" or f'"--{name}", required=True' in text
        assert bool(each.get("isOptional")) is not required, name
    assert re.match(offered["root"]["regexes"][0], "gs://bucket/vim")


def test_the_image_has_the_locked_beam_and_names_the_entry_point() -> None:
    text = (INFRA / "Dockerfile").read_text()
    locked = re.search(r"^apache-beam==(\S+)", (REPOSITORY / "infra/constraints.txt").read_text(), re.MULTILINE)
    assert locked is not None
    assert f"beam_python3.11_sdk:{locked[1]}\n" in text
    place = re.search(r"FLEX_TEMPLATE_PYTHON_PY_FILE=/opt/vim/(\S+)", text)
    assert place is not None
    assert (REPOSITORY / place[1]).samefile(INFRA / "launch.py")
