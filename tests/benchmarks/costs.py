"""`python -m tests.benchmarks.costs`: what ImageNet costs on N workers, by the rates in `results/`, as Markdown.

seconds = images / (images a second of one worker x N) + start. A worker is one process with one thread on one core
of the machine that the rates were measured on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import RESULTS
from tests.benchmarks.imagenet import CODES, IMAGES, STATISTICS, TOKENIZE
from tests.benchmarks.tokenizing import STARTING

TRAINING = 1_281_167
"""ImageNet's training images."""

WORKERS = (1, 16, 128)
INGEST = "ingest, keys by name"
BENCHMARKS = ("ingest_images", "tokenize_processes", "imagenet_rates")


@dataclass(frozen=True)
class Step:
    """A component's rate on one worker, images/s, and what an image of its output takes on disk, in bytes."""

    name: str
    rate: float
    stored: float = 0.0


def steps(results: Path = RESULTS) -> tuple[list[Step], float]:
    """The steps as they were measured, and seconds that processes take to start."""
    found = rows(results)

    def figure(name: str) -> float:
        value = found.get(name, {}).get("value")
        if not isinstance(value, float):
            raise LookupError(f"{results}: {name!r} was not measured; run `make bench`")
        return value

    made = [
        Step("ingest", figure(INGEST), 1e6 / figure(IMAGES)),
        Step("tokenize (small encoder, 1,024 tokens)", figure(TOKENIZE), 1e6 / figure(CODES)),
        Step("statistics (Inception)", figure(STATISTICS)),
    ]
    return made, figure(STARTING)


def rows(results: Path) -> dict[str, dict[str, Any]]:
    """Rows of the benchmarks that count here, on a CPU, by name."""
    files = [results / f"{name}-cpu.json" for name in BENCHMARKS]
    read = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
    return {row["name"]: row for found in read for row in found}


def seconds(step: Step, images: int, workers: int, start: float) -> float:
    """From the start to the last image."""
    return images / (step.rate * workers) + start


def page(images: int = TRAINING, workers: Sequence[int] = WORKERS, results: Path = RESULTS) -> str:
    """The table, a line a step."""
    made, start = steps(results)
    heads = [f"{count:,} worker{'s' * (count > 1)}" for count in workers]
    lines = [
        f"| {images:,} images | images/s of a worker | {' | '.join(heads)} | on disk |",
        "|---|" + "--:|" * (len(heads) + 2),
    ]
    for step in made:
        times = [duration(seconds(step, images, count, start)) for count in workers]
        stored = f"{step.stored * images / 1e9:,.1f} GB" if step.stored else "–"
        lines.append(f"| {step.name} | {step.rate:,.4g} | {' | '.join(times)} | {stored} |")
    return "\n".join(lines)


def duration(value: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if value >= 2 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} s"


def main(words: Sequence[str]) -> int:
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.costs", description=__doc__)
    parser.add_argument("--images", type=int, default=TRAINING)
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(words)
    sys.stdout.write(page(asked.images, asked.workers, asked.results) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
