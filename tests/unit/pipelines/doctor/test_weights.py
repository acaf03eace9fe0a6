"""Files that a preset names: there, and the ones that are meant."""

from __future__ import annotations

import copy
import hashlib
import operator
from functools import cache
from pathlib import Path

import pytest

from pipelines import presets
from pipelines.doctor import weights
from pipelines.doctor.checks import FAIL, OK, WARN, Result, Target
from vim_core.config import PipelineConfig
from vim_core.storage import io

PRESET = "imagenet256_large_rejection"


@cache
def load(preset: str) -> PipelineConfig:
    return presets.load(preset, [])


def looked_at(settings: dict[str, object] | None = None, preset: str = PRESET) -> dict[str, Result]:
    """Results by check, with settings by their dotted keys changed."""
    config = copy.deepcopy(load(preset))
    for key, value in (settings or {}).items():
        group, _, name = key.rpartition(".")
        setattr(operator.attrgetter(group)(config), name, value)
    target = Target(config)
    return {each.check: each for each in [*weights.check_files(target), *weights.check_source(target)]}


def test_every_missing_file_of_a_preset_is_named_with_what_it_should_be() -> None:
    found = looked_at()
    assert {check for check, each in found.items() if each.status == FAIL} == {
        "ingest.source", "quantize.loss.perceptual_weights", "select.network.weights",
    }  # fmt: skip
    assert found["select.network.weights"].found == "data/weights/resnet101-63fe2227.pth: no such file"
    assert "sha256 that begins with 63fe2227" in found["select.network.weights"].advice
    assert "vgg16-397923af.pth" in found["quantize.loss.perceptual_weights"].advice


def test_another_file_of_the_name_is_told_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    path.write_bytes(b"weights")
    key = "select.network.weights"
    assert "sha256 is " in looked_at({key: str(path)})[key].found
    own = hashlib.sha256(b"weights").hexdigest()[:8]
    found = looked_at({key: str(path), "select.network.sha256": own})[key]
    assert (found.status, own in found.found) == (OK, True)


def test_a_file_too_large_to_hash_here_is_only_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resnet.pth"
    path.write_bytes(b"weights")
    monkeypatch.setattr(weights, "MAX_LOCAL_BYTES", 3)
    found = looked_at({"select.network.weights": str(path)})["select.network.weights"]
    assert (found.status, "when it is loaded" in found.found) == (OK, True)


def test_weights_in_a_bucket(anywhere: str) -> None:
    uri = io.join(anywhere, "resnet.pth")
    key = "select.network.weights"
    assert looked_at({key: uri})[key].status == FAIL
    io.write_bytes(uri, b"weights")
    own = hashlib.sha256(b"weights").hexdigest()[:8]
    assert looked_at({key: uri, "select.network.sha256": own})[key].status == OK


def test_an_empty_setting_that_is_needed() -> None:
    key = "quantize.loss.perceptual_weights"
    assert looked_at({key: ""})[key].status == FAIL
    assert looked_at({key: "", "quantize.loss.perceptual_optional": True})[key].status == WARN
    assert key not in looked_at({key: "", "quantize.loss.perceptual": 0.0})
    assert looked_at({"statistics.network": "inception"})["statistics.weights"].status == FAIL


def test_a_source_without_images(tmp_path: Path) -> None:
    assert looked_at(preset="smoke") == {"ingest.source": Result(OK, "ingest.source", "builtin:digits")}
    found = looked_at({"ingest.source": str(tmp_path)}, "smoke")["ingest.source"]
    assert (found.status, found.found) == (FAIL, f"{tmp_path}: is empty")
    (tmp_path / "a.png").touch()
    assert looked_at({"ingest.source": str(tmp_path)}, "smoke")["ingest.source"].status == OK
