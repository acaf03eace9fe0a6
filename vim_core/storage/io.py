"""Files on local disks and in remote stores by one set of functions: read, list, write, create exclusively.

A URI is a local path or any fsspec address, such as gs://bucket/folder. Errors of a remote store's client become
`StorageError` with the reason and what to do, in every function here.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.spec import AbstractBufferedFile

from vim_core.errors import StorageError
from vim_core.storage.errors import as_storage_errors, explain, is_store_error, lock_error
from vim_core.storage.local import hidden_beside, name_exclusively, sync

# gcsfs reads this at import: its bucket-type probe costs a minute per bucket on servers that do not know it.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

CHUNK = 16 * 1024 * 1024
NO_FILE = "a FIFO, socket or device, not a file"
# Keys of `fsspec` file information, which differ by store, in order of preference.
TIME_KEYS = ("mtime", "updated", "LastModified", "last_modified", "created")
VERSION_KEYS = ("generation", "etag", "ETag", "md5Hash", "mtime", "LastModified", "last_modified", "updated")


def is_local(uri: str) -> bool:
    """True if the address is a path on this machine."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    """The path behind a local address. Raises `ValueError` for a remote one."""
    if not is_local(uri):
        raise ValueError(f"{uri} is not a local path")
    return Path(uri.removeprefix("file://"))


def absolute(uri: str) -> str:
    """The address without dependence on the working directory: a local one as absolute path, a remote one as it is."""
    return str(local_path(uri).absolute()) if is_local(uri) else uri


def join(base: str, *parts: str) -> str:
    """Join below `base`; parts must stay inside it (no '..', no absolute part), else `ValueError`."""
    for part in parts:
        if part.startswith("/") or ".." in part.split("/") or "://" in part:
            raise ValueError(f"{part!r} would leave {base}")
    return "/".join([base.rstrip("/"), *[part.strip("/") for part in parts]])


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of an address and the path inside it; cached listings are dropped.

    Raises:
        StorageError: the address is of a kind that nothing installed here can read.
    """
    if is_local(uri):
        return fsspec.filesystem("file"), str(local_path(uri).absolute())
    try:
        fs, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{uri}: {explain(error, uri)}") from error
    # A cached listing would not show what another process has written since.
    fs.invalidate_cache()
    return fs, path


def exists(uri: str) -> bool:
    """True if a file or folder exists at the address."""
    with _store(uri) as (fs, path):
        return bool(fs.exists(path))


def list_names(uri: str) -> list[str]:
    """Names directly below a folder, sorted; empty where there is none."""
    with _store(uri) as (fs, path):
        if not fs.exists(path):
            return []
        return sorted(item.rstrip("/").rsplit("/", 1)[-1] for item in fs.ls(path, detail=False))


def find_files(uri: str) -> dict[str, dict[str, Any]]:
    """File information of every file below a folder, by path relative to it, sorted; empty where there is none."""
    try:
        with _store(uri) as (fs, base):
            infos: dict[str, dict[str, Any]] = fs.find(base, detail=True)
    except FileNotFoundError:
        return {}
    return {path.removeprefix(base.rstrip("/") + "/"): infos[path] for path in sorted(infos)}


