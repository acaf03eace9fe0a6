"""Access to the root: create exclusively, read, list and delete a small object."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable

from pipelines.doctor.checks import Result, Target, fail, ok
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


def check_root(target: Target) -> list[Result]:
    """A failure for each operation that does not work, or one result that all do."""
    root = target.run.root
    folder = io.join(root, FOLDER)
    is_new = io.is_local(root) and not io.local_path(root).exists()
    try:
        failures = _failures(io.join(folder, uuid.uuid4().hex), folder)
    finally:
        if io.is_local(root):  # buckets have no folders
            for path in (folder, root) if is_new else (folder,):
                with contextlib.suppress(OSError):
                    io.local_path(path).rmdir()
    if not failures:
        results = [ok("root", f"{root}: creating exclusively, reading, listing and deleting work")]
        cluster = target.cluster
        if cluster and not cluster.root and not cluster.is_local and io.is_local(root):
            advice = "set `root` in the profile: gs://…, or a folder of a disk that all nodes share"
            text = f"{root} is a folder of this machine, which {cluster.name} cannot reach"
            results.append(fail("root", text, advice))
        return results
    return [fail(f"root: {name}", f"{root}: {reason}", _advice(root, name)) for name, reason in failures.items()]


def _failures(uri: str, folder: str) -> dict[str, str]:
    """The operations that fail, and why; reading and deleting need an object that was created."""
    name, data = uri.rsplit("/", 1)[-1], uri.encode()
    failures = _attempt("create", lambda: _create_twice(uri, data))
    if not failures:
        failures |= _attempt("read", lambda: None if io.read_bytes(uri) == data else "not the bytes that were written")
    failures |= _attempt("list", lambda: _check_listed(name, folder, bool(failures)))
    if "create" not in failures:
        failures |= _attempt("delete", lambda: _delete(uri))
    return failures


def _attempt(name: str, operation: Callable[[], str | None]) -> dict[str, str]:
    """The reason by the operation's name where it fails, else nothing."""
    try:
        reason = operation()
    except (VimError, OSError) as error:
        reason = str(error)
    return {name: reason} if reason else {}


def _create_twice(uri: str, data: bytes) -> str | None:
    if not io.create_exclusive(uri, data):
        return "the store reports that a new object exists already"
    if io.create_exclusive(uri, data + b"again"):
        return "an object was created twice: two runs at once would not notice each other"
    return None


def _check_listed(name: str, folder: str, absent: bool) -> str | None:
    names = [path for path, _ in io.list_entries(folder)] if not io.is_local(folder) else io.list_names(folder)
    return None if absent or name in names else "an object that was just created is not listed"


def _delete(uri: str) -> None:
    fs, path = io.filesystem(uri)
    try:
        fs.rm_file(path)
    except Exception as error:
        from vim_core.storage.errors import explain

        raise OSError(explain(error, uri)) from error


def _advice(root: str, name: str) -> str:
    if root.startswith(("gs://", "gcs://")):
        bucket = "gs://" + root.partition("://")[2].split("/")[0]
        grant = f"gcloud storage buckets add-iam-policy-binding {bucket} --member=… --role={ROLE}"
        return f"the account needs {PERMISSIONS[name]}; the role {ROLE} has it and the others: `{grant}`"
    if not io.is_local(root):
        return f"let this account {name} objects there"
    return "choose a folder that this user can write, on a file system with hard links, by run.root=… or VIM_ROOT"
