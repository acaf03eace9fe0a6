"""This machine: Python, packages, shared memory, disks, threads, memory."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from pipelines.doctor.findings import Finding, Subject, fail, ok, warn
from vim_core.storage import io

PACKAGE = "vim-image-modeling"
GIB = 2**30
LITTLE_SHM, LITTLE_MEMORY = 1 * GIB, 3 * GIB
NO_DISK, LITTLE_DISK = 1 * GIB, 10 * GIB
FILES = 4096


def python(subject: Subject) -> list[Finding]:
    """The interpreter's version against what the package asks for."""
    from packaging.specifiers import SpecifierSet

    version = ".".join(map(str, sys.version_info[:3]))
    wanted = _requirement() or ">=3.11"
    if version in SpecifierSet(wanted):
        return [ok("python", f"{version} at {sys.executable}")]
    return [fail("python", f"{version}; {PACKAGE} asks for {wanted}", "make an environment with a newer Python")]


def packages(subject: Subject) -> list[Finding]:
    """Installed versions against the package's bounds, and what these settings need besides."""
    name = "packages"
    try:
        required = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        advice = "install it (`uv pip install -e .`), so that versions can be compared"
        return [warn(name, f"{PACKAGE} is not installed here, only found in a folder", advice)]
    wanted = [line for line in required if _wanted(line, _extras(subject))]
    wrong = [text for line in wanted if (text := _wrong(line))]
    if wrong:
        advice = f"`uv pip install '{PACKAGE}{_bracketed(_extras(subject))}'` or the lock in infra/constraints.txt"
        return [fail(name, "; ".join(wrong), advice)]
    return [ok(name, f"{PACKAGE} {metadata.version(PACKAGE)} and its {len(wanted)} requirements")]


def tpu_stacks(subject: Subject) -> list[Finding]:
    """torch_xla and torch_tpu claim the same chips: one of them only."""
    found = {name: _version(name) for name in ("torch_xla", "torch_tpu")}
    wanted = any(subject.place(name).device == "xla" for name in subject.config.components)
    if all(found.values()):
        both = " and ".join(f"{name} {version}" for name, version in found.items())
        advice = "uninstall torch_tpu: VIM runs TPUs by torch_xla"
        return [(fail if wanted else warn)("TPU stacks", f"{both} are both installed and claim the same chips", advice)]
    if wanted and not found["torch_xla"]:
        if subject.cluster:
            return [ok("TPU stacks", "torch_xla is not here, where nothing runs; the cluster's image has to have it")]
        advice = f"`uv pip install '{PACKAGE}[tpu]'`"
        return [fail("TPU stacks", "run.device=xla, and torch_xla is not installed", advice)]
    if wanted or found["torch_xla"]:
        return [ok("TPU stacks", f"torch_xla {found['torch_xla']} alone")]
    return []


def machine(subject: Subject) -> list[Finding]:
    """Threads, memory, shared memory, open files: what a run on this machine meets."""
    return [_threads(subject), _memory(), _shared_memory(), _files()]


def disks(subject: Subject) -> list[Finding]:
    """Free space at a local root and for temporary files."""
    places = [("TMPDIR", Path(tempfile.gettempdir()))]
    if io.is_local(subject.run.root):
        places.insert(0, ("run.root", io.local_path(subject.run.root).absolute()))
    return [_disk(name, path) for name, path in places]


def _threads(subject: Subject) -> Finding:
    cores, run = len(os.sched_getaffinity(0)), subject.run
    if subject.cluster or run.ray_address:
        return ok("threads", f"{cores} cores here; the work is done elsewhere")
    asked = (run.threads or cores) * run.workers
    if asked > cores:
        text = f"run.workers={run.workers} with run.threads={run.threads or cores} each want {asked} of {cores} cores"
        return warn("threads", text, "they take turns; lower one of them, or bits of a resumed run may differ")
    return ok("threads", f"{asked} of {cores} cores")


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available
    limit = _container_limit()
    free = min(free, limit) if limit else free
    if free < LITTLE_MEMORY:
        advice = "close other programs, or lower batch sizes and run.beam_processes"
        return warn("memory", f"{free / GIB:.1f} GiB are free", advice)
    return ok("memory", f"{free / GIB:.1f} GiB are free")


def _container_limit() -> int:
    """What this container may still take, or 0 where there is no limit."""
    try:
        most = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
        return max(0, int(most) - int(used)) if most.isdigit() else 0
    except OSError:
        return 0


def _shared_memory() -> Finding:
    place = Path("/dev/shm")
    if not place.is_dir():
        return warn("/dev/shm", "does not exist", "Ray keeps its objects on disk then; mount a tmpfs there")
    size = shutil.disk_usage(place).total
    if size < LITTLE_SHM:
        advice = "Ray keeps its objects on disk then; start the container with --shm-size=4g or an emptyDir of memory"
        return warn("/dev/shm", f"has {size / GIB:.2f} GiB", advice)
    return ok("/dev/shm", f"has {size / GIB:.1f} GiB")


def _files() -> Finding:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= soft < FILES:
        return warn("open files", f"at most {soft}", "Ray needs many: `ulimit -n 65536`")
    return ok("open files", f"at most {soft if soft >= 0 else 'any number of'}")


def _disk(name: str, path: Path) -> Finding:
    there = next(each for each in (path, *path.parents) if each.exists())
    free = shutil.disk_usage(there).free
    text = f"{free / GIB:.1f} GiB are free at {path}"
    check = f"disk of {name}"
    if free < NO_DISK:
        return fail(check, text, "make room (`vimctl artifacts gc`) or set another place")
    if free < LITTLE_DISK:
        return warn(
            check, text, "enough for small presets; `vimctl artifacts gc` makes room, `vimctl plan` says how much"
        )
    return ok(check, text)


def _requirement() -> str:
    try:
        return str(metadata.metadata(PACKAGE)["Requires-Python"] or "")
    except metadata.PackageNotFoundError:
        return ""


def _extras(subject: Subject) -> list[str]:
    """Extras of the package that these settings need on this machine."""
    wanted = ["gcp"] if subject.run.root.startswith(("gs://", "gcs://")) else []
    return [*wanted, "gke"] if subject.cluster and subject.cluster.kind == "kubernetes" else wanted


def _bracketed(extras: list[str]) -> str:
    return f"[{','.join(extras)}]" if extras else ""


def _wanted(line: str, extras: list[str]) -> bool:
    """Whether a requirement is one of the package itself or of these extras, on this system."""
    from packaging.requirements import Requirement

    marker = Requirement(line).marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _wrong(line: str) -> str:
    """What is wrong with the installed version of one requirement, or ''."""
    from packaging.requirements import Requirement

    asked = Requirement(line)
    found = _version(asked.name)
    if not found:
        return f"{asked.name} is missing ({asked.specifier or 'any version'})"
    return (
        "" if asked.specifier.contains(found, prereleases=True) else f"{asked.name} is {found}, not {asked.specifier}"
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
