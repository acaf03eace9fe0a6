"""An artifact is found by each of its names, and never guessed."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.artifacts import execute, resolve
from components.tracking.link import Link
from tests.support.archived import key, make
from tests.unit.components.exchange.test_export import committed, tokenizer
from vim_core.config import PipelineConfig, RunConfig
from vim_core.errors import ConfigError, DataError, VimError
from vim_core.pretrained import Tokenizer

NUMBER = 0xABC << 64


@pytest.fixture
def config(root: str) -> PipelineConfig:
    return PipelineConfig(run=RunConfig(root=root), components=["ingest", "quantize", "prior"])


@pytest.mark.parametrize(
    "word",
    [
        "prior",
        "prior/",
        "prior/KEY3",
        "KEY8",
        "prior/KEY20",
        "ROOT/prior/KEY5",
        "FOLDER",
        "FOLDER/manifest.json",
        "fade",
    ],
)
def test_a_unique_prefix_is_enough(config: PipelineConfig, word: str) -> None:
    root = config.run.root
    prior = make(root, "prior", NUMBER, digest="fade" * 16)
    make(root, "ingest", 0xAB1 << 64)
    make(root, "quantize", 0xAB2 << 64)
    places = {f"KEY{count}": key(NUMBER)[:count] for count in (20, 8, 5, 3)}
    for name, value in {**places, "FOLDER": prior.folder, "ROOT": root}.items():
        word = word.replace(name, value)
    elsewhere = config if root not in word else dataclasses.replace(config, run=RunConfig(root="/nowhere"))
    assert resolve.resolve(word, elsewhere) == prior
    with pytest.raises(DataError, match="is an artifact of prior, expected one of quantize or ingest"):
        resolve.resolve(word, elsewhere, ["quantize", "ingest"])


def test_a_component_is_that_of_the_preset(config: PipelineConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [make(config.run.root, "quantize", number) for number in (1, 2)]
    monkeypatch.setattr(execute, "find", lambda name, config: made[1])
    assert resolve.resolve("quantize", config) is made[1]

    def unreachable(name: str, config: PipelineConfig) -> None:
        raise VimError("no such source")

    monkeypatch.setattr(execute, "find", unreachable)
    with pytest.raises(DataError, match=f"2 artifacts match .quantize/{key(2)[:8]}.*or its preset"):
        resolve.resolve("quantize", config)


def test_a_prefix_counts_among_the_kinds_that_are_wanted(config: PipelineConfig) -> None:
    made = [make(config.run.root, name, NUMBER) for name in ("ingest", "quantize")]
    assert resolve.resolve(key(NUMBER)[:5], config, ["quantize"]).name == made[1].name
    with pytest.raises(DataError, match="2 artifacts match"):
        resolve.resolve(key(NUMBER)[:5], config)


@pytest.mark.parametrize(
    ("word", "kind", "said"),
    [
        ("ingest/0", DataError, rf"ingest/0: 7 artifacts match .ingest/{key(0)[:8]}, .* and 2 more.; give more"),
        ("ingest", DataError, "give more digits"),
        ("prior/123457", DataError, "prior/123457: no such artifact; nearest are prior/12345600; `vimctl artifacts"),
        ("12345f", DataError, r"12345f: no such artifact; nearest are prior/12345600, ingest"),
        ("quantize/77", DataError, "quantize/77: no such artifact; nearest are ingest/0"),
        ("prio/12", ConfigError, "did you mean prior"),
        ("qantize", ConfigError, r"did you mean quantize\?"),
        ("", DataError, "name an artifact"),
        ("/", DataError, "name an artifact"),
        ("/tmp", DataError, r"/tmp: no manifest\.json lies there"),
        ("/tmp/none/at", DataError, r"no manifest\.json lies there"),
    ],
)  # fmt: skip
def test_one_that_is_not_there_is_named_with_what_is_near(
    config: PipelineConfig, word: str, kind: type[VimError], said: str
) -> None:
    make(config.run.root, "prior", 0x123456 << 56)
    for number in range(7):
        make(config.run.root, "ingest", number)
    with pytest.raises(kind, match=said):
        resolve.resolve(word, config)


class Missing(Exception):
    def get_http_status_code(self) -> int:
        return 404


class Registry:
    """MLflow's client over versions of one model, by number; `best` is an alias of the first."""

    def __init__(self, tags: list[dict[str, str]]) -> None:
        self.versions = [SimpleNamespace(version=str(i), tags=each) for i, each in enumerate(tags, start=1)]

    def get_model_version(self, name: str, version: str) -> Any:
        for each in self.versions:
            if (name, version) == ("m", each.version):
                return each
        raise Missing("there is none")

    def get_model_version_by_alias(self, name: str, alias: str) -> Any:
        return self.get_model_version(name, "1" if alias == "best" else "")

    def search_model_versions(self, query: str) -> list[Any]:
        return self.versions

    def get_registered_model(self, name: str) -> Any:
        return SimpleNamespace(aliases={"best": "1"})

    def search_registered_models(self) -> list[Any]:
        return [SimpleNamespace(name="m")]


def test_a_registered_model_is_found_where_its_root_lies_now(
    tmp_path: Path, config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="no models are registered here"):
        resolve.resolve("models:/m/1", config)
    Path(config.run.root).mkdir(exist_ok=True)
    Path(config.run.root, "mlflow.db").touch()
    made = [make(config.run.root, "quantize", 1), make(str(tmp_path / "other"), "quantize", 2)]
    tags = [
        {"vim.component": "quantize", "vim.fingerprint": each.manifest.fingerprint, "vim.digest": each.digest,
         "vim.artifact": address} for each, address in zip(made, ["/moved", made[1].folder], strict=True)
    ]  # fmt: skip
    registry = Registry([*tags, {**tags[0], "vim.digest": "0"}])
    monkeypatch.setattr(resolve, "Link", lambda uri: Link(uri, connect=lambda uri: registry))
    for address, found in (("m/1", made[0]), ("m@best", made[0]), ("m/best", made[0]), ("m/2", made[1])):
        assert resolve.resolve(f"models:/{address}", config).digest == found.digest
    for address, said in (
        ("m/latest", "was made again since"), ("m/9", r"no such version; known are 1, 2, 3, @best"),
        ("M/1", "no such model; known are m"), ("", "write models:/NAME/VERSION"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said):
            resolve.resolve(f"models:/{address}", config)


def test_python_takes_the_same_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIM_ROOT", str(tmp_path))
    made = committed(tokenizer(tmp_path), fingerprint=key(7))
    Path(made.folder).rename(tmp_path / "quantize" / key(7))
    for name in ("quantize", f"quantize/{key(7)[:6]}"):
        assert Tokenizer.from_pretrained(name).digest == made.digest
    with pytest.raises(DataError, match="models:/m/1: no models are registered here"):
        Tokenizer.from_pretrained("models:/m/1")
    monkeypatch.setitem(sys.modules, "components.artifacts.resolve", None)
    with pytest.raises(DataError, match=r"quantize: no model lies there, and other names .* need VIM's package"):
        Tokenizer.from_pretrained("quantize")
