"""The lock names exact versions and nothing of the machine that made it, and covers what the project asks for."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.common import REPOSITORY

LOCKED = [line for line in (REPOSITORY / "infra" / "constraints.txt").read_text().splitlines() if line.strip()]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def test_every_line_is_one_exact_version() -> None:
    assert [line for line in LOCKED if not re.fullmatch(r"[a-z0-9.-]+==[0-9][\w.+!]*( ; [^/@]+)?", line)] == []


def test_it_covers_and_satisfies_the_project() -> None:
    here = [line for line in map(Requirement, LOCKED) if line.marker is None or line.marker.evaluate()]
    versions = {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in here}
    wanted = [*PROJECT["dependencies"]]
    for extra in ("gcp", "bench", "dev"):
        wanted += PROJECT["optional-dependencies"][extra]
    for text in wanted:
        asked = Requirement(text)
        locked = versions.get(canonicalize_name(asked.name))
        assert locked is not None, f"{text} is not in infra/constraints.txt; run `make lock`"
        assert asked.specifier.contains(locked), f"{text}, but {locked} is locked; run `make lock`"
