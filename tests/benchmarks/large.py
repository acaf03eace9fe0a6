"""VIM-Large in parts: two processes build it, write a checkpoint and load that again, none of them ever with all of it.

Run it from the repository root; it takes some minutes, and room on the disk for one copy of the weights:

    python -m tests.benchmarks.large --work DIR

What it wrote in the folder is removed at the end. Resident memory is the system's own figure, the interpreter and its
libraries included; writing a checkpoint keeps a copy of the worker's part, because training goes on meanwhile.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.harness import processor
from tests.support.workers import runtime_of, spawn
from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.checkpoint.state_dict import flat_state_dict, restore
from vim_core.config import StackConfig
from vim_core.distributed.fsdp import local
from vim_core.models.meta import materialise
from vim_core.models.prior import ImagePrior, PriorShape
from vim_core.tasks.base import build_network

RESULT = Path(__file__).with_name("results") / "large-cpu.json"
WORKERS = 2
GB = 1e9
SPARE = 2 * GB
"""For interpreters, libraries and whoever else is there."""
TOY = PriorShape(StackConfig(blocks=2, heads=2, dim=16, mlp=32), [2, 2], 16, 3)


def network(toy: bool) -> ImagePrior:
    """VIM-Large by its preset, or a tiny prior."""
    return ImagePrior(TOY) if toy else ImagePrior.from_preset("large")


def status(key: str) -> float:
    """A figure of this process in bytes: `VmRSS` resident now, `VmHWM` at most so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def available() -> float:
    """Bytes of memory that this machine could give."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def full_copy(toy: bool) -> dict[str, float]:
    """Parameters of the network, and bytes of one copy of it."""
    with torch.device("meta"):
        found = network(toy)
    parameters = list(found.parameters())
    return {
        "parameters": float(sum(p.numel() for p in parameters)),
        "bytes": float(sum(p.numel() * p.element_size() for p in parameters)),
    }


def digest(module: torch.nn.Module) -> str:
    """Of the part that is here."""
    found = hashlib.sha256()
    for value in module.state_dict().values():
        found.update(local(value).contiguous().numpy().data)
    return found.hexdigest()


def part_of(module: torch.nn.Module) -> float:
    """Bytes of the part that is here."""
    return float(sum(local(p).numel() * p.element_size() for p in module.parameters()))


def build(rank: int, world: int, folder: Path, toy: bool) -> None:
    """One worker: draw its part and write it."""
    runtime = runtime_of(rank, world, "fsdp")
    found: dict[str, Any] = {"idle": status("VmRSS")}
    torch.manual_seed(0)
    model, _ = build_network(lambda: network(toy), runtime)
    found |= {"part": part_of(model), "build": status("VmHWM"), "sha256": digest(model)}
    checkpoints = Checkpoints(str(folder / "checkpoints"), {"of": "benchmark"}, runtime, strict=True)
    checkpoints.save(1, flat_state_dict({"model": model}, {}))
    checkpoints.wait()
    checkpoints.close()
    found["save"] = status("VmHWM")
    (folder / f"build-{rank}.json").write_text(json.dumps(found))


def load(rank: int, world: int, folder: Path, toy: bool) -> None:
    """One worker: allocate its part and read it."""
    runtime = runtime_of(rank, world, "fsdp")
    with torch.device("meta"):
        model = network(toy)
    runtime.apply_fsdp(model)
    materialise(model, runtime.device, init=False)
    saved = Checkpoints(str(folder / "checkpoints"), {"of": "benchmark"}, runtime).latest()
    assert saved is not None
    restore(saved, {"model": model}, {})
    found = {"load": status("VmHWM"), "sha256": digest(model)}
    (folder / f"load-{rank}.json").write_text(json.dumps(found))


def measure(work: Path | None, toy: bool) -> dict[str, Any]:
    """Both runs of all workers in a folder of their own below `work`, as the kept record says them.

    Raises:
        RuntimeError: there is not enough memory, or what was loaded is not what was built.
    """
    size = full_copy(toy)
    wanted = 2 * size["bytes"] + SPARE
    if not toy and available() < wanted:
        raise RuntimeError(f"{available() / GB:.1f} GB of memory are free, {wanted / GB:.1f} are needed")
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        rows = []
        for function in (build, load):
            spawn(function, WORKERS, folder, toy)
        for rank in range(WORKERS):
            built, loaded = (json.loads((folder / f"{kind}-{rank}.json").read_text()) for kind in ("build", "load"))
            if built.pop("sha256") != loaded.pop("sha256"):
                raise RuntimeError(f"worker {rank} did not load what it had built")
            rows.append({"worker": rank, **{key: round(value / GB, 3) for key, value in (built | loaded).items()}})
    return {
        "name": "a toy prior in parts" if toy else "VIM-Large in parts",
        "parameters": int(size["parameters"]),
        "full_copy_gb": round(size["bytes"] / GB, 3),
        "unit": "GB of 10^9 bytes",
        "columns": {
            "idle": "resident before anything was built",
            "part": "parameters that the worker keeps, fp32",
            "build": "most resident until the network was drawn",
            "save": "most resident until its checkpoint was written, from a copy",
            "load": "most resident, in a process of its own, until that was checked and loaded",
        },
        "workers": rows,
        "machine": {"device": f"cpu: {processor()}", "workers": WORKERS, "torch": torch.__version__},
    }


def main(words: list[str]) -> int:
    """Measure, keep the record, print it."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.large", description=__doc__)
    parser.add_argument("--work", type=Path, help="folder for the checkpoint, which is removed (default: a temporary)")
    parser.add_argument("--toy", action="store_true", help="a tiny network: shows that everything runs")
    parser.add_argument("--result", type=Path, default=RESULT, help="the record (default: %(default)s)")
    given = parser.parse_args(words)
    text = json.dumps(measure(given.work, given.toy), indent=1) + "\n"
    given.result.parent.mkdir(parents=True, exist_ok=True)
    given.result.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
