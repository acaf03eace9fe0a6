"""Checkpoints of the prior's training as artifacts of their own, which sampling takes in the place of the finished one.

They are kept under `<root>/prior/` with a fingerprint of the training's and the step, so that whatever reads, lists or
tidies up artifacts knows them; `properties.checkpoint` tells them from finished trainings.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from components.artifacts import execute, inventory, lease, store, usage
from components.artifacts.execute import Request
from components.artifacts.gc.checkpoints import INDEX, STEP
from components.contract import fingerprint, lineage
from components.contract.api import Artifact, Manifest
from vim_core.config import PipelineConfig
from vim_core.errors import DataError
from vim_core.storage import io

PRIOR = "prior"


def steps(config: PipelineConfig) -> list[int]:
    """Steps of the prior's training of which there are weights, oldest first; the last one of a finished training.

    Raises:
        DataError: what the training starts from was not made yet.
    """
    request = execute.prepare(PRIOR, config)
    found = {*_unfinished(request), *_kept(request)}
    if request.stored() is not None:
        found.add(config.prior.steps)
    return sorted(found)


def training(config: PipelineConfig) -> str:
    """The fingerprint of the training whose checkpoints these are. Raises `DataError`, see `steps`."""
    return execute.prepare(PRIOR, config).fingerprint


def make(config: PipelineConfig, step: int) -> Artifact:
    """The prior after `step` steps as an artifact: the finished one, one made before, or made now of a checkpoint.

    The training may go on meanwhile and remove the checkpoint; then nothing is committed.

    Raises:
        DataError: there is no such checkpoint, or not any more.
        ResumeError: the checkpoint is of another network.
        LineageError: the training's codes and tokenizer do not belong together.
    """
    request = execute.prepare(PRIOR, config)
    finished = request.stored() if step == config.prior.steps else None
    key = fingerprint_of(request.fingerprint, step)
    known = finished or store.load(request.root, PRIOR, key)
    if known is not None:
        return known
    place = _unfinished(request).get(step)
    if place is None:
        raise _gone(request, step, config)
    leases = usage.folder(request.root, PRIOR, key)
    io.make_folder(leases)
    with lease.hold(leases, lambda text: None):
        usage.record_inputs(leases, request.inputs.values())
        return store.load(request.root, PRIOR, key) or _make(request, config, key, step, place)


def fingerprint_of(trained: str, step: int) -> str:
    """The fingerprint of a checkpoint's artifact: of the training's, and the step."""
    return hashlib.sha256(f"{trained} after {step} steps".encode()).hexdigest()[: fingerprint.LENGTH]


def _make(request: Request, config: PipelineConfig, key: str, step: int, place: str) -> Artifact:
    from vim_core.checkpoint.shard_files import DamagedCheckpoint

    began, token = time.monotonic(), uuid.uuid4().hex[:12]
    out = io.join(store.folder(request.root, PRIOR, key), f"data-{token}")
    try:
        files = _files(request, config, place)
    except DamagedCheckpoint as error:
        raise _gone(request, step, config) from error
    try:
        for name, data in files.items():
            io.write_bytes(io.join(out, name), data)
        about = _manifest(request, config, key, step, place, store.files_in(out, f"data-{token}", {}))
    except BaseException:
        io.remove_tree(out)
        raise
    manifest = Manifest(**about, attempt=token, seconds=round(time.monotonic() - began, 3))
    made, won = store.commit(request.root, manifest)
    if not won:
        io.remove_tree(out)
    return made


def _files(request: Request, config: PipelineConfig, place: str) -> dict[str, bytes]:
    from components.tokenize.code_files import code_files
    from vim_core.data.code_tables import CodeTable
    from vim_core.tasks.prior import shape_of
    from vim_core.tasks.prior_checkpoint import export_checkpoint

    codes = request.inputs["codes"]
    meta = CodeTable(code_files(codes, "train"), config.run.code_cache).meta
    tokenizer = lineage.of_codes(codes.properties)[lineage.TOKENIZER]
    shape = shape_of(config.prior, meta, len(codes.properties["classes"]), tokenizer)
    return export_checkpoint(place, {"component": PRIOR, "fingerprint": request.fingerprint}, shape)


def _manifest(
    request: Request, config: PipelineConfig, key: str, step: int, place: str, files: list[Any]
) -> dict[str, Any]:
    from components import prior

    about = prior.described(config.prior, request.inputs)
    inputs = {name: a.record for name, a in request.inputs.items()}
    return {
        "component": PRIOR,
        "version": prior.VERSION,
        "fingerprint": key,
        "digest": fingerprint.merkle((entry.name, entry.sha256) for entry in files),
        "config": request.settings,
        "inputs": inputs,
        "files": files,
        "metrics": {"step": float(step)},
        "properties": {**about, "checkpoint": {"of": request.fingerprint, "step": step}},
        "protocols": {},
        "numeric": {"family": place.rsplit("/", 2)[-2]},
        "created": datetime.now(UTC).isoformat(),
    }


def _unfinished(request: Request) -> dict[int, str]:
    """Whole checkpoints in the work folder by step; of several numeric classes the one that was written last."""
    found: dict[int, tuple[float, str]] = {}
    with store.guarded(request.root):
        for family in io.list_names(request.work):
            for name in io.list_names(io.join(request.work, family)):
                number, place = name.removeprefix(STEP), io.join(request.work, family, name)
                if not (name.startswith(STEP) and number.isdigit()):
                    continue
                written = io.mtime(io.join(place, INDEX))
                if written:
                    found[int(number)] = max(found.get(int(number), (written, place)), (written, place))
    return {step: place for step, (_, place) in found.items()}


def _kept(request: Request) -> list[int]:
    """Steps whose artifacts were made before."""
    about = [made.properties.get("checkpoint", {}) for made in inventory.artifacts(request.root, PRIOR)]
    return [int(each["step"]) for each in about if each.get("of") == request.fingerprint]


def _gone(request: Request, step: int, config: PipelineConfig) -> DataError:
    there = ", ".join(map(str, sorted({*_unfinished(request), *_kept(request)}))) or "none"
    return DataError(
        f"checkpoint={step}: the training prior/{request.fingerprint} has no such checkpoint, or removed it (it keeps "
        f"the newest prior.keep={config.prior.keep}); there are: {there}"
    )
