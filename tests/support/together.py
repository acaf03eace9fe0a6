"""Test files side by side: `python -m tests.support.together FOLDER… [options of pytest]`.

Each folder below the given ones, and each group of files whose names begin with the same word, is a pytest process of
its own; so many run at a time. Most of a slow test is the start of one process after another, each of which keeps one
core busy: two at a time use both. All share one run of the
`smoke` preset (`tests.support.smoke`), made by one more process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.support import smoke

AT_A_TIME = 2


@dataclass(frozen=True)
class Job:
    """One process: what people call it, its command, and whether it waits for the run of `smoke`."""

    name: str
    command: tuple[str, ...]
    waits: bool = False


def jobs(folders: Sequence[Path], options: Sequence[str]) -> list[Job]:
    """Every test below the folders once; those that need the smoke run come last, that run itself first."""
    groups: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and any(path.rglob("test_*.py")):
                groups[str(path)] = [path]
            elif path.match("test_*.py"):
                word = path.stem.split("_")[1]
                groups.setdefault(f"{folder}/test_{word}*", []).append(path)
    pytest = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options)
    found = [Job(name, (*pytest, *map(str, paths)), _waits(paths)) for name, paths in groups.items()]
    found.sort(key=lambda job: job.waits)
    if any(job.waits for job in found):
        found.insert(0, Job("the smoke run", (sys.executable, "-m", "tests.support.smoke", "--make")))
    return found


def _waits(paths: Sequence[Path]) -> bool:
    files = [file for path in paths for file in (path.rglob("test_*.py") if path.is_dir() else [path])]
    return any("smoke_run: SmokeRun" in file.read_text(encoding="utf-8") for file in files)


def run(job: Job) -> bool:
    """Run one, then show its output in one piece; whether it passed."""
    began = time.monotonic()
    ended = subprocess.run(job.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    word = "failed" if ended.returncode else "passed"
    sys.stdout.write(f"{ended.stdout}== {job.name}: {word} in {time.monotonic() - began:.0f} s\n\n")
    sys.stdout.flush()
    return not ended.returncode


def main(arguments: Sequence[str]) -> int:
    """Run all; the exit code is 1 where any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.together")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--at-a-time", type=int, default=AT_A_TIME, help="processes")
    known, options = parser.parse_known_args(arguments)
    planned = jobs(known.folders, options)
    with tempfile.TemporaryDirectory(prefix="vim-smoke-") as folder:
        os.environ.setdefault(smoke.FOLDER, folder)
        with ThreadPoolExecutor(known.at_a_time) as pool:
            passed = list(pool.map(run, planned))
    failed = [job.name for job, well in zip(planned, passed, strict=True) if not well]
    sys.stdout.write(f"== failed: {', '.join(failed)}\n" if failed else f"== all {len(planned)} passed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
