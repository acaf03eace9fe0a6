"""The whole `smoke` preset run once: shared by test processes through a folder, copied by tests that change it.

`VIM_SMOKE` names the folder; whichever process needs the run first makes it there, and the others copy it. Continuous
integration puts there what its `make demo` made and printed (`python -m tests.support.smoke` signs it).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.tracking.relocate import relocate
from tests.support.common import REPOSITORY, file_of, manifest, results, vimctl

FOLDER = "VIM_SMOKE"
SOURCES = ("vim_core", "components", "pipelines")


@dataclass(frozen=True)
class SmokeRun:
    """The whole `smoke` pipeline after one `vimctl run`: its root, output, and what it had made at that moment.

    Tests may run more in the same root, which only adds artifacts.
    """

    root: Path
    text: str = field(repr=False)
    results: dict[str, Any] = field(repr=False)
    manifests: dict[str, dict[str, Any]] = field(repr=False)
    page: str = field(repr=False)


def branched(smoke_run: SmokeRun, target: Path, components: Iterable[str]) -> Path:
    """Make `target` a root with copies of these finished artifacts alone: no work folders, leases or history."""
    for name in components:
        key = smoke_run.manifests[name]["fingerprint"]
        shutil.copytree(smoke_run.root / name / key, target / name / key)
    return target


def provide(own: Path) -> SmokeRun:
    """A copy of the shared run in `own`; whichever process comes first makes the shared one, the others wait.

    Raises:
        AssertionError: it was made by other sources than those that are tested.
    """
    shared = Path(os.environ[FOLDER])
    shared.mkdir(parents=True, exist_ok=True)
    with open(shared / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "sources").exists():
            finished = vimctl("run", "--preset", "smoke", root=shared / "root")
            (shared / "printed").write_text(finished.text)
            sign(shared)
    assert (shared / "sources").read_text() == sources(), f"{FOLDER}={shared} was made by other sources: unset it"
    shutil.copytree(shared / "root", own / "root")
    relocate(own / "root" / "mlflow.db")
    root = own / "root"
    manifests = {path.name: manifest(root, path.name) for path in root.iterdir() if list(path.glob("*/manifest.json"))}
    page = Path(root, "reports", "smoke", "report.html").read_text()
    return SmokeRun(root, (shared / "printed").read_text(), results(root), manifests, page)


def sign(folder: Path) -> None:
    """Write down in the folder which sources its run was made by."""
    (folder / "sources").write_text(sources())


def sources() -> str:
    """SHA-256 of all that such a run executes."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(REPOSITORY)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def checkpoints(root: Path, component: str) -> list[int]:
    """Steps of the whole checkpoints in the component's work folder."""
    paths = root.glob(f".work/{component}/**/step-*/index.json")
    return sorted(int(path.parent.name.removeprefix("step-")) for path in paths)


def curve(root: Path, component: str) -> list[dict[str, Any]]:
    """The committed rows of figures of a training, in file order."""
    lines = file_of(root, manifest(root, component), "curves.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "m" in row]


if __name__ == "__main__":
    sign(Path(os.environ[FOLDER]))
