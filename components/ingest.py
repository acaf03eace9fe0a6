"""Images of any layout to an image table (Beam); what cannot be used goes to a dead-letter table with its reason."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

from components.api import Context, Inputs, Outcome
from components.ingesting.plan import DIGITS, SPLITS, Dead, Located, Plan, check_source, lists_of, make_plan
from components.ingesting.shards import Shard, assign, finished, write_shard
from vim_core import io
from vim_core.config import IngestConfig
from vim_core.errors import DataError

VERSION = 1
INPUTS: dict[str, str] = {}

REASONS = 3
"""How many reasons an error names."""


def source_state(config: IngestConfig) -> str:
    """What the source holds, as a hash: part of the fingerprint. Raises `DataError` for a missing source."""
    from vim_core.data import digits, folders

    if config.source_digest:
        found = config.source_digest
    elif config.source == DIGITS:
        found = digits.digest()
    else:
        check_source(config)
        found = folders.state(folders.listing(config.source, config.split))
    lists = [each.digest for each in lists_of(config)]
    return hashlib.sha256(repr((found, lists)).encode()).hexdigest() if lists else found


def run(config: IngestConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Files `images/<split>-NNNNN-of-NNNNN.parquet` and `dead_letter.parquet`.

    Finished shards of an earlier attempt are kept. Raises `DataError` for a missing source, an empty split, or more
    unusable files than `ingest.max_bad_share` allows.
    """
    from components.beam_jobs import publish

    plan = make_plan(config)
    if plan.left_out:
        ctx.progress.note(f"ingest: {plan.left_out:,} files are in neither list and left out")
    _refuse_bad(config, plan.dead, plan.total)
    shards, located = assign(config, plan, ctx.work)
    _write(shards, located, ctx)
    records = {shard.name: json.loads(io.read_bytes(shard.record)) for shard in shards}
    dead = sorted(plan.dead + [tuple(entry) for record in records.values() for entry in record["dead"]])
    _refuse_bad(config, dead, plan.total)
    counts = {split: sum(records[s.name]["rows"] for s in shards if s.split == split) for split in SPLITS}
    _check_counts(config, counts, len(dead), plan.total)
    for shard in shards:
        publish(ctx, shard.table, shard.name)
    _write_dead(ctx.path("dead_letter.parquet"), dead)
    return _outcome(config, plan, records, counts, dead)


def _write(shards: list[Shard], located: list[tuple[str, Located]], ctx: Context) -> None:
    import apache_beam as beam

    from components.beam_jobs import announce, counter, run_pipeline

    waiting = {shard.name: shard for shard in announce(shards, finished, ctx.progress)}
    if not waiting:
        return
    for shard in waiting.values():
        io.remove_tree(shard.record)  # of other images: from here on, a record means a finished shard

    def build(pipeline: Any) -> None:
        images = pipeline | "images" >> beam.Create([pair for pair in located if pair[0] in waiting])
        empty = pipeline | "shards" >> beam.Create([(name, None) for name in waiting])
        grouped = (images, empty) | beam.Flatten() | "by shard" >> beam.GroupByKey()
        _ = grouped | "write" >> beam.MapTuple(lambda name, group: write_shard(waiting[name], group))

    run_pipeline(ctx.run, build, ctx.progress, counter(shards, lambda shard: io.exists(shard.record)))


def _refuse_bad(config: IngestConfig, dead: list[Dead], total: int) -> None:
    if len(dead) <= config.max_bad_share * total:
        return
    first = "; ".join(f"{key}: {reason}" for key, reason, _ in sorted(dead)[:REASONS])
    raise DataError(
        f"ingest.max_bad_share={config.max_bad_share}: {len(dead)} of {total} files of {config.source} cannot be used "
        f"({len(dead) / total:.2%}); first: {first}. Mend or remove them, or raise ingest.max_bad_share"
    )


def _check_counts(config: IngestConfig, counts: dict[str, int], dead: int, total: int) -> None:
    if sum(counts.values()) + dead != total:
        raise DataError(f"ingest: {total} files were read but {sum(counts.values())} written and {dead} set aside")
    for split, count in counts.items():
        if not count:
            share = "the lists" if config.split == "lists" else f".test_fraction={config.test_fraction}"
            settings = f"ingest.split={config.split}, {share} or .limit={config.limit}"
            raise DataError(f"no images in the {split} split of {config.source} ({total} files); change {settings}")


def _write_dead(uri: str, dead: list[Dead]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [pa.array([entry[index] for entry in dead], pa.string()) for index in range(3)]
    with io.staged(uri) as path:
        pq.write_table(pa.Table.from_arrays(columns, ["key", "reason", "source"]), path, compression="zstd")


def _outcome(
    config: IngestConfig, plan: Plan, records: dict[str, Any], counts: dict[str, int], dead: list[Dead]
) -> Outcome:
    from vim_core.data.folders import LAYOUTS
    from vim_core.data.tables import digest_of

    sizes = {tuple(size) for record in records.values() for size in record["sizes"]}
    rules: dict[str, Any] = {
        "hash": f"sha256(key) as a fraction < {config.test_fraction} is test",
        "folders": LAYOUTS["folders"],
        "lists": {each.split: {"lines": len(each.lines), "sha256": each.digest} for each in lists_of(config)},
    }
    properties = {
        "classes": plan.classes,
        "splits": counts,
        "read": plan.total,
        "written": sum(counts.values()),
        "dead_letter": len(dead),
        "left_out": plan.left_out,
        "reasons": dict(Counter(reason.split(":")[0] for _, reason, _ in dead)),
        "key_rule": "digit-<index>" if config.source == DIGITS else "path below ingest.source",
        "split_rule": rules[config.split],
        "shard_rule": f"sha256('shard', key) mod {config.shards}, sorted by key",
        "image_size": list(sizes.pop()) if len(sizes) == 1 else None,
    }
    rows = {name: int(record["rows"]) for name, record in records.items()} | {"dead_letter.parquet": len(dead)}
    metrics = {**{split: float(count) for split, count in counts.items()}, "dead_letter": float(len(dead))}
    digest = digest_of(line for record in records.values() for line in record["lines"])
    return Outcome(metrics=metrics, properties=properties, rows=rows, digest=digest)
