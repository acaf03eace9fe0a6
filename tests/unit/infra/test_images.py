"""The lock has exact versions of all that the project asks for; Dockerfiles copy, install and run as they should."""

from __future__ import annotations

import re
import shlex
import tomllib
from fnmatch import fnmatch

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.common import REPOSITORY
from tests.support.kubernetes_objects import read_base

FOLDER = REPOSITORY / "infra" / "images"
IMAGES = sorted(FOLDER.glob("*.Dockerfile"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
LOCKED = [line for line in (REPOSITORY / "infra" / "constraints.txt").read_text().splitlines() if line.strip()]
TEXTS = {path.name.removesuffix(".Dockerfile"): path.read_text() for path in IMAGES}


def instructions(text: str) -> list[tuple[str, str]]:
    """Instruction and the rest of its line, continued lines joined, comments left out."""
    plain = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in plain.splitlines() if line)]


def installed(text: str) -> list[str]:
    """The words of the pip command."""
    (command,) = [rest for word, rest in instructions(text) if word == "RUN" and "pip install" in rest]
    return shlex.split(command.partition("pip install")[2].split("&&")[0])


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_what_is_copied_is_there_and_not_ignored(name: str) -> None:
    kept = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for word, rest in instructions(TEXTS[name]):
        if word == "COPY":
            *sources, _ = rest.split()
            for source in sources:
                assert (REPOSITORY / source).exists(), source
                assert any(fnmatch(source, each) or source.startswith(f"{each}/") for each in kept), source


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_everything_is_installed_at_the_locks_versions(name: str) -> None:
    words = installed(TEXTS[name])
    assert words[words.index("--constraint") + 1] == "infra/constraints.txt"
    ((extras,),) = [re.findall(r"^\.\[(.*)\]$", word) for word in words if word.startswith(".[")]
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    locked = dict(line.split(" ;")[0].split("==") for line in LOCKED)
    for word in words:
        if "==" in word:
            package, version = word.split("==")
            assert locked.get(package, version) == version
    base = dict(instructions(TEXTS[name]))["FROM"]
    assert base == "python:3.11-slim-trixie"


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_it_runs_as_the_user_that_the_manifests_name(name: str) -> None:
    user = read_base("mlflow.yaml")["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
    assert instructions(TEXTS[name])[-1] == ("USER", f"{user}:{user}")
    assert f"useradd --uid {user}" in TEXTS[name]


def test_the_accelerators_have_what_they_need() -> None:
    torch = re.search(r"torch_xla\[tpu\]==([\d.]+)", str(PROJECT["optional-dependencies"]["tpu"]))
    assert torch is not None
    assert f"torch_xla {torch[1]}" in TEXTS["tpu"]
    assert ".[gcp,tpu]" in installed(TEXTS["tpu"])
    assert "--extra-index-url" not in installed(TEXTS["cuda"]), "PyPI's torch is the CUDA build"
    assert ".[gcp,gke,postgres]" in installed(TEXTS["server"])


def test_pg_dump_is_as_new_as_the_server() -> None:
    (container,) = read_base("postgres.yaml", "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert f"postgresql-client-{container['image'].partition(':')[2]}" in TEXTS["server"]


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
