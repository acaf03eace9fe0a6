"""Files of a sweep below the root: `sweeps/<name>/results.json` and its page."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from components.artifacts import lease, store, usage
from pipelines.sweeps.spec import NAME, SWEEPS
from vim_core.errors import ConfigError, DataError
from vim_core.storage import io

RESULTS, PAGE = "results.json", "sweep.html"


def folder(root: str, name: str) -> str:
    """The folder of a sweep's results. Raises `ConfigError` for a name that no sweep can have."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"sweep {name!r}: give the sweep's name, as its folder below {io.join(root, SWEEPS)}")
    return io.join(root, SWEEPS, name)


def names(root: str) -> list[str]:
    """Sweeps that were run in this root."""
    with store.guarded(root):
        return [
            name for name in io.list_names(io.join(root, SWEEPS)) if io.exists(io.join(root, SWEEPS, name, RESULTS))
        ]


def read(root: str, name: str) -> dict[str, Any] | None:
    """The results of a sweep so far, or None. Raises `DataError` for a damaged file."""
    uri = io.join(folder(root, name), RESULTS)
    data = store.read_bytes(root, uri)
    if data is None:
        return None
    try:
        results: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise DataError(f"{uri}: not valid JSON ({error}); remove it and run the sweep again") from error
    return results


def write(root: str, name: str, results: dict[str, Any]) -> None:
    """Replace the results of a sweep atomically."""
    with store.guarded(root):
        io.write_bytes(io.join(folder(root, name), RESULTS), (json.dumps(results, indent=1) + "\n").encode())


@contextlib.contextmanager
def lock(root: str, name: str, note: Any) -> Iterator[None]:
    """Run a sweep in one process at a time: waits while another living one runs it, `note` gets a message."""
    leases = io.join(root, usage.LEASES, SWEEPS, name)
    with store.guarded(root):
        io.make_folder(leases)
    with lease.hold(leases, note):
        yield
