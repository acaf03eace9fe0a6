"""One seam over local disk and remote stores (any fsspec address): read, write, commit exclusively.

What a remote store refuses is a `StorageError` that says why and what to do, from every function here.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.spec import AbstractBufferedFile

from vim_core.errors import StorageError
from vim_core.storage.errors import answering, of_store, reason

# gcsfs reads this at import: its bucket-type probe costs a minute per bucket on servers that do not know it.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

TIME_KEYS = ("mtime", "updated", "LastModified", "last_modified", "created")
VERSION_KEYS = ("generation", "etag", "ETag", "md5Hash", "mtime", "LastModified", "last_modified", "updated")


def is_local(uri: str) -> bool:
    """Whether the address is a path on this machine."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    """The path behind a local address. Raises `ValueError` for a remote one."""
    if not is_local(uri):
        raise ValueError(f"{uri} is not a local path")
    return Path(uri.removeprefix("file://"))


def join(base: str, *parts: str) -> str:
    """Join below `base`; parts must stay inside it (no '..', no absolute part), else `ValueError`."""
    for part in parts:
        if part.startswith("/") or ".." in part.split("/") or "://" in part:
            raise ValueError(f"{part!r} would leave {base}")
    return "/".join([base.rstrip("/"), *[part.strip("/") for part in parts]])


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of an address and the path inside it; it knows nothing yet of what lies there.

    Raises:
        StorageError: the address is of a kind that nothing installed here can read.
    """
    if is_local(uri):
        return fsspec.filesystem("file"), str(local_path(uri).absolute())
    try:
        fs, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{uri}: {reason(error, uri)}") from error
    # fsspec keeps listings, and one that is left over does not show what another process wrote since.
    fs.invalidate_cache()
    return fs, path


def exists(uri: str) -> bool:
    """Whether a file or folder lies there."""
    fs, path = filesystem(uri)
    with _asked(uri):
        return bool(fs.exists(path))


def listing(uri: str) -> list[str]:
    """Names directly below a folder, sorted; empty where there is none."""
    fs, path = filesystem(uri)
    with _asked(uri):
        if not fs.exists(path):
            return []
        return sorted(item.rstrip("/").rsplit("/", 1)[-1] for item in fs.ls(path, detail=False))


def files(uri: str) -> dict[str, dict[str, Any]]:
    """What the store says of every file below a folder, by path below it, in path order; empty where there is none."""
    fs, base = filesystem(uri)
    try:
        with _asked(uri):
            found: dict[str, dict[str, Any]] = fs.find(base, detail=True)
    except FileNotFoundError:
        return {}
    return {path.removeprefix(base.rstrip("/") + "/"): found[path] for path in sorted(found)}


