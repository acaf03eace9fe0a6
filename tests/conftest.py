"""Shared fixtures: everything a test writes lies in a temporary folder, numeric libraries use one thread."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support import smoke
from tests.support.common import CONF, PASSIVE, SERIAL, SilentProgress, SilentTracker
from tests.support.smoke import SmokeRun

__all__ = ["SmokeRun"]

BUCKET = "vim-tests"
LONG = ("test_interruptions.py", "test_submit.py", "test_readme.py", "test_kill_resume.py", "test_mlflow_away.py")

for _name in SERIAL:  # read by the libraries when they are first imported
    os.environ[_name] = "1"
os.environ |= PASSIVE
# Background jobs of a shell ignore SIGINT; Dagster makes SIGTERM do what SIGINT does, and child processes inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no reason to fail. Every run tries the same examples; `--hypothesis-profile random` tries others,
# and more of them.
hypothesis.settings.register_profile("random", deadline=None)
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Name the folder in which the processes of this session share one run of the `smoke` preset."""
    if not hasattr(config, "workerinput") and not os.environ.get(smoke.FOLDER):
        folder = tempfile.TemporaryDirectory(prefix="vim-smoke-")
        config.add_cleanup(folder.cleanup)
        os.environ[smoke.FOLDER] = folder.name


@pytest.hookimpl(trylast=True)  # after tests of other markers are gone
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of minutes come first, so that two processes end together, and those that look at the smoke run last.

    The first of these makes the run, beside files that do not look at it.
    """
    files = [item.path for item in items if "smoke_run" in getattr(item, "fixturenames", ())]
    turn = dict.fromkeys(files, 2) | dict.fromkeys(files[:1], 0)
    turn |= {item.path: LONG.index(item.path.name) - len(LONG) for item in items if item.path.name in LONG}
    items.sort(key=lambda item: turn.get(item.path, 1))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Spare the garbage collector the modules and the tests, which live until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _private_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep home folder, artifact root and service state of this session away from the user's."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setenv("VIM_ROOT", str(home / "artifacts"))
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("DAGSTER_DISABLE_TELEMETRY", "yes")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        for name in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """One torch thread in tests that use torch; the variable alone does not bind every build of it."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture
def root(tmp_path: Path) -> str:
    """An artifact root of this test's own."""
    return str(tmp_path / "root")


@pytest.fixture(scope="session")
def gcs(_private_state: None) -> Iterator[str]:
    """A bucket of an emulated Google Cloud Storage, for this process and those it starts."""
    for module in ("gcsfs", "gcp_storage_emulator"):
        pytest.importorskip(module)
    import fsspec

    from tests.support.gcs import emulated_gcs

    with (
        emulated_gcs(BUCKET) as address,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        # Of other processes; this one has read its settings already.
        patch.setenv("FSSPEC_GS_TOKEN", "anon")
        patch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
        yield f"gs://{BUCKET}"


@pytest.fixture(params=["memory", "gs"])
def remote(request: pytest.FixtureRequest) -> Iterator[str]:
    """A new folder in memory, and in a bucket."""
    with _remote(request.param, request) as uri:
        yield uri


@pytest.fixture(params=["local", "memory", "gs"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new folder on disk, in memory, and in a bucket: what holds for one holds for all."""
    if request.param == "local":
        yield str(tmp_path / "anywhere")
        return
    with _remote(request.param, request) as uri:
        yield uri


@contextlib.contextmanager
def _remote(kind: str, request: pytest.FixtureRequest) -> Iterator[str]:
    from vim_core.storage import io

    base = "memory://tests" if kind == "memory" else request.getfixturevalue("gcs")
    uri = f"{base}/{uuid.uuid4().hex}"
    yield uri
    io.remove_tree(uri)


@pytest.fixture
def smoke_config(root: str) -> Any:
    """The `smoke` preset with its root in a temporary folder (a `PipelineConfig`)."""
    from components.contract import settings

    return settings.load(str(CONF / "smoke.yaml"), [f"run.root={root}", "run.system_metrics=false"])


@pytest.fixture
def make_context(root: str, smoke_config: Any) -> Callable[..., Any]:
    """A factory of `Context`: `make_context("ingest")`, with silent progress and tracker, folders below `root`."""
    from components.contract.api import Context

    def make(name: str, fingerprint: str = "0" * 20, pipeline: Any = None) -> Context:
        config = pipeline or smoke_config
        work, out = Path(root, ".work", name, fingerprint), Path(root, name, fingerprint, "data-test")
        work.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        return Context(
            name=name,
            fingerprint=fingerprint,
            work=str(work),
            out=str(out),
            run=config.run,
            pipeline=config,
            progress=SilentProgress(),
            tracker=SilentTracker(),
        )

    return make


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real images and schemas that `VIM_TEST_DATA` names."""
    folder = os.environ.get("VIM_TEST_DATA", "")
    if not folder:
        pytest.skip("VIM_TEST_DATA is not set: no real images and schemas to test with")
    path = Path(folder)
    assert path.is_dir(), f"VIM_TEST_DATA={folder} is not a folder"
    return path


@pytest.fixture(scope="session")
def smoke_run(_private_state: None, tmp_path_factory: pytest.TempPathFactory) -> SmokeRun:
    """The whole `smoke` preset, run once through the real command; its root is this session's own."""
    return smoke.provide(tmp_path_factory.mktemp("smoke"))
