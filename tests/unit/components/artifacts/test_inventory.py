"""An artifact is found by as little of its name as is unique, and never guessed."""

from __future__ import annotations

import pytest

from components.artifacts.inventory import choose
from tests.support.archived import key, make
from vim_core.errors import ConfigError, DataError


def test_a_unique_prefix_is_enough(root: str) -> None:
    prior = make(root, "prior", 0xABC << 64)
    made = [make(root, "ingest", 0xAB1 << 64), prior, make(root, "quantize", 0xAB2 << 64)]
    fingerprint = prior.manifest.fingerprint
    words = ("prior", "prior/", f"prior/{fingerprint[:3]}", fingerprint[:8], f"prior/{fingerprint}", prior.folder)
    for word in (*words, f"{prior.folder}/manifest.json"):
        assert choose(made, word) is prior


def test_an_ambiguous_one_names_those_it_may_mean(root: str) -> None:
    made = [make(root, "ingest", number) for number in range(7)]
    with pytest.raises(DataError, match=f"ingest/0: 7 artifacts match .ingest/{key(0)[:8]}, .* and 2 more"):
        choose(made, "ingest/0")
    with pytest.raises(DataError, match="give more digits"):
        choose(made, "ingest")


def test_one_that_is_not_there_is_named_with_what_is_near(root: str) -> None:
    made = [make(root, "prior", 0x123456 << 56)]
    assert made[0].manifest.fingerprint.startswith("123456")
    with pytest.raises(DataError, match=r"prior/123457: no such artifact; did you mean prior/123456\?"):
        choose(made, "prior/123457")
    with pytest.raises(DataError, match="see `vimctl artifacts list`"):
        choose(made, "quantize/77")
    with pytest.raises(ConfigError, match="did you mean prior"):
        choose(made, "prio/12")
    for empty in ("", "/"):
        with pytest.raises(DataError, match="name an artifact"):
            choose(made, empty)
