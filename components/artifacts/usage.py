"""Files in an artifact's lease folder that keep what a run uses from being removed meanwhile.

A run records its inputs first (`record_inputs`) and verifies afterwards that they still exist (`verify_inputs`). The
garbage collector works the other way round: it sets a manifest aside first and reads the records afterwards. So either
the collector sees the record and puts the manifest back, or the run sees that the manifest is gone and fails.
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
    try:
        return [InputRecord(**record) for record in json.loads(io.read_bytes(uri))]
    except FileNotFoundError:
        return None
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
