"""Made-up artifacts in a real root, committed as components commit theirs, with as much else as a root has."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from components.artifacts import lease, store, usage
from components.contract.api import Artifact, FileEntry, Manifest
from vim_core.storage import io

DAY = 86400.0


def key(number: int) -> str:
    """A fingerprint."""
    return f"{number:020x}"


def make(root: str, component: str, number: int, inputs: Sequence[Artifact] = (), **fields: Any) -> Artifact:
    """Commit an artifact of two files; `fields` go to its manifest."""
    attempt = str(fields.pop("attempt", f"first{number}"))
    folder = store.folder(root, component, key(number))
    for name in ("a.bin", "deep/b.bin"):
        io.write_bytes(io.join(folder, f"data-{attempt}", name), f"{component} {number} {attempt} {name}".encode())
    files: list[FileEntry] = store.files_in(io.join(folder, f"data-{attempt}"), f"data-{attempt}", {})
    manifest = Manifest(
        component=component, version=1, fingerprint=key(number), digest=f"digest-{component}-{number}-{attempt}",
        config={}, inputs={f"input{i}": each.record for i, each in enumerate(inputs)}, files=files,
        metrics={"psnr_db": 20.5}, properties={}, protocols={}, numeric={}, seconds=12.5, attempt=attempt,
        created=datetime.now(UTC).isoformat(),
    )  # fmt: skip
    artifact, won = store.commit(root, dataclasses.replace(manifest, **fields))
    assert won
    return artifact


def report(root: str, preset: str, used: Mapping[str, Artifact]) -> None:
    """Publish a record of a report made of these artifacts."""
    entries = {
        name: {"fingerprint": a.manifest.fingerprint, "digest": a.digest, "folder": "/".join(a.manifest.key)}
        for name, a in used.items()
    }
    io.write_bytes(io.join(root, "reports", preset, "results.json"), json.dumps({"artifacts": entries}).encode())


def own(root: str, component: str, number: int, uses: Sequence[Artifact], pid: int | None = None) -> None:
    """Leave the lease of an owner on this machine: of this process, or of one that is gone."""
    leases = usage.folder(root, component, key(number))
    owner = lease.this_owner() if pid is None else dataclasses.replace(lease.this_owner(), pid=pid, started="long ago")
    number = lease._newest(leases) + 1
    io.write_bytes(io.join(leases, f"lease-{number:06d}.json"), json.dumps(dataclasses.asdict(owner)).encode())
    usage.record_inputs(leases, uses)


def leave_work(root: str, component: str, number: int, names: Sequence[str] = ("spool.jsonl",)) -> None:
    """Files of unfinished work."""
    for name in names:
        io.write_bytes(io.join(root, ".work", component, key(number), name), b"unfinished")


def there(root: str) -> set[str]:
    """The artifacts that readers find, as component/number."""
    names = set()
    for path in io.find_files(root):
        if path.endswith("/manifest.json"):
            component, fingerprint, _ = path.split("/")
            artifact = store.load(root, component, fingerprint)
            assert artifact is not None
            store.verify(artifact)
            names.add(f"{component}/{int(fingerprint, 16)}")
    return names
