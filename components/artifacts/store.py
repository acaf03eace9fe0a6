"""Artifacts on disk or in a bucket: strict loading, exclusive commit, verification (contract 1)."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
from collections.abc import Iterator

from components.contract.api import SCHEMA, Artifact, FileEntry, Manifest
from components.contract.commands import command
from vim_core.config.decode import decode
from vim_core.errors import DataError, StorageError, VimError
from vim_core.storage import io

MANIFEST = "manifest.json"
FULL = (errno.ENOSPC, errno.EDQUOT)
CHOOSE = "run.root=… or the environment variable VIM_ROOT"


def folder(root: str, component: str, fingerprint: str) -> str:
    """The folder of the artifact with this fingerprint."""
    return io.join(root, component, fingerprint)


def read(folder: str) -> Artifact | None:
    """The artifact in a folder (path or URI), or None. Raises `DataError` for a damaged manifest."""
    uri = io.join(folder, MANIFEST)
    data = io.read_optional(uri)
    return Artifact(folder, parse(data, uri)) if data is not None else None


def load(root: str, component: str, fingerprint: str) -> Artifact | None:
    """The committed artifact, or None. Raises `DataError` for a damaged manifest, `StorageError` for a bad root."""
    with guarded(root):
        artifact = read(folder(root, component, fingerprint))
    if artifact is not None and artifact.manifest.key != (component, fingerprint):
        uri = io.join(artifact.folder, MANIFEST)
        raise DataError(f"{uri}: belongs to {artifact.name}; move it back or remove the folder")
    return artifact


def commit(root: str, manifest: Manifest) -> tuple[Artifact, bool]:
    """Make the artifact exist by writing its manifest once; (artifact, True), or the winner's artifact and False."""
    uri, data = io.join(folder(root, *manifest.key), MANIFEST), dump(manifest)
    # This run goes on with the manifest as later readers will parse it (tuples become lists, for instance).
    artifact = Artifact(folder(root, *manifest.key), parse(data, uri))
    with guarded(root):
        won = io.create_exclusive(uri, data)
    if won:
        return artifact, True
    winner = load(root, *manifest.key)
    if winner is None:
        raise StorageError(f"{artifact.folder}: its manifest vanished while it was read; run again")
    return winner, False


def retired_uri(artifact: Artifact) -> str:
    """The path or URI to which `retire` moves its manifest."""
    return io.join(artifact.folder, f"manifest-{artifact.manifest.created.replace(':', '')}.json")


def retire(root: str, artifact: Artifact) -> None:
    """Set a manifest aside under the time it was created, so that the artifact can be made again; its files stay."""
    uri = io.join(artifact.folder, MANIFEST)
    with guarded(root):
        # Buckets have no rename operation.
        io.write_bytes(retired_uri(artifact), io.read_bytes(uri))
        io.remove_tree(uri)


def verify(artifact: Artifact) -> None:
    """Read every file of the artifact again. Raises `DataError` naming the first that is missing or changed."""
    remedy = f"make it again with `{command('run', artifact.manifest.component, '--force')}`"
    for entry in artifact.manifest.files:
        uri = io.join(artifact.folder, entry.path)
        try:
            size, digest = io.checksum(uri)
        except FileNotFoundError as error:
            raise DataError(f"{uri}: is in the manifest but missing; {remedy}") from error
        if (size, digest) != (entry.bytes, entry.sha256):
            found = f"{size} bytes, sha256 {digest[:12]}…"
            raise DataError(f"{uri}: {found}, manifest says {entry.bytes}, {entry.sha256[:12]}…; {remedy}")


def files_in(out: str, prefix: str, rows: dict[str, int]) -> list[FileEntry]:
    """Entries of all files an attempt wrote below `out`, hashed and (local disk) synced; `prefix` leads their paths."""
    entries: list[FileEntry] = []
    for name in io.find_files(out):
        uri = io.join(out, name)
        if name.rsplit("/", 1)[-1].startswith("."):
            # Half a file that a killed worker left: `io` writes under such names before it renames.
            io.remove_tree(uri)
            continue
        size, digest = io.checksum(uri, sync=True)
        entries.append(FileEntry(name, f"{prefix}/{name}", size, digest, rows.get(name)))
    return entries


def dump(manifest: Manifest) -> bytes:
    """The manifest as sorted, indented JSON. Raises `ValueError` for a figure that is not finite."""
    text = json.dumps(dataclasses.asdict(manifest), sort_keys=True, indent=2, allow_nan=False)
    return (text + "\n").encode()


def parse(data: bytes, uri: str) -> Manifest:
    """A manifest from JSON. Raises `DataError` with `uri` for any missing, unknown or mistyped key."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise DataError(f"{uri}: not valid JSON ({error}); remove it to make the artifact again") from error
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        raise DataError(f"{uri}: schema={schema!r}, this version reads {SCHEMA}; run with the version that wrote it")
    manifest = decode(Manifest, value, uri, error=DataError)
    for entry in manifest.files:
        if entry.path.startswith("/") or ".." in entry.path.split("/"):
            raise DataError(f"{uri}: file path {entry.path!r} leaves the artifact's folder")
    return manifest


def read_bytes(root: str, uri: str) -> bytes | None:
    """The content of a file below the root, or None where there is none. Raises `StorageError` for a bad root."""
    with guarded(root):
        return io.read_optional(uri)


@contextlib.contextmanager
def guarded(root: str) -> Iterator[None]:
    """Turn failures of the store itself into one-line `StorageError`s that name the root and what to do."""
    try:
        yield
    except VimError:
        raise
    except Exception as error:
        # Remote stores raise errors of their own libraries (credentials, HTTP), which share no base class.
        if isinstance(error, OSError) or not io.is_local(root):
            raise storage_error(error, root) or _unusable(error, root) from error
        raise


def storage_error(error: BaseException, root: str) -> StorageError | None:
    """The `StorageError` behind an error of a component, unwrapped from the errors of engines; else None."""
    local = io.absolute(root)
    cause: BaseException | None = error
    seen = set[int]()
    while cause is not None and id(cause) not in seen:  # an engine may set an error as its own cause (a cycle)
        seen.add(id(cause))
        number = getattr(cause, "errno", None)
        if number in FULL or "No space left on device" in str(cause):
            return StorageError(f"{root}: the disk is full; free some space, or choose another root by {CHOOSE}")
        denied = isinstance(cause, PermissionError | NotADirectoryError) or number == errno.EROFS
        if denied and str(getattr(cause, "filename", None) or "").startswith(local):
            return _unusable(cause, root)
        cause = cause.__cause__ or cause.__context__
    return None


def _unusable(error: BaseException, root: str) -> StorageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return StorageError(f"{root}: cannot be read and written ({reason}); choose another root by {CHOOSE}")
