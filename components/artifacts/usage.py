"""What a run leaves in its lease folder so that nothing it uses is removed meanwhile: announce first, look afterwards.

The remover works the other way round: it sets a manifest aside first and looks for marks afterwards (`collect`). So
either it sees the mark and puts the manifest back, or the run sees that the manifest is gone, and makes it again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping

from components.artifacts import store
from components.contract.api import Artifact, InputRecord
from vim_core.errors import DataError, StorageError
from vim_core.storage import io

log = logging.getLogger(__name__)

LEASES = ".leases"
INPUTS, USED = "inputs.json", "used"


def folder(root: str, component: str, fingerprint: str) -> str:
    """Where the leases and marks of one artifact lie."""
    return io.join(root, LEASES, component, fingerprint)


def record_inputs(leases: str, artifacts: Iterable[Artifact]) -> None:
    """Say what the owner of these leases uses, or will use later in its run; call it while they are held.

    Raises:
        StorageError: the root cannot be written.
    """
    named = {(a.manifest.component, a.manifest.fingerprint): a for a in artifacts}
    records = [InputRecord(component, key, a.digest) for (component, key), a in sorted(named.items())]
    with store.guarded(leases):
        io.write_bytes(io.join(leases, INPUTS), json.dumps([dataclasses.asdict(record) for record in records]).encode())


def read_inputs(leases: str) -> list[InputRecord] | None:
    """What was announced there; None where nothing was, as by versions of VIM that did not announce.

    Raises:
        DataError: the file is damaged.
    """
    uri = io.join(leases, INPUTS)
    try:
        return [InputRecord(**record) for record in json.loads(io.read_bytes(uri))]
    except FileNotFoundError:
        return None
    except (TypeError, ValueError) as error:
        raise DataError(f"{uri}: not what a run writes ({error}); remove it when nothing runs") from error


def verify_inputs(root: str, name: str, inputs: Mapping[str, Artifact]) -> None:
    """After `announce`: make sure that the inputs of component `name` are all still there.

    Inputs from elsewhere than `root` are not looked at: who tidies up this root does not touch them.

    Raises:
        DataError: one was removed since it was looked up.
    """
    for artifact in inputs.values():
        made = artifact.manifest
        if artifact.folder != store.folder(root, made.component, made.fingerprint):
            continue
        there = store.load(root, made.component, made.fingerprint)
        # Made again since: the files of the one that was found stay while its manifest lies aside.
        if there is None or (there.manifest.attempt != made.attempt and not io.exists(store.aside(artifact))):
            gone = f"{made.component}/{made.fingerprint}"
            raise DataError(f"{name}: its input {gone} was removed meanwhile; run the same command again to make it")


def touch(leases: str) -> None:
    """Note that an artifact was reused, so that its age counts from now; where nothing can be written it is left."""
    try:
        with store.guarded(leases):
            io.write_bytes(io.join(leases, USED), b"")
    except StorageError as error:
        log.debug("use not noted: %s", error)