def level(uri: str) -> list[tuple[str, dict[str, Any]]]:
    """Names directly below a remote folder with what the store says of each; empty where there is none."""
    fs, base = filesystem(uri)
    place = base.rstrip("/")
    try:
        with _asked(uri):
            found: list[dict[str, Any]] = fs.ls(place, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    finally:
        # A million listed files are not to stay in memory.
        fs.invalidate_cache()
    named = [(str(info["name"]).rstrip("/"), info) for info in found]
    # Stores keep an empty object for a folder made by hand, and `ls` of a file gives the file itself.
    return [(path.rsplit("/", 1)[-1], info) for path, info in named if path.startswith(place + "/")]


def version(info: dict[str, Any]) -> str:
    """Of what a store says of a file, a text that changes with the content; '' where it says nothing of the kind."""
    return next((f"{key}={info[key]}" for key in VERSION_KEYS if info.get(key)), "")


def state(uri: str) -> str:
    """A text that changes with the content of a file, without reading it; '' where there is none."""
    fs, path = filesystem(uri)
    try:
        with _asked(uri):
            info = fs.info(path)
    except FileNotFoundError:
        return ""
    return f"{info['size']} {version(info)}"


def modified(info: dict[str, Any]) -> float:
    """Of what a store says of a file, when it was written, in Unix seconds; now where it does not say."""
    for key in TIME_KEYS:
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
        if isinstance(value, int | float):
            return float(value)
    return time.time()


def changed(uri: str) -> float:
    """When a file was written, in Unix seconds by the store's clock; 0 where there is none."""
    fs, path = filesystem(uri)
    try:
        with _asked(uri):
            return modified(fs.info(path))
    except FileNotFoundError:
        return 0.0


def make_folder(uri: str) -> None:
    """Create a local folder and its parents; remote stores have none."""
    if is_local(uri):
        local_path(uri).mkdir(parents=True, exist_ok=True)


def open_read(uri: str) -> IO[bytes]:
    """Open for reading bytes."""
    fs, path = filesystem(uri)
    # fsspec's plain cache: gcsfs would read ahead in tasks of its own, and complain of those that nobody waited for.
    plain = {} if is_local(uri) else {"cache_type": "readahead"}
    with _asked(uri):
        stream: IO[bytes] = fs.open(path, "rb", **plain)
    return stream


@contextlib.contextmanager
def open_write(uri: str) -> Iterator[IO[bytes]]:
    """Open a new file as a stream; there when left without an error. Not atomic: name it elsewhere, last.

    After an error half a file may lie on a local disk; in a remote store there is none.
    """
    if is_local(uri):
        local_path(uri).parent.mkdir(parents=True, exist_ok=True)
        with open(local_path(uri), "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        return
    fs, path = filesystem(uri)
    with _told(uri):
        remote: IO[bytes] = fs.open(path, "wb")
    try:
        yield remote
    except BaseException as error:
        _give_up(remote)
        if of_store(error):
            raise StorageError(f"{uri}: {reason(error, uri)}") from error
        raise
    with _told(uri):
        remote.close()


def read_range(uri: str, start: int, stop: int) -> bytes:
    """Bytes `start … stop - 1` of a file. Raises `FileNotFoundError`."""
    if start == stop:
        return b""
    fs, path = filesystem(uri)
    with _asked(uri):
        data: Any = fs.cat_file(path, start=start, end=stop)
    return bytes(data)


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises `FileNotFoundError`."""
    fs, path = filesystem(uri)
    with _asked(uri):
        data: Any = fs.cat_file(path)
    return bytes(data)


@contextlib.contextmanager
def fetched(uri: str) -> Iterator[str]:
    """A local path to read a large file from; a remote one is downloaded once and removed on leaving.

    Raises:
        FileNotFoundError: there is no such file.
    """
    fs, path = filesystem(uri)
    if is_local(uri):
        if not os.path.exists(path):
            raise FileNotFoundError(uri)
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "file")
        with _asked(uri):
            fs.get_file(path, target)
        yield target


def write_bytes(uri: str, data: bytes) -> None:
    """Write or replace a file as one atomic act: readers see the old bytes or the new ones."""
    if is_local(uri):
        target = local_path(uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _write_temporary(target, data)
        temporary.replace(target)
        return
    fs, path = filesystem(uri)
    with _told(uri):
        fs.pipe_file(path, data)


def create_exclusive(uri: str, data: bytes) -> bool:
    """Create a file that must not exist, whole or not at all; False where another writer was first.

    Local: a temporary file is written, synced and hard-linked to the name. Remote: one upload under the
    precondition that no generation exists. An upload whose answer gets lost is sent again and meets its own file, so
    a file of these very bytes counts as this writer's: `data` must tell writers apart.
    """
    if is_local(uri):
        return _link_exclusive(local_path(uri), data)
    fs, path = filesystem(uri)
    with _told(uri):
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return bool(fs.cat_file(path) == data)
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold off other processes of this machine that ask for the same lock file; the system frees it on any end."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def remove_tree(uri: str) -> None:
    """Remove a file or folder with all below it; nothing happens where there is none."""
    fs, path = filesystem(uri)
    with _asked(uri):
        if fs.exists(path):
            fs.rm(path, recursive=True)


def _asked(uri: str) -> AbstractContextManager[None]:
    """Around reading: a remote store's own errors become `StorageError`, but a missing file stays one."""
    return contextlib.nullcontext() if is_local(uri) else answering(uri)


def _told(uri: str) -> AbstractContextManager[None]:
    """Around writing, where a store that finds nothing has no such bucket."""
    return contextlib.nullcontext() if is_local(uri) else answering(uri, missing=False)


def _give_up(remote: Any) -> None:
    """Leave a remote file unfinished: to close it would publish what was written so far."""
    if not isinstance(remote, AbstractBufferedFile):
        remote.close()
        return
    with contextlib.suppress(Exception):
        remote.discard()
    remote.closed = True


def _write_temporary(target: Path, data: bytes) -> Path:
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    with open(temporary, "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return temporary


def _link_exclusive(target: Path, data: bytes) -> bool:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _write_temporary(target, data)
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


@contextlib.contextmanager
def staged(uri: str) -> Any:
    """A local path to write a large file to; on leaving without an error it becomes `uri` atomically."""
    if is_local(uri):
        target = local_path(uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            yield temporary
            with open(temporary, "rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "file"
        yield temporary
        fs, path = filesystem(uri)
        with _told(uri):
            fs.put_file(str(temporary), path)
