"""Figures of reconstructions and of codes: PSNR, SSIM, LPIPS, rFID, codebook usage, perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from components.contract.api import Context, Inputs
from components.score import protocols
from components.score.feature_cache import distance_of_sides
from components.score.partition import network_record
from components.score.protocols import BOOTSTRAP, JACKKNIFE, PARTS, Figures
from components.score.shards import ReconstructionShard, read_record
from vim_core.config import ScoreConfig
from vim_core.errors import DataError
from vim_core.storage import io

PER_IMAGE = ("psnr_db", "ssim", "lpips")


def add_reconstructions(
    figures: Figures, shards: Sequence[ReconstructionShard], config: ScoreConfig, inputs: Inputs, ctx: Context
) -> None:
    """Add means over images and, if features were measured, the distance of both sides.

    Writes `reconstructions.parquet`: key, psnr_db, ssim (null below its window's size), lpips if measured. Raises
    `DataError` where there is no reconstruction.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vim_core.metrics.intervals import bootstrap_interval

    parts = [read_record(shard.result) for shard in shards]
    columns = {name: [value for part in parts for value in part[name]] for name in ("keys", *PER_IMAGE)}
    count = len(columns["keys"])
    if not count:
        raise DataError("score: there is no reconstruction: the test split is empty, raise ingest.test_fraction")
    ssim = pa.array(columns["ssim"] or [None] * count, pa.float64())
    table: dict[str, Any] = {"key": columns["keys"], "psnr_db": columns["psnr_db"], "ssim": ssim}
    if columns["lpips"]:
        table["lpips"] = columns["lpips"]
    with io.staged(ctx.path("reconstructions.parquet")) as path:
        pq.write_table(pa.table(table), path, compression="zstd")
    images, size = inputs["images"], max(int(part["size"]) for part in parts)
    records = protocols.reconstruction_records(images, inputs["reconstructions"], count, size, config.lpips_sha256)
    for name in PER_IMAGE:
        if values := columns[name]:
            figures.put(float(np.mean(values)), records[name], bootstrap_interval(values), BOOTSTRAP)
    if config.reconstructed and shards[0].spec is not None and count >= 2:
        value, interval, _ = distance_of_sides([shard.result for shard in shards], config.groups)
        record = protocols.reconstruction_distance_record(network_record(inputs), images, count, size)
        method = JACKKNIFE.format(groups=config.groups, fixed="an image goes with its reconstruction")
        figures.put(value, record, interval, method)


def add_codes(figures: Figures, config: ScoreConfig, inputs: Inputs, cache: str = "") -> None:
    """Add codebook usage (Table 4) and perplexity of the unaugmented codes of the test images.

    Where there are fewer test images than `score.usage_batch`, training images fill one batch, which the protocol says.

    Raises:
        LineageError: the table has codes of another tokenizer.
    """
    import numpy as np

    from components.tokenize.plan import code_files
    from vim_core.data.code_tables import CodeTable
    from vim_core.metrics import codebook
    from vim_core.metrics.intervals import jackknife_interval, student_interval

    codes = inputs["codes"]
    table = CodeTable(code_files(codes, "test"), cache)
    vocabulary = int(codes.properties["vocabulary"])
    table.check(str(codes.properties["tokenizer"]), vocabulary=vocabulary)
    plain = table.codes[table.view == 0]
    batch, files = plain, code_files(codes, "train")
    if files and len(plain) < config.usage_batch:
        training = CodeTable(files, cache)
        training.check(str(codes.properties["tokenizer"]), vocabulary=vocabulary)
        rows = np.flatnonzero(training.view == 0)[: config.usage_batch - len(plain)]
        batch = np.concatenate([plain, training.codes[rows]])
    records = protocols.code_records(codes, len(plain), len(batch) - len(plain), config.usage_batch)
    shares = codebook.usages(batch, vocabulary, max(1, min(config.usage_batch, len(batch))))
    usage = float(np.mean(shares))
    interval = student_interval(usage, shares) if len(shares) > 1 else None
    method = PARTS.format(parts=f"{len(shares)} batches of images")
    figures.put(usage, records["codebook_usage"], interval, method)
    counts = codebook.histogram(plain, vocabulary)
    perplexity, interval = codebook.perplexity(counts), None
    if config.groups and len(plain) >= 2 * config.groups:
        parts = [codebook.histogram(plain[group :: config.groups], vocabulary) for group in range(config.groups)]
        interval = jackknife_interval(perplexity, [codebook.perplexity(counts - part) for part in parts])
    method = JACKKNIFE.format(groups=config.groups, fixed="the tokenizer is taken as it is")
    figures.put(perplexity, records["perplexity"], interval, method)
