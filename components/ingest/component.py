"""Images of any layout to an image table (Beam); unusable images go to a dead-letter table with their reasons."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.contract.api import Context, Inputs, Outcome
from components.ingest.detect_layout import DIGITS, check_source
from components.ingest.index import read_chunk, read_chunks
from components.ingest.labels import file_digest
from components.ingest.plan import SPLITS, IngestPlan, assigner, make_plan, split_lists
from components.ingest.shards import (
    DeadLetter,
    IngestShard,
    finished,
    make_shards,
    read_record,
    shard_of_image,
    table_digest,
    write_shard,
)
from components.ingest.source_images import KEY_RULES
from vim_core.config import IngestConfig
from vim_core.errors import DataError
from vim_core.storage import io

VERSION = 2
INPUTS: dict[str, str] = {}

PICTURE = "contact_sheet.png"
COLUMNS, ROWS, SIDE = 8, 4, 64
"""Number of images of the contact sheet, and their size in pixels."""
READING = {"image_column": "", "label_column": "", "label_numbers": "keep"}
"""Settings that change what is read, with their defaults."""
REASONS = 3
"""Number of reasons that an error message names."""


def source_state(config: IngestConfig) -> str:
    """A hash of the source's content: part of the fingerprint. Raises `DataError` for a missing source."""
    from vim_core.data import digits, folders

    if config.source_digest:
        state = config.source_digest
    elif config.source == DIGITS:
        state = digits.digest()
    else:
        check_source(config)
        state = folders.listing_digest(folders.list_files(config.source, config.split, config.links))
    lists = [image_list.digest for image_list in split_lists(config)]
    files = (("ingest.class_list", config.class_list), ("ingest.val_labels", config.val_labels))
    lists += [f"{setting} {file_digest(uri, setting)}" for setting, uri in files if uri]
    # Of `ingest.links` the listing tells. The rest counts where it is set, so that older artifacts keep their names.
    lists += [f"ingest.{name}={getattr(config, name)}" for name in READING if getattr(config, name) != READING[name]]
    return hashlib.sha256(repr((state, lists)).encode()).hexdigest() if lists else state


def run(config: IngestConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Files `images/<split>-NNNNN-of-NNNNN.parquet`, `dead_letter.parquet` and `contact_sheet.png`.

    Finished chunks and shards of an earlier attempt are kept. Raises `DataError` for a missing source, an empty split,
    or more unusable images than `ingest.max_bad_share` allows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from components.engines.attempts import publish

    plan = make_plan(config, ctx)
    if plan.left_out:
        ctx.progress.note(f"{plan.left_out:,} files are in neither list and left out")
    if plan.left_out_files:
        first = ", ".join(plan.left_out_files[:REASONS])
        ctx.progress.note(f"{len(plan.left_out_files):,} files are for neither split and left out ({first} …)")
    if plan.left_out_kinds:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in plan.left_out_kinds.items())
        ctx.progress.note(f"{sum(plan.left_out_kinds.values()):,} files are left out ({kinds})")
    if plan.dead > config.max_bad_share * plan.total:
        images = map(assigner(config, plan), read_chunks(plan.chunks))
        first_reasons = heapq.nsmallest(REASONS, ((image.source, image.reason) for image in images if image.reason))
        raise _too_many_bad(config, first_reasons, plan.dead, plan.total)
    shards = make_shards(config, plan, ctx.work)
    _write_shards(shards, plan, config, ctx)
    records = {shard.name: read_record(shard) for shard in shards}
    dead: list[DeadLetter] = sorted(tuple(letter) for record in records.values() for letter in record["dead"])
    if len(dead) > config.max_bad_share * plan.total:
        reasons = sorted((source, reason) for _, reason, source in dead)
        raise _too_many_bad(config, reasons[:REASONS], len(dead), plan.total)
    counts = {split: sum(records[s.name]["rows"] for s in shards if s.split == split) for split in SPLITS}
    _check_counts(config, counts, len(dead), plan.total)
    _check_classes(plan, records, dead)
    for shard in shards:
        publish(ctx, shard.table, shard.name)
    columns = [pa.array([letter[index] for letter in dead], pa.string()) for index in range(3)]
    with io.staged(ctx.path("dead_letter.parquet")) as path:
        pq.write_table(pa.Table.from_arrays(columns, ["key", "reason", "source"]), path, compression="zstd")
    picture = contact_sheet({shard.table: records[shard.name]["rows"] for shard in shards}, config.max_pixels)
    io.write_bytes(ctx.path(PICTURE), picture)
    ctx.tracker.image("contact_sheet", picture)
    rows = {name: int(record["rows"]) for name, record in records.items()} | {"dead_letter.parquet": len(dead)}
    return Outcome(
        metrics={**{split: float(count) for split, count in counts.items()}, "dead_letter": float(len(dead))},
        properties=_properties(config, plan, records, counts, dead),
        rows=rows,
        extras=frozenset({PICTURE}),
        digest=table_digest(shards, records),
    )


