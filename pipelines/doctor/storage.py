"""What this account may do at the root: create exclusively, read, list, delete a small object."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable

from pipelines.doctor.findings import Finding, Subject, fail, ok
from vim_core.errors import VimError
from vim_core.storage import io

FOLDER = ".doctor"
PERMISSIONS = {
    "create": "storage.objects.create",
    "read": "storage.objects.get",
    "list": "storage.objects.list",
    "delete": "storage.objects.delete",
}
ROLE = "roles/storage.objectUser"


def root(subject: Subject) -> list[Finding]:
    """One finding for each thing that cannot be done, or one that all can."""
    place = subject.run.root
    folder = io.join(place, FOLDER)
    uri = io.join(folder, uuid.uuid4().hex)
    new = io.is_local(place) and not io.local_path(place).exists()
    try:
        wrong = _tried(uri, folder)
    finally:
        _tidy(folder, place, new)
    if not wrong:
        done = ok("root", f"{place}: creating exclusively, reading, listing and deleting work")
        return [done, *_shared(subject)]
    return [fail(f"root: {act}", f"{place}: {why}", _advice(place, act)) for act, why in wrong.items()]


def _shared(subject: Subject) -> list[Finding]:
    """A folder of this machine is no root for a cluster, unless its profile says that all nodes see it."""
    own = subject.cluster
    if own is None or own.root or own.here or not io.is_local(subject.run.root):
        return []
    advice = "set `root` in the profile: gs://…, or a folder of a disk that all nodes share"
    return [fail("root", f"{subject.run.root} is a folder of this machine, which {own.name} does not see", advice)]


def _tried(uri: str, folder: str) -> dict[str, str]:
    """What could not be done and why; reading and deleting need something that was created."""
    name, data = uri.rsplit("/", 1)[-1], uri.encode()
    wrong = _attempt("create", lambda: _exclusively(uri, data))
    if not wrong:
        wrong |= _attempt("read", lambda: _same(io.read_bytes(uri), data))
    wrong |= _attempt("list", lambda: _listed(name, folder, bool(wrong)))
    if "create" not in wrong:
        wrong |= _attempt("delete", lambda: _delete(uri))
    return wrong


def _attempt(act: str, do: Callable[[], str | None]) -> dict[str, str]:
    try:
        why = do()
    except (VimError, OSError) as error:
        why = str(error)
    return {act: why} if why else {}


def _exclusively(uri: str, data: bytes) -> str | None:
    if not io.create_exclusive(uri, data):
        return "a new object was said to exist"
    if io.create_exclusive(uri, data + b"again"):
        return "an object was created twice: two runs at once would not notice each other"
    return None


def _same(found: bytes, expected: bytes) -> str | None:
    return None if found == expected else f"{len(found)} bytes were read where {len(expected)} were written"


def _listed(name: str, folder: str, absent: bool) -> str | None:
    names = [path for path, _ in io.list_entries(folder)] if not io.is_local(folder) else io.list_names(folder)
    return None if absent or name in names else "an object that was just created is not listed"


def _delete(uri: str) -> None:
    fs, path = io.filesystem(uri)
    try:
        fs.rm_file(path)
    except Exception as error:
        from vim_core.storage.errors import explain

        raise OSError(explain(error, uri)) from error


def _tidy(folder: str, place: str, new: bool) -> None:
    """A local root leaves no trace; in a bucket there are no folders."""
    if io.is_local(place):
        with contextlib.suppress(OSError):
            io.local_path(folder).rmdir()
        if new:
            with contextlib.suppress(OSError):
                io.local_path(place).rmdir()


def _advice(place: str, act: str) -> str:
    if place.startswith(("gs://", "gcs://")):
        bucket = "gs://" + place.partition("://")[2].split("/")[0]
        grant = f"gcloud storage buckets add-iam-policy-binding {bucket} --member=… --role={ROLE}"
        return f"the account needs {PERMISSIONS[act]}; the role {ROLE} has it and the others: `{grant}`"
    if not io.is_local(place):
        return f"let this account {act} objects there"
    return "choose a folder that this user can write, on a file system with hard links, by run.root=… or VIM_ROOT"
