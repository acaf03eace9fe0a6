"""Access to the root: create exclusively, read, list and delete a small object."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

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
    failures: dict[str, str] = {}

    @contextlib.contextmanager
    def attempt(operation: str) -> Iterator[None]:
        try:
            yield
        except (VimError, OSError) as error:
            failures[operation] = str(error)

    with attempt("create"):
        if not io.create_exclusive(uri, data):
            failures["create"] = "the store reports that a new object exists already"
        elif io.create_exclusive(uri, data + b"again"):
            failures["create"] = "an object was created twice: two runs at once would not notice each other"
    created = not failures
    if created:
        with attempt("read"):
            if io.read_bytes(uri) != data:
                failures["read"] = "not the bytes that were written"
    with attempt("list"):
        names = [path for path, _ in io.list_entries(folder)] if not io.is_local(folder) else io.list_names(folder)
        if not failures and name not in names:
            failures["list"] = "an object that was just created is not listed"
    if created:
        with attempt("delete"):
            fs, path = io.filesystem(uri)
            try:
                fs.rm_file(path)
            except Exception as error:
                from vim_core.storage.errors import explain

                raise OSError(explain(error, uri)) from error
    return failures


def _advice(root: str, name: str) -> str:
    if root.startswith(("gs://", "gcs://")):
        bucket = "gs://" + root.partition("://")[2].split("/")[0]
        grant = f"gcloud storage buckets add-iam-policy-binding {bucket} --member=… --role={ROLE}"
        return f"the account needs {PERMISSIONS[name]}; the role {ROLE} has it and the others: `{grant}`"
    if not io.is_local(root):
        return f"let this account {name} objects there"
    return "choose a folder that this user can write, on a file system with hard links, by run.root=… or VIM_ROOT"
