"""Errors of remote stores as one-line `StorageError`; the client libraries' own types share no base class."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from vim_core.errors import StorageError, VimError

STORE_LIBRARIES = ("aiohttp", "botocore", "gcsfs", "google", "requests", "s3fs")
DENIED_WORDS = ("forbidden", "anonymous caller", "access denied", "invalid credentials", "reauthentication")
CONNECTION_ERRORS = (
    "ClientConnectorError",
    "ClientConnectionError",
    "ServerDisconnectedError",
    "TransportError",
    "ConnectTimeout",
)
GOOGLE_SCHEMES = ("gs", "gcs")


@contextlib.contextmanager
def as_storage_errors(uri: str, missing: bool = True) -> Iterator[None]:
    """Context around calls to the remote store of `uri` that converts their errors.

    Args:
        uri: named in the error.
        missing: let `FileNotFoundError` pass, for readers; for writers it means that there is no bucket.

    Raises:
        StorageError: the store failed or refused, with the address, the reason and what to do.
        FileNotFoundError: there is no such file, with `missing`.
    """
    try:
        yield
    except VimError:
        raise
    except Exception as error:
        if missing and isinstance(error, FileNotFoundError):
            raise
        raise StorageError(f"{uri}: {explain(error, uri)}") from error


def is_store_error(error: BaseException) -> bool:
    """True for an error of a remote store's client, False for one of the code that was writing to it."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in STORE_LIBRARIES


def explain(error: BaseException, uri: str) -> str:
    """One line: why a call to a remote store failed and what to do about it."""
    scheme, _, rest = uri.partition("://")
    bucket = f"{scheme}://{rest.split('/')[0]}"
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ImportError):
        known = "the extra `gcp` of vim-image-modeling, or gcsfs"
        package = f"install {known if scheme in GOOGLE_SCHEMES else f'the fsspec package for {scheme}://'}"
        return f"cannot be opened here ({text}); {package}"
    if isinstance(error, FileNotFoundError):
        make = f"make it (`gcloud storage buckets create {bucket}`)" if scheme in GOOGLE_SCHEMES else "make it"
        return f"there is no bucket {bucket}, or it is hidden from this account; {make} or correct the address"
    denied = isinstance(error, PermissionError) or getattr(error, "code", None) in (401, 403)
    if denied or any(word in text.lower() for word in DENIED_WORDS):
        login = "log in to the store, and let this account read and write the bucket"
        if scheme in GOOGLE_SCHEMES:
            login = (
                "log in by `gcloud auth application-default login` or name a key file in GOOGLE_APPLICATION_CREDENTIALS"
                ", and give the account the role Storage Object Admin on the bucket"
            )
        return f"{bucket} refuses this account ({text}); {login}"
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in CONNECTION_ERRORS:
        emulated = os.environ.get("STORAGE_EMULATOR_HOST", "") if scheme in GOOGLE_SCHEMES else ""
        server = f"STORAGE_EMULATOR_HOST={emulated}" if emulated else "the store"
        return f"no answer from {server} ({text}); look at the network and try again"
    return text


def lock_error(error: OSError) -> str:
    """Reason and remedy where a file cannot be locked."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space, or choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "choose a folder of your own, for artifacts by run.root, for code tables by run.code_cache"
        return f"cannot be written ({error.strerror}); {remedy}"
    if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
        return (
            f"its file system has no locks ({error.strerror}); choose a local disk, or mount it with locks; artifacts "
            "may lie there where the databases do not: give run.tracking_uri and DAGSTER_HOME"
        )
    return f"cannot be used ({error}); choose another folder"
