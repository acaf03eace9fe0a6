"""This machine: Python, packages, shared memory, disks, threads, memory."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from components.contract.commands import command
from components.engines import devices
from pipelines.doctor.checks import Result, Target, fail, ok, warn
from vim_core.planning.chips import CHIPS, chip_of_device
from vim_core.storage import io

PACKAGE = "vim-image-modeling"
GIB = 2**30
LOW_SHM, LOW_MEMORY = 1 * GIB, 3 * GIB
MIN_DISK, LOW_DISK = 1 * GIB, 10 * GIB
MIN_OPEN_FILES = 4096


def check_python(target: Target) -> list[Result]:
    """The interpreter's version against the package's `requires-python`."""
    from packaging.specifiers import SpecifierSet

    version = ".".join(map(str, sys.version_info[:3]))
    try:
        wanted = str(metadata.metadata(PACKAGE)["Requires-Python"] or ">=3.11")
    except metadata.PackageNotFoundError:
        wanted = ">=3.11"
    if version in SpecifierSet(wanted):
        return [ok("python", f"{version} at {sys.executable}")]
    return [fail("python", f"{version}; {PACKAGE} asks for {wanted}", "make an environment with a newer Python")]


def check_packages(target: Target) -> list[Result]:
    """Installed versions against the package's bounds, with the extras that these settings need."""
    from packaging.requirements import Requirement

    name = "packages"
    try:
        required = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        advice = "install it (`uv pip install -e .`), so that versions can be compared"
        return [warn(name, f"{PACKAGE} is not installed here, only found in a folder", advice)]
    extras = ["gcp"] if target.run.root.startswith(("gs://", "gcs://")) else []
    if target.cluster and target.cluster.kind == "kubernetes":
        extras.append("gke")
    requirements = [Requirement(line) for line in required]
    needed = [
        each for each in requirements
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]  # fmt: skip
    mismatches = []
    for each in needed:
        version = _installed(each.name)
        if not version:
            mismatches.append(f"{each.name} is missing ({each.specifier or 'any version'})")
        elif not each.specifier.contains(version, prereleases=True):
            mismatches.append(f"{each.name} is {version}, not {each.specifier}")
    if mismatches:
        brackets = f"[{','.join(extras)}]" if extras else ""
        advice = f"`uv pip install '{PACKAGE}{brackets}'` or the lock in infra/constraints.txt"
        return [fail(name, "; ".join(mismatches), advice)]
    return [ok(name, f"{PACKAGE} {metadata.version(PACKAGE)} and its {len(needed)} requirements")]


def check_tpu_stacks(target: Target) -> list[Result]:
    """torch_xla and torch_tpu claim the same chips: one of them only."""
    found = {name: _installed(name) for name in ("torch_xla", "torch_tpu")}
    wanted = any(target.run_settings(name).device == "xla" for name in target.config.components)
    if all(found.values()):
        both = " and ".join(f"{name} {version}" for name, version in found.items())
        advice = "uninstall torch_tpu: VIM runs TPUs by torch_xla"
        return [(fail if wanted else warn)("TPU stacks", f"{both} are both installed and claim the same chips", advice)]
    if wanted and not found["torch_xla"]:
        if target.cluster:
            return [ok("TPU stacks", "torch_xla is not here, where nothing runs; the cluster's image has to have it")]
        advice = f"`uv pip install '{PACKAGE}[tpu]'`"
        return [fail("TPU stacks", "run.device=xla, and torch_xla is not installed", advice)]
    if wanted or found["torch_xla"]:
        return [ok("TPU stacks", f"torch_xla {found['torch_xla']} alone")]
    return []


