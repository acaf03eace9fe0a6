"""A bucket that answers 403, 429 and 503, and loses answers: retries, refusals, and objects written once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from components.artifacts import execute, store
from components.contract import settings
from tests.support.common import CONF
from tests.support.fakes import reporting
from vim_core.errors import StorageError
from vim_core.storage import io

pytest.importorskip("gcsfs")
pytest.importorskip("gcp_storage_emulator")

from tests.support.gcs import FailingStore, Fault, emulated_gcs, failing

BUCKET = "shaky"


@pytest.fixture(scope="module")
def shaky() -> Iterator[FailingStore]:
    """A store behind a proxy; other tests' connections to theirs are left alone."""
    import fsspec
    import gcsfs

    with (
        emulated_gcs(BUCKET) as address,
        failing(address) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("STORAGE_EMULATOR_HOST", proxy.address)
        patch.setenv("FSSPEC_GS_TOKEN", "anon")
        patch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield proxy
        gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture
def uri(shaky: FailingStore) -> str:
    """A new address; nothing fails yet."""
    shaky.fail()
    return f"gs://{BUCKET}/{uuid4().hex}"


def test_a_busy_store_is_asked_again(shaky: FailingStore, uri: str) -> None:
    shaky.fail(Fault(503), Fault(429, retry_after=1))
    io.write_bytes(uri, b"kept")
    assert [line[-3:] for line in shaky.seen if line.startswith("POST")] == ["503", "429", "200"]
    shaky.fail(Fault(503, "GET", uri.rsplit("/", 1)[1]))
    assert io.read_bytes(uri) == b"kept"
    assert shaky.left() == 0


ACTS: dict[str, Callable[[str], object]] = {
    "write": lambda uri: io.write_bytes(uri, b"x"),
    "create": lambda uri: io.create_exclusive(uri, b"x"),
    "read": io.read_bytes,
}


@pytest.mark.parametrize("act", ACTS)
def test_a_forbidden_act_fails_at_once(shaky: FailingStore, uri: str, act: str) -> None:
    shaky.fail(Fault(403, times=9), Fault(403, "GET", times=9))
    with pytest.raises(StorageError, match=rf"{uri}.* refuses this account .*Storage Object Admin"):
        ACTS[act](uri)
    assert len([line for line in shaky.seen if line.endswith("403")]) == 1


def test_one_of_many_writers_wins(shaky: FailingStore, uri: str) -> None:
    """Also where some of them are asked to come again later."""
    shaky.fail(Fault(503, times=3))
    writers = [f"writer {number}".encode() for number in range(6)]
    with ThreadPoolExecutor(len(writers)) as pool:
        won = list(pool.map(lambda data: io.create_exclusive(uri, data), writers))
    assert sum(won) == 1
    assert io.read_bytes(uri) == writers[won.index(True)]
    assert shaky.left() == 0
    assert any(line.endswith("412") for line in shaky.seen)


def test_a_writer_whose_answer_got_lost_knows_that_it_won(shaky: FailingStore, uri: str) -> None:
    shaky.fail(Fault(503, after=True))
    assert io.create_exclusive(uri, b"mine")
    assert [line[-3:] for line in shaky.seen if line.startswith("POST")] == ["503", "412"]
    assert not io.create_exclusive(uri, b"another's")
    assert io.read_bytes(uri) == b"mine"


@pytest.mark.slow
def test_a_component_finishes_on_a_store_that_fails_now_and_then(shaky: FailingStore, uri: str, root: str) -> None:
    """The same images as on a calm disk, although an upload, a look and the commit's own answer fail on the way."""
    words = ["ingest.limit=40", "ingest.shards=2"]
    calm = execute.execute("ingest", settings.load(str(CONF / "smoke.yaml"), [*words, f"run.root={root}"]), reporting())
    shaky.fail(Fault(503, match="images"), Fault(429, "GET"), Fault(503, match="manifest.json", after=True))
    rough = execute.execute("ingest", settings.load(str(CONF / "smoke.yaml"), [*words, f"run.root={uri}"]), reporting())
    assert shaky.left() == 0
    assert rough.artifact.manifest.digest == calm.artifact.manifest.digest
    store.verify(rough.artifact)