def list_entries(uri: str) -> list[tuple[str, dict[str, Any]]]:
    """Names directly below a remote folder with file information of each; empty where there is none."""
    fs, base = filesystem(uri)
    folder = base.rstrip("/")
    try:
        with as_storage_errors(uri):
            infos: list[dict[str, Any]] = fs.ls(folder, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    finally:
        # Frees the memory of a listing of millions of files.
        fs.invalidate_cache()
    entries = [(str(info["name"]).rstrip("/"), info) for info in infos]
    # Stores keep an empty object for a folder made by hand, and `ls` of a file gives the file itself.
    return [(path.rsplit("/", 1)[-1], info) for path, info in entries if path.startswith(folder + "/")]


def version_of(info: dict[str, Any]) -> str:
    """A text that changes with the content of a file, from its file information; '' where that has none."""
    return next((f"{key}={info[key]}" for key in VERSION_KEYS if info.get(key)), "")


def version(uri: str) -> str:
    """A text that changes with the content of a file, without reading it; '' where there is none."""
    try:
        with _store(uri) as (fs, path):
            info = fs.info(path)
    except FileNotFoundError:
        return ""
    return f"{info['size']} {version_of(info)}"


def mtime_of(info: dict[str, Any]) -> float:
    """When a file was written, in Unix seconds, from its file information; now where that does not say."""
    for key in TIME_KEYS:
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
        if isinstance(value, int | float):
            return float(value)
    return time.time()


def mtime(uri: str) -> float:
    """When a file was written, in Unix seconds by the store's clock; 0 where there is none."""
    try:
        with _store(uri) as (fs, path):
            return mtime_of(fs.info(path))
    except FileNotFoundError:
        return 0.0


def make_folder(uri: str) -> None:
    """Create a local folder and its parents; does nothing for a remote store, which has no folders."""
    if is_local(uri):
        local_path(uri).mkdir(parents=True, exist_ok=True)


def scratch(folder: str) -> Path:
    """The folder itself if it is local, else one on the disk for this user, fixed for each address."""
    if is_local(folder):
        return local_path(folder).absolute()
    # The hash covers the whole address: two roots may have work of the same fingerprint.
    name = hashlib.sha256(folder.encode()).hexdigest()[:20]
    return Path(tempfile.gettempdir(), f"vim-{os.getuid()}", name)


def open_read(uri: str) -> IO[bytes]:
    """Open for reading bytes. Raises `FileNotFoundError`."""
    # gcsfs' own cache reads ahead in tasks and warns of those that nobody waited for; fsspec's does not.
    options = {} if is_local(uri) else {"cache_type": "readahead"}
    with _store(uri) as (fs, path):
        stream: IO[bytes] = fs.open(path, "rb", **options)
    return stream


@contextlib.contextmanager
def open_write(uri: str) -> Iterator[IO[bytes]]:
    """Open a new file for writing bytes; it is complete once the context is left without an error.

    Not atomic: after an error an incomplete file may remain on a local disk (in a remote store none does), so record
    the name elsewhere only after leaving.
    """
    if is_local(uri):
        local_path(uri).parent.mkdir(parents=True, exist_ok=True)
        with open(local_path(uri), "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        return
    with _store(uri, missing=False) as (fs, path):
        remote: Any = fs.open(path, "wb")
    try:
        yield remote
    except BaseException as error:
        # Closing would publish what was written so far.
        if isinstance(remote, AbstractBufferedFile):
            with contextlib.suppress(Exception):
                remote.discard()
            remote.closed = True
        else:
            remote.close()
        if is_store_error(error):
            raise StorageError(f"{uri}: {explain(error, uri)}") from error
        raise
    with as_storage_errors(uri, missing=False):
        remote.close()


def read_range(uri: str, start: int, stop: int) -> bytes:
    """Bytes `start … stop - 1` of a file. Raises `FileNotFoundError`."""
    if start == stop:
        return b""
    with _store(uri) as (fs, path):
        return bytes(fs.cat_file(path, start=start, end=stop))


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises `FileNotFoundError`."""
    with _store(uri) as (fs, path):
        return bytes(fs.cat_file(path))


def read_regular(path: Path | str, follow: bool = True) -> bytes:
    """The whole of a regular local file; `follow=False` refuses a link.

    Raises:
        OSError: it cannot be read, or is a folder, FIFO, socket or device, which could block for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, NO_FILE, str(path))
        with open(descriptor, "rb", buffering=0, closefd=False) as stream:
            return stream.readall()
    finally:
        os.close(descriptor)


def read_input(uri: str) -> bytes:
    """The whole file that a user names. Raises `OSError` as `read_regular`, for a remote one as `read_bytes`."""
    return read_regular(local_path(uri)) if is_local(uri) else read_bytes(uri)


def read_optional(uri: str) -> bytes | None:
    """The content of a file, or None where there is none."""
    try:
        return read_bytes(uri)
    except FileNotFoundError:
        return None


def checksum(uri: str, sync: bool = False) -> tuple[int, str]:
    """Size in bytes and sha256 of a file; `sync` writes a local one to the disk first. Raises `FileNotFoundError`."""
    sha256, size = hashlib.sha256(), 0
    with open_read(uri) as stream:
        if sync and is_local(uri):
            os.fsync(stream.fileno())
        while chunk := stream.read(CHUNK):
            sha256.update(chunk)
            size += len(chunk)
    return size, sha256.hexdigest()


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[str]:
    """A local path of the file's content; a remote file is downloaded to a temporary file, removed on leaving.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if is_local(uri):
        if not local_path(uri).exists():
            raise FileNotFoundError(uri)
        yield str(local_path(uri).absolute())
        return
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "file")
        with _store(uri) as (fs, path):
            fs.get_file(path, target)
        yield target


def write_bytes(uri: str, data: bytes) -> None:
    """Write or replace a file atomically: readers see the old bytes or the new ones."""
    if is_local(uri):
        with staged(uri) as temporary:
            temporary.write_bytes(data)
        return
    with _store(uri, missing=False) as (fs, path):
        fs.pipe_file(path, data)


def create_exclusive(uri: str, data: bytes) -> bool:
    """Create a file atomically unless it exists; False where another writer was first.

    Local: a temporary file is written, synced and hard-linked to the name, or renamed on a file system without links.
    Remote: one upload under the precondition that no generation exists. An upload whose response gets lost is sent
    again and meets its own file, so a file with equal content counts as this writer's: `data` must differ between
    writers.
    """
    if is_local(uri):
        target = local_path(uri)
        with hidden_beside(target) as temporary:
            temporary.write_bytes(data)
            sync(temporary)
            try:
                name_exclusively(temporary, target)
            except FileExistsError:
                return False
        # The link is durable only with its folder.
        sync(target.parent)
        return True
    with _store(uri, missing=False) as (fs, path):
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return bool(fs.cat_file(path) == data)
    return True


@contextlib.contextmanager
def staged(uri: str) -> Iterator[Path]:
    """A local path to write a large file to; it becomes `uri` atomically on leaving without an error."""
    if is_local(uri):
        target = local_path(uri)
        with hidden_beside(target) as temporary:
            yield temporary
            sync(temporary)
            temporary.replace(target)
        return
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "file"
        yield temporary
        with _store(uri, missing=False) as (fs, path):
            fs.put_file(str(temporary), path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock among the processes of this machine; the system frees it when the process ends.

    Raises:
        StorageError: the file cannot be made or locked.
    """
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(path, "ab")  # noqa: SIM115
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:
            stream.close()
            raise
    except OSError as error:
        raise StorageError(f"{path.parent}: {lock_error(error)}") from error
    with stream:
        yield


def remove_tree(uri: str) -> None:
    """Remove a file or a folder with its content; does nothing where there is none."""
    with _store(uri) as (fs, path):
        if fs.exists(path):
            fs.rm(path, recursive=True)


@contextlib.contextmanager
def _store(uri: str, missing: bool = True) -> Iterator[tuple[Any, str]]:
    """The file system and the path inside it; errors of a remote store become `StorageError`, see `errors`."""
    opened = filesystem(uri)
    with contextlib.nullcontext() if is_local(uri) else as_storage_errors(uri, missing):
        yield opened
