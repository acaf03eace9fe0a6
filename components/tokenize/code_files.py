"""The files of a code table as its manifest describes them, and the tokenizer that they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.contract import lineage
from components.contract.api import Artifact
from vim_core.errors import LineageError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.data.code_files import CodeFile


def code_files(codes: Artifact, split: str) -> list[CodeFile]:
    """Files of one split with size, checksum, rows and tokenizer, which `CodeTable` checks."""
    from vim_core.data.code_files import CodeFile

    tokenizer = str(codes.properties["tokenizer"])
    entries = sorted((e for e in codes.manifest.files if e.name.startswith(f"codes/{split}-")), key=lambda e: e.name)
    return [CodeFile(io.join(codes.folder, e.path), e.bytes, e.sha256, e.rows, tokenizer) for e in entries]


def check_tokenizer(codes: Artifact, tokenizer: Artifact) -> None:
    """Raise `LineageError` unless the code table was made by this encoder and codebook."""
    made_by, expected = lineage.recorded_digests(codes.properties), lineage.tokenizer_digests(tokenizer)
    if not lineage.same_codes(made_by, expected):
        raise LineageError(
            f"the code table {codes.digest[:12]} {lineage.mismatch(made_by, expected, 'was made by')}; "
            "run `vimctl run tokenize` for this tokenizer"
        )
