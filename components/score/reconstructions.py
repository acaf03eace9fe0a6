"""Figures of reconstructions and of codes: PSNR, SSIM, LPIPS, rFID, codebook usage, perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from components.contract.api import Context, Inputs
from components.score import feature_cache, protocols, shards
from components.score.figures import BOOTSTRAP, JACKKNIFE, PARTS, Figures
from vim_core.config import ScoreConfig
from vim_core.errors import DataError
from vim_core.storage import io

EACH = ("psnr_db", "ssim", "lpips")


def add_reconstructions(
    figures: Figures,
    pairs: Sequence[shards.Pair],
    config: ScoreConfig,
    inputs: Inputs,
    ctx: Context,
    network: dict[str, Any],
) -> None:
    """Means over images, the distance of the sets if features were taken, and the file `reconstructions.parquet`."""
    import numpy as np

    from vim_core.metrics.intervals import bootstrap_interval

    records = [shards.load(job.result) for job in pairs]
    columns = {name: [x for record in records for x in record[name]] for name in ("keys", *EACH)}
    if not columns["keys"]:
        raise DataError("score: there is no reconstruction: the test split is empty, raise ingest.test_fraction")
    _write_table(ctx.path("reconstructions.parquet"), columns)
    count, size = len(columns["keys"]), max(int(record["size"]) for record in records)
    images, made = inputs["images"], inputs["reconstructions"]
    known = protocols.of_reconstructions(images, made, count, size, config.lpips_sha256)
    for name in EACH:
        if columns[name]:
            values = columns[name]
            figures.put(name, float(np.mean(values)), known[name], bootstrap_interval(values), BOOTSTRAP)
    if config.reconstructed and pairs[0].tap is not None and count >= 2:
        record = protocols.of_reconstructed(network, images, count, size)
        _add_distance(figures, pairs, config.groups, record)


def _add_distance(figures: Figures, pairs: Sequence[shards.Pair], groups: int, record: dict[str, Any]) -> None:
    from vim_core.metrics.feature_statistics import merge_files
    from vim_core.metrics.frechet import frechet_distance

    results = [job.result for job in pairs]
    made, real = (
        merge_files(shards.part_file(f"{each}-{side}", "moments") for each in results) for side in ("made", "real")
    )
    value = frechet_distance(made, real)
    interval = None
    if pairs[0].keep:
        features = [feature_cache.gather(results, f"kept-{side}") for side in ("made", "real")]
        interval = feature_cache.interval_of(value, [(made, features[0]), (real, features[1])], groups)
    how = JACKKNIFE.format(groups=groups, fixed="an image goes with its reconstruction")
    figures.put(record["figure"], value, record, interval, how)


def _write_table(uri: str, columns: dict[str, list[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = columns["ssim"] or [None] * len(columns["keys"])
    named = {"key": columns["keys"], "psnr_db": columns["psnr_db"], "ssim": pa.array(whole, pa.float64())}
    if columns["lpips"]:
        named["lpips"] = columns["lpips"]
    with io.staged(uri) as path:
        pq.write_table(pa.table(named), path, compression="zstd")


def add_codes(figures: Figures, config: ScoreConfig, inputs: Inputs, cache: str = "") -> None:
    """Codebook usage by Table 4's definition and perplexity of the plain view of the test images."""
    import numpy as np

    from components.tokenize.code_files import code_files
    from vim_core.data.code_tables import CodeTable
    from vim_core.metrics import codebook
    from vim_core.metrics.intervals import jackknife, student_interval

    codes = inputs["codes"]
    table = CodeTable(code_files(codes, "test"), cache)
    vocabulary = int(codes.properties["vocabulary"])
    table.check(str(codes.properties["tokenizer"]), vocabulary=vocabulary)
    plain = table.codes[table.view == 0]
    known = protocols.of_codes(codes, len(plain), config.usage_batch)
    shares = codebook.usages(plain, vocabulary, config.usage_batch)
    value = codebook.usage(plain, vocabulary, config.usage_batch)
    spread = student_interval(value, shares) if len(shares) > 1 else None
    how = PARTS.format(parts=f"{len(shares)} batches of images")
    figures.put("codebook_usage", value, known["codebook_usage"], spread, how)
    value, spread = codebook.perplexity(codebook.histogram(plain, vocabulary)), None
    if config.groups and len(plain) >= 2 * config.groups:
        counts = [codebook.histogram(plain[group :: config.groups], vocabulary) for group in range(config.groups)]
        spread = jackknife(counts, lambda some: np.sum(some, axis=0), codebook.perplexity)
    how = JACKKNIFE.format(groups=config.groups, fixed="the tokenizer is taken as it is")
    figures.put("perplexity", value, known["perplexity"], spread, how)
