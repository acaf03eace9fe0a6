"""Which code runs: folder, version and digest of its source, the same in every process that a command starts.

Python prefers a `components` folder in the current directory to the installed one, and Ray adds that directory to its
workers. So processes get the search path of their command, and check here that it led them to the same source.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from vim_core import __version__
from vim_core.errors import CodeError

PACKAGES = ("vim_core", "components", "pipelines")
DIGITS = 12


@dataclass(frozen=True)
class Code:
    """The folder of the packages, their version, and the first digits of a digest of their source."""

    folder: str
    version: str
    digest: str

    def __str__(self) -> str:
        return f"version {self.version}, digest {self.digest}{f', in {self.folder}' if self.folder else ''}"


@functools.cache
def current() -> Code:
    """The code of this process."""
    sha256, folders = hashlib.sha256(), set()
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        for package in map(Path, (spec and spec.submodule_search_locations) or ()):
            folders.add(os.fspath(package.parent.resolve()))
            for file in sorted(package.rglob("*.py")):
                sha256.update(f"{name}/{file.relative_to(package).as_posix()}\n".encode())
                sha256.update(hashlib.sha256(file.read_bytes()).digest())
    return Code(" and ".join(sorted(folders)), __version__, sha256.hexdigest()[:DIGITS])


def for_others() -> Code:
    """The code of this process, for another machine: without the folder, so that equal code makes equal records."""
    return replace(current(), folder="")


def check(expected: Code) -> None:
    """Check that this process runs the code of the command that started it, `expected`, in whatever folder.

    Raises:
        CodeError: it does not; names both, with this host.
    """
    own = current()
    if (own.version, own.digest) != (expected.version, expected.digest):
        remedy = (
            "install one of them on every machine (on Kubernetes: build the image from the command's folder), and keep "
            "others out of PYTHONPATH"
        )
        if own.folder == expected.folder:
            remedy = "files there were changed since the command began: start it again"
        raise CodeError(
            f"a process on {socket.gethostname()} runs another code ({own}) than the command ({expected}); {remedy}"
        )


def search_path() -> list[str]:
    """Where this process imports from, in order, but for what each process of this interpreter has by itself."""
    own = tuple(os.fspath(Path(prefix).resolve()) + os.sep for prefix in {sys.prefix, sys.base_prefix})
    folders = [os.path.abspath(entry) for entry in sys.path if os.path.isdir(entry or os.curdir)]
    return list(dict.fromkeys(folder for folder in folders if not os.path.realpath(folder).startswith(own)))


def child_environment() -> dict[str, str]:
    """Variables for a Python process that shall import what this one does, whatever folder it starts in."""
    return {"PYTHONPATH": os.pathsep.join(search_path()), "PYTHONSAFEPATH": "1"}
