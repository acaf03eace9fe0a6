"""Statistics files of any kind: which one a file is, and the merge of any number of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from vim_core.errors import DataError
from vim_core.metrics import npz
from vim_core.metrics.inception_score import ScoreSums
from vim_core.metrics.merge_tree import insert, total
from vim_core.metrics.moments import Moments
from vim_core.metrics.precision_recall import FeatureSample
from vim_core.storage import io

READERS: dict[str, Callable[[bytes], Any]] = {
    "m2": Moments.from_bytes,
    "negentropy": ScoreSums.from_bytes,
    "hashes": FeatureSample.from_bytes,
}
"""The array that only this kind of file has, and what reads it."""


def from_bytes(data: bytes) -> Any:
    """`Moments`, `ScoreSums` or `FeatureSample`, as the file holds. Raises `DataError` for any other."""
    found = npz.names(data)
    for name, reader in READERS.items():
        if name in found:
            return reader(data)
    raise DataError(f"not a statistics file (arrays: {', '.join(sorted(found)) or 'none'}): run statistics again")


def merged(uris: Iterable[str]) -> Any:
    """The statistics of all files together, few of them in memory at once: any subset or union, no image read again.

    Raises `DataError` for no files, for files of different kinds or networks, and for other files.
    """
    nodes: dict[tuple[int, int], Any] = {}
    kind: type | None = None
    for index, uri in enumerate(uris):
        part = from_bytes(io.read_bytes(uri))
        if kind not in (None, type(part)):
            raise DataError(f"{uri} holds {type(part).__name__}, the files before it {kind.__name__}")
        kind = type(part)
        insert(nodes, 0, index, part)
    if not nodes:
        raise DataError("no statistics files to merge")
    return total(nodes)
