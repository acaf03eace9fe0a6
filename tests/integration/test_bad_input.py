"""Bad input gets one clear line or a dead-letter entry, and nothing half-written is taken for finished."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import SmokeRun
from tests.support.common import CONF, Finished, file_of, manifest, vimctl


def picture(seed: int, kind: str = "PNG") -> bytes:
    """An encoded 32x32 image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two classes with twenty good images each."""
    folder = tmp_path / "photos"
    for index, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            (folder / name / f"{number:02}.png").write_bytes(picture(100 * index + number))
    return folder


def ingest(photos: Path, root: str, *settings: str) -> Finished:
    """`vimctl run ingest` on a folder; failures come back instead of being raised."""
    source = f"ingest.source={photos}"
    given = [source, "run.tracking_uri=off", *settings]
    return vimctl("run", "ingest", "--preset", "smoke", *given, root=root, check=False)


def dead_letters(root: str) -> list[dict[str, Any]]:
    """The rows of the committed dead-letter table."""
    import pyarrow.parquet as pq

    path = file_of(root, manifest(root, "ingest"), "dead_letter.parquet")
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def assert_refused(finished: Finished, root: str | Path, *words: str) -> None:
    """It failed with one line for people that holds the words, and committed nothing."""
    assert finished.code != 0
    assert "Traceback" not in finished.text
    lines = [line for line in finished.err.splitlines() if all(word in line for word in words)]
    assert len(lines) == 1, f"no single line with {words} in:\n{finished.text}"
    assert list(Path(root).glob("*/*/manifest.json")) == []
    assert list(Path(root).glob("*/*/data-*")) == []


def test_unreadable_files_go_to_the_dead_letters(photos: Path, root: str) -> None:
    """A text file that calls itself an image, one that does not, a truncated JPEG, an empty file."""
    bad = {
        "cat/notes.png": b"not an image at all\n",
        "dog/README.txt": b"remember to label these\n",
        "cat/cut.jpg": picture(7, "JPEG")[:-200],
        "dog/empty.png": b"",
    }
    for name, content in bad.items():
        (photos / name).write_bytes(content)
    finished = ingest(photos, root, "ingest.max_bad_share=0.1")
    assert finished.code == 0, finished.text
    letters = dead_letters(root)
    assert {letter["source"] for letter in letters} == set(bad)
    assert all(letter["reason"] for letter in letters)
    metrics = manifest(root, "ingest")["metrics"]
    assert metrics["dead_letter"] == len(bad)
    assert metrics["train"] + metrics["test"] == 40, "the good images are all there"


@pytest.mark.slow
def test_too_many_bad_images_fail_with_the_first_reasons(photos: Path, root: str) -> None:
    for number in range(5):
        (photos / "cat" / f"bad-{number}.png").write_bytes(b"nothing")
    assert_refused(ingest(photos, root, "ingest.max_bad_share=0.05"), root, "bad-0.png", "ingest.max_bad_share")


@pytest.mark.slow
def test_a_label_outside_the_classes(photos: Path, root: str) -> None:
    finished = ingest(photos, root, "ingest.classes=[cat]", "ingest.max_bad_share=0.01")
    assert_refused(finished, root, "dog")


def test_a_missing_folder_is_named(root: str, tmp_path: Path) -> None:
    assert_refused(ingest(tmp_path / "nowhere", root), root, "nowhere")


def test_a_typo_in_a_key_names_the_nearest(root: str) -> None:
    finished = vimctl("run", "--preset", "smoke", "prior.dropot=0.2", root=root, check=False)
    assert_refused(finished, root, "prior.dropot", "prior.dropout")
    assert len(finished.err.strip().splitlines()) == 1


def test_a_value_of_the_wrong_type_is_named(root: str) -> None:
    finished = vimctl("run", "--preset", "smoke", "prior.steps=many", root=root, check=False)
    assert_refused(finished, root, "prior.steps", "many")
    assert len(finished.err.strip().splitlines()) == 1


def test_an_unknown_preset_lists_those_there_are(root: str) -> None:
    finished = vimctl("run", "--preset", "smok", root=root, check=False)
    assert_refused(finished, root, "smok", "smoke")


def test_an_unwritable_root(tmp_path: Path) -> None:
    """A folder below a file cannot be made by anyone, not even by root."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    finished = vimctl("run", "--preset", "smoke", f"run.root={blocked}/root", root=tmp_path / "x", check=False)
    assert_refused(finished, tmp_path / "x", str(blocked))
    assert blocked.read_text() == "in the way"


def committed(smoke_run: SmokeRun, *names: str) -> list[Any]:
    """Artifacts of the session's pipeline run."""
    from components.artifacts import execute
    from components.contract import settings

    config = settings.load(str(CONF / "smoke.yaml"), [f"run.root={smoke_run.root}"])
    found = [execute.find(name, config) for name in names]
    assert all(found)
    return found


def other(artifact: Any) -> Any:
    """The same artifact as if another training had made it, with another encoder: only digests differ."""
    properties = artifact.manifest.properties | {"encoder": "e" * 64}
    return dataclasses.replace(
        artifact, manifest=dataclasses.replace(artifact.manifest, digest="f" * 64, properties=properties)
    )


@pytest.mark.parametrize(
    ("name", "inputs", "swapped"),
    [
        ("prior", {"codes": "tokenize", "tokenizer": "quantize"}, "tokenizer"),
        ("sample", {"prior": "prior", "tokenizer": "quantize"}, "tokenizer"),
    ],
)
def test_codes_of_another_tokenizer_are_refused(
    smoke_run: SmokeRun, make_context: Callable[..., Any], name: str, inputs: dict[str, str], swapped: str
) -> None:
    from components.contract import registry
    from vim_core.errors import LineageError

    artifacts = dict(zip(inputs, committed(smoke_run, *inputs.values()), strict=True))
    artifacts[swapped] = other(artifacts[swapped])
    context = make_context(name)
    with pytest.raises(LineageError) as refusal:
        registry.component(name).run(getattr(context.pipeline, name), artifacts, context)
    assert "f" * 8 in str(refusal.value), "the message names the tokenizer that was given"
    assert "\n" not in str(refusal.value)
    assert list(Path(context.out).iterdir()) == []
