"""Fingerprints change with what was asked and with nothing else; digests do not depend on order."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contract.api import Artifact, Manifest
from components.contract.fingerprint import fingerprint, merkle, result_settings
from vim_core.config import PipelineConfig, PriorConfig, QuantizeConfig, RunConfig

NAMES = st.text("ab/.é", min_size=1, max_size=8)
HASHES = st.text("0123456789abcdef", min_size=4, max_size=4)


def artifact(digest: str, fp: str = "f" * 20) -> Artifact:
    manifest = Manifest("tokenize", 1, fp, digest, {}, {}, [], {}, {}, {}, {}, 1.0, "attempt", "now")
    return Artifact("/somewhere", manifest)


def leaves(config: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Every setting's path and whether it only says where the work runs."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, (*prefix, field.name))
        else:
            yield (*prefix, field.name), bool(field.metadata.get("execution"))


def changed(config: Any, path: tuple[str, ...]) -> None:
    for name in path[:-1]:
        config = getattr(config, name)
    old = getattr(config, path[-1])
    new = not old if isinstance(old, bool) else old + type(old)([1] if isinstance(old, list) else 1)
    setattr(config, path[-1], new)


def test_every_setting_counts_unless_it_only_says_where() -> None:
    for group in dataclasses.fields(PipelineConfig):
        if not dataclasses.is_dataclass(getattr(PipelineConfig(), group.name)):
            continue
        before = result_settings(getattr(PipelineConfig(), group.name))
        for path, where in leaves(getattr(PipelineConfig(), group.name)):
            config = getattr(PipelineConfig(), group.name)
            changed(config, path)
            assert (result_settings(config) == before) == where, (group.name, path)


def test_run_settings_are_in_no_fingerprint() -> None:
    assert result_settings(RunConfig()) == {}
    assert "log_every" not in result_settings(PriorConfig())


def test_a_new_setting_counts_once_it_is_used() -> None:
    """Artifacts that were made before there was the setting are found under its default."""
    assert "image_decoding" not in result_settings(QuantizeConfig())
    assert result_settings(QuantizeConfig(image_decoding="scaled"))["image_decoding"] == "scaled"


def test_all_that_was_asked_counts() -> None:
    settings = result_settings(PriorConfig())
    base = fingerprint("prior", 1, settings, {"codes": artifact("a")}, "s")
    others = [
        fingerprint("sample", 1, settings, {"codes": artifact("a")}, "s"),
        fingerprint("prior", 2, settings, {"codes": artifact("a")}, "s"),
        fingerprint("prior", 1, result_settings(PriorConfig(dropout=0.2)), {"codes": artifact("a")}, "s"),
        fingerprint("prior", 1, settings, {"codes": artifact("b")}, "s"),
        fingerprint("prior", 1, settings, {"other": artifact("a")}, "s"),
        fingerprint("prior", 1, settings, {}, "s"),
        fingerprint("prior", 1, settings, {"codes": artifact("a")}, "t"),
    ]
    assert len({base, *others}) == len(others) + 1
    assert len(base) == 20
    assert int(base, 16) >= 0


def test_how_an_input_was_asked_for_does_not_count() -> None:
    one = fingerprint("prior", 1, {}, {"codes": artifact("a", "1" * 20)})
    assert one == fingerprint("prior", 1, {}, {"codes": artifact("a", "2" * 20)})


def test_the_hash_is_the_documented_one() -> None:
    """Changing the recipe would silently make every stored artifact unfindable."""
    text = '{"component":"prior","inputs":{"codes":"d"},"settings":{"steps":5},"source":"","version":3}'
    assert (
        fingerprint("prior", 3, {"steps": 5}, {"codes": artifact("d")})
        == hashlib.sha256(text.encode()).hexdigest()[:20]
    )
    pairs = [["a", "01"], ["b", "02"]]
    expected = hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()
    assert merkle([("b", "02"), ("a", "01")]) == expected


@settings(deadline=None)
@given(st.dictionaries(NAMES, HASHES, max_size=5), st.randoms())
def test_merkle_ignores_order(files: dict[str, str], random: Any) -> None:
    pairs = list(files.items())
    shuffled = random.sample(pairs, len(pairs))
    assert merkle(shuffled) == merkle(pairs)


@settings(deadline=None)
@given(st.dictionaries(NAMES, HASHES, max_size=5), st.dictionaries(NAMES, HASHES, max_size=5))
def test_merkle_tells_sets_of_files_apart(one: dict[str, str], other: dict[str, str]) -> None:
    assert (merkle(one.items()) == merkle(other.items())) == (one == other)


def test_merkle_refuses_a_name_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        merkle([("a", "1"), ("a", "2")])
