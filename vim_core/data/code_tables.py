"""Code tables: the code files of a split as one table that is read from the disk by row, whatever its size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from vim_core.data import code_cache
from vim_core.data.code_files import CodeFile, check_meta
from vim_core.errors import DataError

BLOCK = 1 << 14
"""Keys whose ends are read at once when iterating."""


class Keys(Sequence[str]):
    """The image keys of all rows, decoded from the mapped text on access."""

    def __init__(self, ends: NDArray[np.int64], text: NDArray[np.uint8]) -> None:
        self._ends, self._text = ends, text

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        return self._decode(int(self._ends[row - 1]) if row else 0, int(self._ends[row]))

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), BLOCK):
            start = int(self._ends[first - 1]) if first else 0
            for end in self._ends[first : first + BLOCK].tolist():
                yield self._decode(start, end)
                start = end

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _decode(self, start: int, end: int) -> str:
        return self._text[start:end].tobytes().decode()


class CodeTable:
    """One or more code files of a split as one table, in the given order.

    The first process of a host that opens a table decodes it into the cache folder, where every file is checked against
    its metadata and, for `CodeFile`s, its manifest; all processes map that copy. Pickling transfers only the addresses.

    Attributes: `codes` uint16 [N, T] (uint32 above 65,536 codes; read only), `keys`, `labels` int64 [N] (-1 for none),
    `view` int32 [N], `views` and `meta`.

    Args:
        files: addresses, or `CodeFile`s with the manifest's entries.
        cache: folder of decoded tables; '' for the user's cache folder.

    Raises:
        DataError: no file, a missing or damaged one, one that differs from its manifest, one of another schema version,
            or files of different shape.
        LineageError: the files come from different tokenizers, or not from the expected one.
        StorageError: the cache folder cannot be used or is full.
    """

    def __init__(self, files: Sequence[str | CodeFile], cache: str = "") -> None:
        if not files:
            raise DataError("a code table without files: the split is missing, run tokenize again")
        code_files = [CodeFile(file) if isinstance(file, str) else file for file in files]
        self._arguments = code_files, cache
        folder = code_cache.decoded_table(code_files, cache)
        self.meta, self._rows = code_cache.read_index(folder)
        for file in code_files:
            if file.tokenizer:
                check_meta(file.uri, self.meta, file.tokenizer, None, None)
        columns = code_cache.map_columns(folder, self.meta)
        self.codes: NDArray[Any] = columns[code_cache.CODES]
        self.labels: NDArray[np.int64] = columns["labels"]
        self.view: NDArray[np.int32] = columns["view"]
        self.keys = Keys(columns["ends"], columns["text"])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def __len__(self) -> int:
        return self._rows

    @property
    def views(self) -> int:
        """Views per image."""
        return self.meta.views

    def check(self, tokenizer: str, grid: tuple[int, int] | None = None, vocabulary: int | None = None) -> None:
        """Raise `LineageError` for codes of another tokenizer, `DataError` for another grid or vocabulary."""
        check_meta("code table", self.meta, tokenizer, grid, vocabulary)
