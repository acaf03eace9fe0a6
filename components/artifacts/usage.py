"""Files that keep artifacts from removal: pins, and in lease folders the recorded inputs of runs and the last use.

A run records its inputs first (`record_inputs`) and verifies afterwards that they still exist (`verify_inputs`). The
garbage collector works the other way round: it sets a manifest aside first and reads the records afterwards. So either
the collector sees the record and puts the manifest back, or the run sees that the manifest is gone and fails. Pins
work alike; each is one small file, found by the artifact's name and never by listing.
"""

from __future__ import annotations

import dataclasses
import getpass
import json
import logging
import os
import socket
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from components.artifacts import store
from components.contract.api import Artifact, InputRecord, Manifest
from components.contract.commands import command
from vim_core.errors import DataError, StorageError
from vim_core.storage import io

log = logging.getLogger(__name__)

LEASES = ".leases"
INPUTS, USED = "inputs.json", "used"
PINS = ".pins"


@dataclasses.dataclass(frozen=True)
class Pin:
    """A pin: who keeps an artifact, since when and why; `token` tells two pins apart that are equal otherwise."""

    by: str
    since: str
    reason: str
    digest: str
    token: str

    def __str__(self) -> str:
        return f"by {self.by} on {self.since[:10]}" + (f": {self.reason}" if self.reason else "")


def folder(root: str, component: str, fingerprint: str) -> str:
    """The folder with the leases, recorded inputs and last use of one artifact."""
    return io.join(root, LEASES, component, fingerprint)


def record_inputs(leases: str, artifacts: Iterable[Artifact]) -> None:
    """Record what the owner of these leases uses, or will use later in its run; call it while they are held.

    Raises:
        StorageError: the root cannot be written.
    """
    records = {artifact.manifest.key: dataclasses.asdict(artifact.record) for artifact in artifacts}
    data = json.dumps([record for _, record in sorted(records.items())]).encode()
    with store.guarded(leases):
        io.write_bytes(io.join(leases, INPUTS), data)


def read_inputs(leases: str) -> list[InputRecord] | None:
    """The recorded inputs; None where there is no record, as by versions of VIM that wrote none.

    Raises:
        DataError: the file is damaged.
    """
    uri = io.join(leases, INPUTS)
    data = io.read_optional(uri)
    try:
        return [InputRecord(**record) for record in json.loads(data)] if data is not None else None
    except (TypeError, ValueError) as error:
        raise DataError(f"{uri}: not what a run writes ({error}); remove it when nothing runs") from error


def verify_inputs(root: str, name: str, inputs: Mapping[str, Artifact]) -> None:
    """After `record_inputs`: make sure that the inputs of component `name` all still exist.

    Inputs from elsewhere than `root` are not checked: a collection of this root does not touch them.

    Raises:
        DataError: one was removed since it was looked up.
    """
    for artifact in inputs.values():
        manifest = artifact.manifest
        if artifact.folder != store.folder(root, *manifest.key):
            continue
        current = store.load(root, *manifest.key)
        remade = current is not None and current.manifest.attempt != manifest.attempt
        # The files of one that was made again stay while its manifest is kept aside.
        if current is None or (remade and not io.exists(store.retired_uri(artifact))):
            raise DataError(
                f"{name}: its input {artifact.name} was removed meanwhile; run the same command again to make it"
            )


def touch(leases: str) -> None:
    """Note that an artifact was reused, so that its age counts from now; does nothing where it cannot write."""
    try:
        with store.guarded(leases):
            io.write_bytes(io.join(leases, USED), b"")
    except StorageError as error:
        log.debug("use not recorded: %s", error)


def read_pin(root: str, component: str, fingerprint: str) -> Pin | None:
    """The pin of an artifact, or None. Raises `DataError` for a damaged file."""
    uri = _pin_uri(root, component, fingerprint)
    data = store.read_bytes(root, uri)
    if data is None:
        return None
    try:
        return Pin(**json.loads(data))
    except (TypeError, ValueError) as error:
        raise DataError(f"{uri}: not a pin ({error}); remove the file and pin again") from error


def pin(root: str, manifest: Manifest, reason: str, by: str = "") -> Pin:
    """Keep an artifact until it is unpinned. Raises `DataError` where it is pinned already or was removed meanwhile."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())  # a container may run as a number that has no name
    since = datetime.now(UTC).isoformat(timespec="seconds")
    new = Pin(by or f"{user}@{socket.gethostname()}", since, reason, manifest.digest, uuid.uuid4().hex)
    name, uri = "/".join(manifest.key), _pin_uri(root, *manifest.key)
    with store.guarded(root):
        won = io.create_exclusive(uri, json.dumps(dataclasses.asdict(new)).encode())
    if not won:
        raise DataError(f"{name}: already pinned {read_pin(root, *manifest.key)}")
    # The pin comes before this check, see above.
    if store.load(root, *manifest.key) is None:
        with store.guarded(root):
            io.remove_tree(uri)
        raise DataError(f"{name}: was removed meanwhile; make it again with `{command('run', manifest.component)}`")
    return new


def unpin(root: str, manifest: Manifest) -> Pin:
    """Remove the pin and return it. Raises `DataError` where there is none."""
    existing = read_pin(root, *manifest.key)
    if existing is None:
        raise DataError(f"{'/'.join(manifest.key)}: is not pinned")
    with store.guarded(root):
        io.remove_tree(_pin_uri(root, *manifest.key))
    return existing


def _pin_uri(root: str, component: str, fingerprint: str) -> str:
    return io.join(root, PINS, component, f"{fingerprint}.json")
