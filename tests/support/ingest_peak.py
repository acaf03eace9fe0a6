"""Run `ingest` in a process of its own and print what it made and the most memory it held: see test_ingest_large."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from components.ingest import component as ingest
from tests.support.synthetic import context_of
from vim_core.config import IngestConfig


def main(source: str, root: str, fraction: str) -> None:
    """Take in WebDataset shards; one JSON line to standard output."""
    ctx = context_of(Path(root), "ingest")
    config = IngestConfig(source=source, split="hash", test_fraction=float(fraction), shards=8)
    outcome = ingest.run(config, {}, ctx)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    known = {name: outcome.properties[name] for name in ("read", "written", "dead_letter", "key_rule", "classes")}
    sys.stdout.write(json.dumps({**known, "digest": outcome.digest, "peak_kb": peak}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
