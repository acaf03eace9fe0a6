"""Images of any layout to an image table (Beam); what cannot be used goes to a dead-letter table with its reason."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from components.contract.api import Context, Inputs, Outcome
from components.ingest.contact_sheet import contact_sheet
from components.ingest.detect_layout import DIGITS, check_source
from components.ingest.labels import digest_of
from components.ingest.locator import KEY_RULES
from components.ingest.plan import SPLITS, Plan, first_reasons, lists_of, make_plan, settled
from components.ingest.scan import read_part
from components.ingest.shards import (
    Dead,
    Shard,
    digest_of_shards,
    finished,
    read_record,
    shard_for,
    shards_of,
    write_shard,
)
from vim_core.config import IngestConfig
from vim_core.errors import DataError
from vim_core.storage import io

VERSION = 2
INPUTS: dict[str, str] = {}

PICTURE = "contact_sheet.png"
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
        found = folders.listing_digest(folders.list_files(config.source, config.split))
    lists = [each.digest for each in lists_of(config)]
    named = (("ingest.class_list", config.class_list), ("ingest.val_labels", config.val_labels))
    lists += [f"{setting} {digest_of(uri, setting)}" for setting, uri in named if uri]
    return hashlib.sha256(repr((found, lists)).encode()).hexdigest() if lists else found


def run(config: IngestConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Files `images/<split>-NNNNN-of-NNNNN.parquet`, `dead_letter.parquet` and `contact_sheet.png`.

    Finished parts and shards of an earlier attempt are kept. Raises `DataError` for a missing source, an empty split,
    or more unusable images than `ingest.max_bad_share` allows.
    """
    from components.engines.shards import publish

    plan = make_plan(config, ctx)
    _note_left_out(plan, ctx)
    if _too_many(config, plan.dead, plan.total):
        raise _refused(config, first_reasons(config, plan, REASONS), plan.dead, plan.total)
    shards = shards_of(config, plan, ctx.work)
    _write(shards, plan, config, ctx)
    records = {shard.name: read_record(shard) for shard in shards}
    dead: list[Dead] = sorted(tuple(entry) for record in records.values() for entry in record["dead"])
    if _too_many(config, len(dead), plan.total):
        reasons = sorted((source, reason) for _, reason, source in dead)
        raise _refused(config, reasons[:REASONS], len(dead), plan.total)
    counts = {split: sum(records[s.name]["rows"] for s in shards if s.split == split) for split in SPLITS}
    _check_counts(config, counts, len(dead), plan.total)
    for shard in shards:
        publish(ctx, shard.table, shard.name)
    _write_dead(ctx.path("dead_letter.parquet"), dead)
    _draw(shards, records, config, ctx)
    outcome = _outcome(config, plan, records, counts, dead)
    outcome.digest = digest_of_shards(shards, records)
    return outcome


def _note_left_out(plan: Plan, ctx: Context) -> None:
    if plan.left_out:
        ctx.progress.note(f"ingest: {plan.left_out:,} files are in neither list and left out")
    if plan.left_out_files:
        first = ", ".join(plan.left_out_files[:REASONS])
        ctx.progress.note(f"ingest: {len(plan.left_out_files):,} files are for neither split and left out ({first} …)")


def _write(shards: Sequence[Shard], plan: Plan, config: IngestConfig, ctx: Context) -> None:
    import apache_beam as beam

    from components.engines.beam.runner import run_pipeline
    from components.engines.shards import finished_counter, start_progress

    waiting = {shard.name: shard for shard in start_progress(shards, finished, ctx.progress)}
    if not waiting:
        return
    for shard in waiting.values():
        io.remove_tree(shard.record)  # of other images: from here on, a record means a finished shard
    classes = plan.classes

    def build(pipeline: Any) -> None:
        # Locators alone are shuffled, as bare tuples: whoever writes a shard reads the bytes.
        parts = pipeline | "parts" >> beam.Create(plan.parts) | "spread" >> beam.Reshuffle()
        images = parts | "place" >> beam.FlatMap(lambda uri: _placed(config, classes, uri))
        images = images | "unfinished" >> beam.Filter(lambda pair: pair[0] in waiting)
        empty = pipeline | "shards" >> beam.Create([(name, None) for name in waiting])
        grouped = (images, empty) | beam.Flatten() | "by shard" >> beam.GroupByKey()
        _ = grouped | "write" >> beam.MapTuple(lambda name, group: write_shard(waiting[name], group))

    run_pipeline(ctx.run, build, ctx.progress, finished_counter(shards, lambda shard: io.exists(shard.record)))


