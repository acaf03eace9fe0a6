"""Pins, which keep artifacts from removal: one small file each, found by the artifact's name and never by listing."""

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
    """A pin: who keeps an artifact, since when and why; `token` tells two pins apart that are equal otherwise."""

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
    new = Pin(by or whoami(), since, reason, manifest.digest, uuid.uuid4().hex)
    name, uri = "/".join(manifest.key), _uri(root, *manifest.key)
    with store.guarded(root):
        won = io.create_exclusive(uri, json.dumps(dataclasses.asdict(new)).encode())
    if not won:
        raise DataError(f"{name}: already pinned {read(root, *manifest.key)}")
    # The pin comes before this check: see `usage`.
    if store.load(root, *manifest.key) is None:
        with store.guarded(root):
            io.remove_tree(uri)
        raise DataError(f"{name}: was removed meanwhile; make it again with `vimctl run {manifest.component}`")
    return new


def unpin(root: str, manifest: Manifest) -> Pin:
    """Remove the pin and return it. Raises `DataError` where there is none."""
    existing = read(root, *manifest.key)
    if existing is None:
        raise DataError(f"{'/'.join(manifest.key)}: is not pinned")
    with store.guarded(root):
        io.remove_tree(_uri(root, *manifest.key))
    return existing


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
