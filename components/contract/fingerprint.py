"""Hashes of a request (fingerprint) and of its result (Merkle digest): contract 2."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from components.contract.api import Artifact
from components.contract.lineage import codes_digest

LENGTH = 20
"""Hex digits of a fingerprint: 80 bits, short enough to read in a path."""


def result_settings(config: Any) -> dict[str, Any]:
    """The settings of a config dataclass that change the result, groups as nested dicts.

    Without `execution` fields, and without those of `fields.new_setting` that have their default.
    """
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        if field.metadata.get("execution"):
            continue
        value = getattr(config, field.name)
        if field.metadata.get("unmarked") and value == field.default:
            continue
        settings[field.name] = result_settings(value) if dataclasses.is_dataclass(value) else value
    return settings


def fingerprint(
    component: str,
    version: int,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
    source: str = "",
    codes_of: Collection[str] = (),
) -> str:
    """20 hex digits naming this component at this version with these settings and input digests.

    `source` is the state of data outside the pipeline (ingest's listing). The inputs in `codes_of` are tokenizers of
    which the codes alone matter: they count by `lineage.codes_digest`, so that a finetuned decoder changes nothing.
    """
    request = {
        "component": component,
        "version": version,
        "settings": settings,
        "inputs": {n: codes_digest(a) if n in codes_of else a.digest for n, a in inputs.items()},
        "source": source,
    }
    return _sha256(request)[:LENGTH]


def merkle(pairs: Iterable[tuple[str, str]]) -> str:
    """64 hex digits over (logical name, sha256) pairs in any order. Raises `ValueError` for a repeated name."""
    ordered = sorted(pairs)
    names = [name for name, _ in ordered]
    if len(set(names)) != len(names):
        raise ValueError(f"a name occurs twice among {names}")
    return _sha256(ordered)


def _sha256(value: Any) -> str:
    # JSON with sorted keys is one text per value; NaN has no such text.
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
