"""Stage 1 on real photographs with a CPU: a small tokenizer learns Tiny ImageNet; its curve is kept as JSON.

Run it from the repository root, again and again until it says that it is finished; each call continues the last one:

    VIM_TEST_DATA=../shared/data python -m tests.benchmarks.tiny_imagenet --work DIR --seconds 150

Settings are those of the preset `tiny_imagenet_cpu`; `key=value` words change them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tarfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.contract import settings
from components.ingest import component as ingest
from tests.support.common import CONF
from tests.support.synthetic import context_of
from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.checkpoint.state_dict import flat_state_dict, restore
from vim_core.config import IngestConfig, PipelineConfig
from vim_core.distributed import runtimes as seam
from vim_core.metrics import codebook
from vim_core.models.vit_vqgan import Tokenizer
from vim_core.tasks.quantizer import QuantizerData, QuantizerTask

PRESET = "tiny_imagenet_cpu"
ARCHIVE = "tiny_imagenet_train_100_per_class.tar.gz"
RESULT = Path(__file__).with_name("results") / "tiny_imagenet-cpu.json"
EVALUATED = 256
"""Held-out images behind every point of the curve: one of the paper's batches for codebook usage."""

Row = dict[str, float]


def load(words: list[str]) -> PipelineConfig:
    """The preset with overrides."""
    return settings.load(PRESET, words, CONF)


def unpack(data: Path, folder: Path, per_class: int) -> Path:
    """The first images of every class as `folder/<class>/<name>`; what is there already stays."""
    if not folder.exists():
        with tarfile.open(data / ARCHIVE) as tar:
            for member in tar:
                name = Path(member.name)
                if name.suffix != ".JPEG" or int(name.stem.rpartition("_")[2]) >= per_class:
                    continue
                place = folder / name.stem.rpartition("_")[0] / name.name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
    return folder


def tables(config: IngestConfig, source: Path, work: Path) -> QuantizerData:
    """Image tables through the real `ingest`."""
    config.source = str(source)
    ctx = context_of(work, "ingest")
    ctx.run.beam_processes = 1
    place = Path(ctx.out, "images")
    if not place.exists():
        ingest.run(config, {}, ctx)
    train, test = ([str(path) for path in sorted(place.glob(f"{split}-*"))] for split in ("train", "test"))
    return QuantizerData(train, test)


def effective_rank(latents: np.ndarray) -> float:
    """e^entropy of the shares of variance along the principal axes of latents [N, D] (Roy and Vetterli 2007)."""
    covariance = np.cov(np.asarray(latents, dtype=np.float64), rowvar=False)
    variances = np.linalg.eigvalsh(covariance).clip(min=0.0)
    shares = variances[variances > 0] / variances.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def evaluated(task: QuantizerTask, usage_batch: int) -> Row:
    """Mean PSNR in dB and codebook figures over the first held-out images."""
    images = task.held_out.plain(range(min(EVALUATED, len(task.held_out))))
    tokenizer = Tokenizer(task.model)
    codes = tokenizer.encode(images)
    error = (tokenizer.decode(codes) - images).square().mean(dim=(1, 2, 3))
    found, vocabulary = codes.numpy(), task.settings.codebook.codes
    looked_up = task.model.codebook.vectors(codes).flatten(0, 1)
    figures = {
        "test_psnr_db": float((-10 * error.log10()).mean()),
        "test_usage": float(np.mean(codebook.usages(found, vocabulary, min(usage_batch, len(found))))),
        "test_perplexity": codebook.perplexity(codebook.histogram(found, vocabulary)),
        "test_spread": effective_rank(looked_up.detach().numpy()),
    }
    return {name: round(value, 5) for name, value in figures.items()}