def check_gpus(target: Target) -> list[Result]:
    """The GPUs of this machine against the table of chips, and against `run.accelerator` where trainings use them."""
    names = devices.gpu_names()
    chips = {name: chip_of_device(name) for name in dict.fromkeys(names)}
    results = []
    for name, chip in chips.items():
        text = f"{names.count(name)} x {name}"
        if chip is None:
            advice = "trainings log no MFU, and plans take --accelerator; add it to vim_core/planning/chips.py"
            results.append(warn("GPUs", f"{text}: its peak rates are not known here", advice))
        else:
            rate = chip.bf16 or chip.fp32 or 0.0
            kind = "bf16" if chip.bf16 else "fp32"
            found = f"{text}, {chip.memory / 1e9:.0f} GB each, {rate / 1e12:,.0f} TFLOP/s in {kind}"
            results.append(ok("GPUs", found))
    planned, here = CHIPS.get(target.run.accelerator.upper()), [chip for chip in chips.values() if chip]
    if target.run.device == "cuda" and here and planned is not None and not planned.axes and planned not in here:
        advice = "choose the file of your hardware, or set run.accelerator, so that plans are for it"
        found = f"run.accelerator={target.run.accelerator}, and here there are {', '.join(names)}"
        results.append(warn("GPUs", found, advice))
    return results


def check_disks(target: Target) -> list[Result]:
    """Free space at a local root and for temporary files."""
    folders = {"TMPDIR": Path(tempfile.gettempdir())}
    if io.is_local(target.run.root):
        folders = {"run.root": io.local_path(target.run.root).absolute(), **folders}
    results = []
    collect = command("artifacts", "gc")
    for name, path in folders.items():
        existing = next(each for each in (path, *path.parents) if each.exists())
        free = shutil.disk_usage(existing).free
        check, text = f"disk of {name}", f"{free / GIB:.1f} GiB are free at {path}"
        if free < MIN_DISK:
            results.append(fail(check, text, f"make room (`{collect}`) or set another place"))
        elif free < LOW_DISK:
            says = f"`{collect}` makes room, `{command('plan', '--accelerator', 'H200')}` says how much"
            advice = f"enough for small presets; {says}"
            results.append(warn(check, text, advice))
        else:
            results.append(ok(check, text))
    return results


def check_threads(target: Target) -> list[Result]:
    """Threads of all workers against the cores of this machine."""
    cores, run = len(os.sched_getaffinity(0)), target.run
    if target.cluster or run.ray_address:
        return [ok("threads", f"{cores} cores here; the work is done elsewhere")]
    needed = (run.threads or cores) * run.workers
    if needed > cores:
        text = f"run.workers={run.workers} with run.threads={run.threads or cores} need {needed} of {cores} cores"
        return [warn("threads", text, "they take turns; lower one of them, or bits of a resumed run may differ")]
    return [ok("threads", f"{needed} of {cores} cores")]


def check_memory(target: Target) -> list[Result]:
    """Free memory, of this container where it has a limit."""
    import psutil

    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError):
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        free = min(free, max(0, int(limit) - int(used))) if limit.isdigit() else free
    if free < LOW_MEMORY:
        advice = "close other programs, or lower batch sizes and run.beam_processes"
        return [warn("memory", f"{free / GIB:.1f} GiB are free", advice)]
    return [ok("memory", f"{free / GIB:.1f} GiB are free")]


def check_shared_memory(target: Target) -> list[Result]:
    """Size of /dev/shm, which holds Ray's objects."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return [warn("/dev/shm", "does not exist", "Ray keeps its objects on disk then; mount a tmpfs there")]
    size = shutil.disk_usage(place).total
    if size < LOW_SHM:
        advice = "Ray keeps its objects on disk then; start the container with --shm-size=4g or an emptyDir of memory"
        return [warn("/dev/shm", f"has {size / GIB:.2f} GiB", advice)]
    return [ok("/dev/shm", f"has {size / GIB:.1f} GiB")]


def check_open_files(target: Target) -> list[Result]:
    """The limit of open files."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= soft < MIN_OPEN_FILES:
        return [warn("open files", f"at most {soft}", "Ray needs many: `ulimit -n 65536`")]
    return [ok("open files", f"at most {soft if soft >= 0 else 'any number of'}")]


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
