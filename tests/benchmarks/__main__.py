"""`python -m tests.benchmarks`: run benchmarks, keep their rows, print them as a table.

Needs vim_core and torch alone; a peer that is not installed is named in its row and skipped.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from tests.benchmarks.feeding import feed_images
from tests.benchmarks.harness import NOT_MEASURED, RESULTS, Bench, Row, free, table, write
from tests.benchmarks.imagenet import imagenet_rates
from tests.benchmarks.ingesting import ingest_images
from tests.benchmarks.sampling import sampling_bound, sampling_gpt2
from tests.benchmarks.stage1 import stage1_base, stage1_generator, stage1_parti, stage1_whole
from tests.benchmarks.stage2 import stage2_gpt2, stage2_memory, stage2_mfu
from tests.benchmarks.statistics import statistics_features
from tests.benchmarks.tokenizing import tokenize_beam, tokenize_processes
from tests.benchmarks.workers import stage2_workers
from vim_core.distributed import runtimes
from vim_core.distributed.runtimes.base import Runtime

BENCHMARKS: dict[str, Callable[[Bench], list[Row]]] = {
    run.__name__: run
    for run in (
        stage1_generator,
        stage1_parti,
        stage1_whole,
        stage2_gpt2,
        stage2_memory,
        stage1_base,
        stage2_mfu,
        stage2_workers,
        statistics_features,
        ingest_images,
        feed_images,
        tokenize_beam,
        tokenize_processes,
        imagenet_rates,
        sampling_gpt2,
        sampling_bound,
    )
}
GPU_ONLY = {"stage1_base", "stage2_mfu", "stage2_workers", "sampling_bound"}
"""Their figures are of GPUs: elsewhere they run at toy size and say 'not measured'."""


def unmeasured(row: Row) -> Row:
    """The row of a GPU benchmark that ran at toy size on a CPU, to show that it runs."""
    peer = f"{row.peer.removesuffix(' (no GPU)')} (no GPU: ran at toy size on CPU)"
    return dataclasses.replace(row, value=NOT_MEASURED, peer=peer, peer_value=NOT_MEASURED, ratio=NOT_MEASURED)


def run(name: str, seam: Runtime, toy: bool, repeats: int) -> list[Row]:
    """One benchmark in a scratch folder of its own; figures of another device than this one are not kept."""
    absent = name in GPU_ONLY and seam.device.type != "cuda"
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = BENCHMARKS[name](Bench(seam, toy or absent, repeats, Path(folder)))
    free()
    return [unmeasured(row) for row in rows] if absent else rows


def arguments_of(words: list[str]) -> argparse.Namespace:
    """The command line; a benchmark that there is none of is refused with those that there are."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which, of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--gpu", action="store_true", help="on CUDA; without it at toy size on CPU, 'not measured'")
    parser.add_argument("--toy", action="store_true", help="tiny shapes: shows that everything runs")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds; medians are kept")
    parser.add_argument("--threads", type=int, default=0, help="threads on CPU; 0: every core")
    parser.add_argument("--out", type=Path, default=None, help="folder of the JSON files; tests/benchmarks/results")
    arguments = parser.parse_args(words)
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    return arguments


def main(words: list[str]) -> int:
    """Run what `words` ask for; returns the exit code."""
    arguments = arguments_of(words)
    cuda = bool(arguments.gpu and torch.cuda.is_available())
    device = "cuda" if cuda else "cpu"
    seam = runtimes.create(device, "bf16", arguments.threads)
    rows = []
    for name in arguments.names or BENCHMARKS:
        found = run(name, seam, arguments.toy or (arguments.gpu and not cuda), arguments.repeats)
        if arguments.gpu and not cuda and name not in GPU_ONLY:
            found = [unmeasured(row) for row in found]
        write(name, "gpu" if arguments.gpu else "cpu", found, arguments.out or RESULTS)
        rows += found
    sys.stdout.write(table(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
