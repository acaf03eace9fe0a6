"""The whole `smoke` preset run once: shared by test processes through a folder, copied by tests that change it.

`VIM_SMOKE` names the folder; whichever process needs the run first makes it there, and the others copy it. Continuous
integration puts there what its `make demo` made and printed (`python -m tests.support.smoke --sign`).
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.common import REPOSITORY, manifest, results, vimctl

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


def provided(own: Path) -> SmokeRun:
    """The run in `own/root`, copied from the shared folder where there is one; made there if nobody did yet."""
    shared = os.environ.get(FOLDER, "")
    if shared:
        ensured(Path(shared))
        copied(Path(shared), own)
    else:
        made(own)
    return described(own)


def ensured(shared: Path) -> None:
    """Make the run in this folder unless it is there; who comes second waits."""
    with _locked(shared):
        if not (shared / "of").exists():
            made(shared)


def made(folder: Path) -> None:
    """Run the preset through the real command in `folder/root`."""
    finished = vimctl("run", "--preset", "smoke", root=folder / "root")
    (folder / "printed").write_text(finished.text)
    signed(folder)


def signed(folder: Path) -> None:
    """Note in the folder which sources its run was made by."""
    (folder / "of").write_text(sources())


def copied(shared: Path, own: Path) -> None:
    """Copy a shared run; its MLflow records then point into the copy.

    Raises:
        AssertionError: it was made by other sources than those that are tested.
    """
    assert (shared / "of").read_text() == sources(), f"{FOLDER}={shared} was made by other sources: unset it"
    shutil.copytree(shared / "root", own / "root")
    shutil.copy(shared / "printed", own / "printed")
    _moved(own / "root" / "mlflow.db", str(shared / "root"), str(own / "root"))


def described(folder: Path) -> SmokeRun:
    """What lies in a folder in whose root the preset was run once."""
    root = folder / "root"
    found = {path.name: manifest(root, path.name) for path in root.iterdir() if list(path.glob("*/manifest.json"))}
    page = Path(root, "reports", "smoke", "report.html").read_text()
    return SmokeRun(root, (folder / "printed").read_text(), results(root), found, page)


def sources() -> str:
    """A digest of everything that such a run executes."""
    found = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                found.update(f"{path.relative_to(REPOSITORY)}\n".encode() + path.read_bytes())
    return found.hexdigest()


def _moved(database: Path, old: str, new: str) -> None:
    """Where MLflow keeps files of its experiments and runs is written out in full."""
    places = [("experiments", "artifact_location"), ("runs", "artifact_uri")]
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in places:
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (old, new))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str]) -> None:
    """Make the run that `VIM_SMOKE` names (`--make`), or say that what lies there is of these sources (`--sign`)."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.smoke")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--make", action="store_const", dest="act", const=ensured)
    kind.add_argument("--sign", action="store_const", dest="act", const=signed)
    parser.parse_args(arguments).act(Path(os.environ[FOLDER]))


if __name__ == "__main__":
    main(sys.argv[1:])
