"""Pins: one small file per pinned artifact, found by the artifact's name, so that no listing can miss one."""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
import socket
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from components.artifacts import store
from components.contract.api import Manifest
from vim_core.errors import DataError
from vim_core.storage import io

PINS = ".pins"


@dataclass(frozen=True)
class Pin:
    """Who keeps an artifact since when and why; `token` tells two pins apart that say the same."""

    by: str
    since: str
    reason: str
    digest: str
    token: str

    def __str__(self) -> str:
        return f"by {self.by} on {self.since[:10]}" + (f": {self.reason}" if self.reason else "")


def read(root: str, component: str, fingerprint: str) -> Pin | None:
    """The pin of an artifact, or None.

    Raises:
        DataError: the file is damaged.
    """
    uri = _uri(root, component, fingerprint)
    with store.guarded(root):
        try:
            data = io.read_bytes(uri)
        except FileNotFoundError:
            return None
    try:
        return Pin(**json.loads(data))
    except (TypeError, ValueError) as error:
        raise DataError(f"{uri}: not a pin ({error}); remove the file and pin again") from error


def pin(root: str, manifest: Manifest, reason: str, by: str = "") -> Pin:
    """Keep an artifact until it is unpinned.

    Raises:
        DataError: it is pinned already, or was removed meanwhile.
    """
    since = datetime.now(UTC).isoformat(timespec="seconds")
    made = Pin(by or whoami(), since, reason, manifest.digest, uuid.uuid4().hex)
    name = f"{manifest.component}/{manifest.fingerprint}"
    uri = _uri(root, manifest.component, manifest.fingerprint)
    with store.guarded(root):
        won = io.create_exclusive(uri, json.dumps(dataclasses.asdict(made)).encode())
    if not won:
        raise DataError(f"{name}: already pinned {read(root, manifest.component, manifest.fingerprint)}")
    # First the pin, then the look: see `marks`.
    if store.load(root, manifest.component, manifest.fingerprint) is None:
        with store.guarded(root):
            io.remove_tree(uri)
        raise DataError(f"{name}: was removed meanwhile; make it again with `vimctl run {manifest.component}`")
    return made


def unpin(root: str, manifest: Manifest) -> Pin:
    """Take the pin off and give it. Raises `DataError` where there is none."""
    found = read(root, manifest.component, manifest.fingerprint)
    if found is None:
        raise DataError(f"{manifest.component}/{manifest.fingerprint}: is not pinned")
    with store.guarded(root):
        io.remove_tree(_uri(root, manifest.component, manifest.fingerprint))
    return found


def whoami() -> str:
    """This user on this machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container may run as a number that has no name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _uri(root: str, component: str, fingerprint: str) -> str:
    return io.join(root, PINS, component, f"{fingerprint}.json")