def train(config: PipelineConfig, data: QuantizerData, work: Path, seconds: float, threads: int = 0) -> list[Row]:
    """Train until the last step or until the time is up; the curve so far, one row per `log_every` steps.

    A later call with the same `work` continues at the last checkpoint.
    """
    quantize, began = config.quantize, time.monotonic()
    runtime = seam.create("cpu", quantize.precision, threads)
    task = QuantizerTask(quantize, data, runtime)
    checkpoints = Checkpoints(str(work / runtime.numeric.name), {"settings": asdict(quantize)}, runtime, keep=1)
    curve, found = work / "curve.json", checkpoints.latest()
    rows: list[Row] = json.loads(curve.read_text()) if curve.exists() else []
    start = 0
    if found:
        start = found.step
        restore(found, task.modules, task.optimizers)
    rows = [row for row in rows if row["step"] <= start]
    if not rows:
        rows.append({"step": 0.0, **evaluated(task, config.score.usage_batch)})
    for step in range(start, quantize.steps):
        tick = time.monotonic()
        runtime.seed_step(quantize.seed, step)
        figures = task.step(step, task.batch(step))
        figures["step_seconds"] = torch.tensor(time.monotonic() - tick)
        done = step + 1
        if done % quantize.log_every and done != quantize.steps:
            continue
        values = {name: round(float(value), 5) for name, value in figures.items()}
        rows.append({"step": float(done), **values, **evaluated(task, config.score.usage_batch)})
        report(rows[-1])
        checkpoints.save(done, flat_state_dict(task.modules, task.optimizers))
        checkpoints.wait()
        curve.write_text(json.dumps(rows))
        if time.monotonic() - began > seconds:
            break
    return rows


def report(row: Row) -> None:
    """One line for people."""
    names = ("test_psnr_db", "test_usage", "test_spread", "batch_usage", "loss", "l2", "adversarial", "discriminator")
    figures = "  ".join(f"{name} {row[name]:.4g}" for name in (*names, "step_seconds") if name in row)
    sys.stdout.write(f"step {row['step']:.0f}  {figures}\n")
    sys.stdout.flush()


def record(config: PipelineConfig, rows: list[Row], threads: int) -> dict[str, Any]:
    """What the kept file says: protocol, machine, settings, curve."""
    runtime = seam.create("cpu", config.quantize.precision, threads)
    share, batch = config.ingest.test_fraction, config.score.usage_batch
    return {
        "name": PRESET,
        "data": f"Tiny ImageNet's first 100 training images a class at 64x64, {share} of them held out by hash",
        "protocol": {
            "test_psnr_db": f"mean over the first {EVALUATED} held-out images",
            "test_usage": f"share of the codes found in {batch} held-out images (the paper's Table 4)",
            "test_spread": "dimensions that their code vectors fill, by entropy of the variances of the principal axes",
            "others": "of the training batch at that step",
        },
        "machine": {**asdict(runtime.numeric), "torch": torch.__version__},
        "settings": asdict(config.quantize),
        "curve": rows,
    }


def main() -> None:
    """Continue the training for a while and write the curve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=os.environ.get("VIM_TEST_DATA"), help="folder with the archive")
    parser.add_argument("--work", type=Path, required=True, help="where images, tables and checkpoints are kept")
    parser.add_argument("--seconds", type=float, default=150, help="stop after this time (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="of torch (default: one a core)")
    parser.add_argument("--result", type=Path, default=RESULT, help="the curve (default: %(default)s)")
    parser.add_argument("words", nargs="*", metavar="key=value")
    given = parser.parse_args()
    if given.data is None:
        parser.error("set VIM_TEST_DATA or give --data")
    config = load(given.words)
    source = unpack(given.data, given.work / "photos", per_class=100)
    data = tables(config.ingest, source, given.work)
    rows = train(config, data, given.work, given.seconds, given.threads)
    given.result.parent.mkdir(exist_ok=True)
    given.result.write_text(json.dumps(record(config, rows, given.threads), indent=1) + "\n")
    finished = rows[-1]["step"] >= config.quantize.steps
    sys.stdout.write("finished\n" if finished else "not finished: run the same command again\n")


if __name__ == "__main__":
    main()