def _write_shards(shards: Sequence[IngestShard], plan: IngestPlan, config: IngestConfig, ctx: Context) -> None:
    import apache_beam as beam

    from components.engines.attempts import finished_counter, start_progress
    from components.engines.beam import run_pipeline, same_code

    left = {shard.name: shard for shard in start_progress(shards, finished, ctx.progress)}
    if not left:
        return
    for shard in left.values():
        io.remove_tree(shard.record)  # of other images: from here on, a record means a finished shard
    assign = assigner(config, plan)

    def assigned(uri: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
        images = map(assign, read_chunk(uri)[1])
        return ((shard_of_image(config, image), tuple(image)) for image in images)

    def build(pipeline: Any) -> None:
        # Images are shuffled without their bytes, as plain tuples; the writer of a shard reads the bytes.
        chunks = pipeline | "chunks" >> beam.Create(plan.chunks) | "spread" >> beam.Reshuffle() | same_code()
        images = chunks | "assign" >> beam.FlatMap(assigned)
        images = images | "unfinished" >> beam.Filter(lambda pair: pair[0] in left)
        empty = pipeline | "shards" >> beam.Create([(name, None) for name in left])
        grouped = (images, empty) | beam.Flatten() | "by shard" >> beam.GroupByKey()
        _ = grouped | "write" >> beam.MapTuple(lambda name, group: write_shard(left[name], group))

    run_pipeline(ctx.run, build, ctx.progress, finished_counter(shards, lambda shard: io.exists(shard.record)))


def _too_many_bad(config: IngestConfig, reasons: Sequence[tuple[str, str]], dead: int, total: int) -> DataError:
    first = "; ".join(f"{source}: {reason}" for source, reason in reasons)
    return DataError(
        f"ingest.max_bad_share={config.max_bad_share}: {dead} of {total} files of {config.source} cannot be used "
        f"({dead / total:.2%}); first: {first}. Fix or remove them, or raise ingest.max_bad_share"
    )


def _check_counts(config: IngestConfig, counts: dict[str, int], dead: int, total: int) -> None:
    """Check that every image is written or a dead letter, and that no split is empty."""
    if sum(counts.values()) + dead != total:
        raise DataError(f"ingest: {total} files were read but {sum(counts.values())} written and {dead} set aside")
    for split, count in counts.items():
        if not count:
            share = "the lists" if config.split == "lists" else f".test_fraction={config.test_fraction}"
            settings = f"ingest.split={config.split}, {share} or .limit={config.limit}"
            raise DataError(f"no images in the {split} split of {config.source} ({total} files); change {settings}")


def _check_classes(plan: IngestPlan, records: Mapping[str, Any], dead: Sequence[DeadLetter]) -> None:
    """Check that no class lost all its images, or all for training: `ingest.max_bad_share` is for single ones."""
    for where in ("images/", "images/train-"):
        names = [name for name in records if name.startswith(where)]
        written = sum((Counter(dict(records[name]["labels"])) for name in names), Counter())
        lost = sum((Counter(dict(records[name]["lost_labels"])) for name in names), Counter())
        for label, count in sorted(lost.items()):
            if label >= 0 and not written[label]:
                name = plan.classes.ids[label]
                kind = "training images" if where.endswith("-") else "images"
                first = "; ".join(f"{source}: {reason}" for _, reason, source in dead[:REASONS])
                raise DataError(
                    f"ingest: all {count} {kind} of class {name!r} are unusable, whatever ingest.max_bad_share allows "
                    f"(of all classes first: {first}); mend them, or remove the class from the source"
                )


def contact_sheet(tables: Mapping[str, int], max_pixels: int) -> bytes:
    """A PNG of 32 images, spread over the keys of the first tables (shards are assigned by hash, so any will do).

    `tables` gives the number of rows by URI.
    """
    import numpy as np

    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import center_crop, decode, grid_png, to_tensor

    chosen: list[str] = []
    for uri, rows in tables.items():
        if rows and sum(tables[other] for other in chosen) < COLUMNS * ROWS:
            chosen.append(uri)
    table = ImageTable(chosen, cached_groups=1)
    indices = np.unique(np.linspace(0, len(table) - 1, min(COLUMNS * ROWS, len(table))).round().astype(int))
    images = [center_crop(decode(table.image(int(index)), max_pixels), SIDE) for index in indices]
    return grid_png(to_tensor(np.stack(images)), COLUMNS)


def _properties(
    config: IngestConfig, plan: IngestPlan, records: Mapping[str, Any], counts: dict[str, int], dead: list[DeadLetter]
) -> dict[str, Any]:
    """The manifest's account of the table: layout, classes, counts, rules."""
    from vim_core.data.folders import LAYOUTS
    from vim_core.data.images import EXIF_RULE

    sizes = {tuple(size) for record in records.values() for size in record["sizes"]}
    split_rules: dict[str, Any] = {
        "hash": f"sha256(key) as a fraction < {config.test_fraction} is test",
        "folders": LAYOUTS["folders"] if plan.layout == "folders" else "the word train, val or test in a file's path",
        "lists": {
            images.split: {"lines": len(images.lines), "sha256": images.digest} for images in split_lists(config)
        },
    }
    class_counts = {split: [0] * len(plan.classes.ids) for split in SPLITS}  # in label order
    for name, record in records.items():
        for label, count in record["labels"]:
            if label >= 0:
                class_counts[name.removeprefix("images/").split("-")[0]][label] += count
    return {
        "layout": plan.layout,
        "classes": list(plan.classes.ids),
        "class_names": list(plan.classes.names),
        "class_counts": class_counts,
        "splits": counts,
        "read": plan.total,
        "written": sum(counts.values()),
        "dead_letter": len(dead),
        "left_out": plan.left_out,
        "left_out_files": plan.left_out_files,
        "left_out_kinds": plan.left_out_kinds,
        "reasons": dict(Counter(reason.split(":")[0] for _, reason, _ in dead)),
        "key_rule": {KEY_RULES[rule]: count for rule, count in sorted(plan.rules.items())},
        "split_rule": split_rules[config.split],
        "shard_rule": f"sha256('shard', key without occurrence) mod {config.shards}, sorted by key",
        "exif_rule": EXIF_RULE,
        "contact_sheet": PICTURE,
        "image_size": list(sizes.pop()) if len(sizes) == 1 else None,
    }
