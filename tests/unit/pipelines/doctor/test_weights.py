"""Files that a preset names: there, and the ones that are meant."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipelines import presets
from pipelines.doctor import weights
from pipelines.doctor.checks import FAIL, OK, WARN, Result, Target


def looked_at(*overrides: str, preset: str = "imagenet256_large_rejection") -> dict[str, Result]:
    target = Target(presets.load(preset, list(overrides)))
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
    key = f"select.network.weights={path}"
    assert "sha256 is " in looked_at(key)["select.network.weights"].found
    own = hashlib.sha256(b"weights").hexdigest()[:8]
    found = looked_at(key, f"select.network.sha256={own}")["select.network.weights"]
    assert (found.status, own in found.found) == (OK, True)


def test_a_file_too_large_to_hash_here_is_only_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resnet.pth"
    path.write_bytes(b"weights")
    monkeypatch.setattr(weights, "MAX_LOCAL_BYTES", 3)
    found = looked_at(f"select.network.weights={path}")["select.network.weights"]
    assert (found.status, "when it is loaded" in found.found) == (OK, True)


def test_weights_in_a_bucket(anywhere: str) -> None:
    from vim_core.storage import io

    uri = io.join(anywhere, "resnet.pth")
    assert looked_at(f"select.network.weights={uri}")["select.network.weights"].status == FAIL
    io.write_bytes(uri, b"weights")
    own = hashlib.sha256(b"weights").hexdigest()[:8]
    found = looked_at(f"select.network.weights={uri}", f"select.network.sha256={own}")["select.network.weights"]
    assert found.status == OK


def test_an_empty_setting_that_is_needed() -> None:
    key = "quantize.loss.perceptual_weights"
    assert looked_at(f"{key}=")[key].status == FAIL
    assert looked_at(f"{key}=", "quantize.loss.perceptual_optional=true")[key].status == WARN
    assert key not in looked_at(f"{key}=", "quantize.loss.perceptual=0")
    assert looked_at("statistics.network=inception")["statistics.weights"].status == FAIL


def test_a_source_without_images(tmp_path: Path) -> None:
    assert looked_at(preset="smoke") == {"ingest.source": Result(OK, "ingest.source", "builtin:digits")}
    found = looked_at(f"ingest.source={tmp_path}", "ingest.split=hash", preset="smoke")["ingest.source"]
    assert (found.status, found.found) == (FAIL, f"{tmp_path}: is empty")
    (tmp_path / "a.png").touch()
    assert looked_at(f"ingest.source={tmp_path}", "ingest.split=hash", preset="smoke")["ingest.source"].status == OK