def _placed(config: IngestConfig, classes: Any, uri: str) -> Any:
    """The images of a part with the names of their shards."""
    settle = settled(config, classes)
    for image in map(settle, read_part(uri)[1]):
        yield shard_for(config, image), tuple(image)


def _too_many(config: IngestConfig, dead: int, total: int) -> bool:
    return dead > config.max_bad_share * total


def _refused(config: IngestConfig, reasons: Sequence[tuple[str, str]], dead: int, total: int) -> DataError:
    first = "; ".join(f"{source}: {reason}" for source, reason in reasons)
    return DataError(
        f"ingest.max_bad_share={config.max_bad_share}: {dead} of {total} files of {config.source} cannot be used "
        f"({dead / total:.2%}); first: {first}. Mend or remove them, or raise ingest.max_bad_share"
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


def _draw(shards: Sequence[Shard], records: Mapping[str, Any], config: IngestConfig, ctx: Context) -> None:
    rows = {shard.table: records[shard.name]["rows"] for shard in shards}
    picture = contact_sheet(list(rows), rows, config.max_pixels)
    io.write_bytes(ctx.path(PICTURE), picture)
    ctx.tracker.image("contact_sheet", picture)


def _outcome(
    config: IngestConfig, plan: Plan, records: dict[str, Any], counts: dict[str, int], dead: list[Dead]
) -> Outcome:
    from vim_core.data.folders import LAYOUTS
    from vim_core.data.images import EXIF_RULE

    sizes = {tuple(size) for record in records.values() for size in record["sizes"]}
    rules: dict[str, Any] = {
        "hash": f"sha256(key) as a fraction < {config.test_fraction} is test",
        "folders": LAYOUTS["folders"] if plan.layout == "folders" else "the word train, val or test in a file's path",
        "lists": {each.split: {"lines": len(each.lines), "sha256": each.digest} for each in lists_of(config)},
    }
    properties = {
        "layout": plan.layout,
        "classes": list(plan.classes.ids),
        "class_names": list(plan.classes.names),
        "class_counts": _class_counts(plan, records),
        "splits": counts,
        "read": plan.total,
        "written": sum(counts.values()),
        "dead_letter": len(dead),
        "left_out": plan.left_out,
        "left_out_files": plan.left_out_files,
        "reasons": dict(Counter(reason.split(":")[0] for _, reason, _ in dead)),
        "key_rule": {KEY_RULES[rule]: count for rule, count in sorted(plan.rules.items())},
        "split_rule": rules[config.split],
        "shard_rule": f"sha256('shard', key without occurrence) mod {config.shards}, sorted by key",
        "exif_rule": EXIF_RULE,
        "contact_sheet": PICTURE,
        "image_size": list(sizes.pop()) if len(sizes) == 1 else None,
    }
    rows = {name: int(record["rows"]) for name, record in records.items()} | {"dead_letter.parquet": len(dead)}
    metrics = {**{split: float(count) for split, count in counts.items()}, "dead_letter": float(len(dead))}
    return Outcome(metrics=metrics, properties=properties, rows=rows, extras=frozenset({PICTURE}))


def _class_counts(plan: Plan, records: Mapping[str, Any]) -> dict[str, list[int]]:
    """Images of every class by split, in label order."""
    counts = {split: [0] * len(plan.classes.ids) for split in SPLITS}
    for name, record in records.items():
        for label, count in record["labels"]:
            if label >= 0:
                counts[name.removeprefix("images/").split("-")[0]][label] += count
    return counts
