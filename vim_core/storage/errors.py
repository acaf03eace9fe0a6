"""What a remote store's errors mean to people: its libraries raise types of their own that share no base class."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from vim_core.errors import StorageError, VimError

LIBRARIES = ("aiohttp", "botocore", "gcsfs", "google", "requests", "s3fs")
DENIED = ("forbidden", "anonymous caller", "access denied", "invalid credentials", "reauthentication")
SILENT = (
    "ClientConnectorError",
    "ClientConnectionError",
    "ServerDisconnectedError",
    "TransportError",
    "ConnectTimeout",
)
GOOGLE = ("gs", "gcs")


@contextlib.contextmanager
def answering(uri: str, missing: bool = True) -> Iterator[None]:
    """Around calls to the remote store behind `uri`.

    `missing` says that a missing file is an answer, as for readers; for writers it means that there is no bucket.

    Raises:
        StorageError: anything that the store refused, with the address, the reason and what to do.
        FileNotFoundError: there is no such file, with `missing`.
    """
    try:
        yield
    except VimError:
        raise
    except FileNotFoundError as error:
        if missing:
            raise
        raise StorageError(f"{uri}: {reason(error, uri)}") from error
    except Exception as error:
        raise StorageError(f"{uri}: {reason(error, uri)}") from error


def of_store(error: BaseException) -> bool:
    """Whether an error came out of a remote store, rather than of the code that was writing to it."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in LIBRARIES


def reason(error: BaseException, uri: str) -> str:
    """In one line, why a remote store did not do what was asked, and what to do about it."""
    scheme, _, rest = uri.partition("://")
    bucket = f"{scheme}://{rest.split('/')[0]}"
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ImportError):
        return f"cannot be opened here ({said}); {_package(scheme)}"
    if isinstance(error, FileNotFoundError):
        make = f"make it (`gcloud storage buckets create {bucket}`)" if scheme in GOOGLE else "make it"
        return f"there is no bucket {bucket}, or it is hidden from this account; {make} or correct the address"
    if _denied(error, said):
        return f"{bucket} refuses this account ({said}); {_login(scheme)}"
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in SILENT:
        emulated = os.environ.get("STORAGE_EMULATOR_HOST", "") if scheme in GOOGLE else ""
        server = f"STORAGE_EMULATOR_HOST={emulated}" if emulated else "the store"
        return f"no answer from {server} ({said}); look at the network and try again"
    return said


def _denied(error: BaseException, said: str) -> bool:
    if isinstance(error, PermissionError) or getattr(error, "code", None) in (401, 403):
        return True
    return any(word in said.lower() for word in DENIED)


def _package(scheme: str) -> str:
    if scheme in GOOGLE:
        return "install the extra `gcp` of vim-image-modeling, or gcsfs"
    return f"install the fsspec package for {scheme}://"


def _login(scheme: str) -> str:
    if scheme not in GOOGLE:
        return "log in to the store, and let this account read and write the bucket"
    return (
        "log in by `gcloud auth application-default login` or name a key file in GOOGLE_APPLICATION_CREDENTIALS, and "
        "give the account the role Storage Object Admin on the bucket"
    )
