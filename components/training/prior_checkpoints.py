"""Checkpoints of a running prior as artifacts of their own, which sampling uses instead of the finished prior.

They are kept under `<root>/prior/` with a fingerprint of the training's and the step, so that all code that reads,
lists or collects artifacts handles them; `properties.checkpoint` tells them from finished trainings.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime

from components.artifacts import execute, inventory, lease, store, usage
from components.artifacts.execute import Request
from components.artifacts.gc import INDEX, STEP
from components.contract import fingerprint, lineage
from components.contract.api import Artifact, Manifest
from vim_core.config import PipelineConfig
from vim_core.errors import DataError
from vim_core.storage import io

PRIOR = "prior"
ATTEMPTS = 3
"""Times that the newest checkpoint may vanish while it is read."""


def available_steps(config: PipelineConfig) -> list[int]:
    """Steps of the prior's training of which there are weights, oldest first; the last one of a finished training.

    Raises:
        DataError: an input of the training was not made yet.
    """
    request = execute.prepare(PRIOR, config)
    steps = {*_work_checkpoints(request), *_artifact_steps(request)}
    if request.stored() is not None:
        steps.add(config.prior.steps)
    return sorted(steps)


def available(config: PipelineConfig) -> list[tuple[str, str, int]]:
    """(component, fingerprint of the training, step) of every checkpoint there is, oldest first.

    The last step of a finished training is among them; none where what the training starts from was not made yet.
    Lists files alone: no checkpoint is read, and no training framework is loaded.
    """
    try:
        trained = execute.prepare(PRIOR, config).fingerprint
        return [(PRIOR, trained, step) for step in available_steps(config)]
    except DataError:
        return []


def checkpoint_fingerprint(training: str, step: int) -> str:
    """The fingerprint of a checkpoint's artifact, from that of the training and the step."""
    return hashlib.sha256(f"{training} after {step} steps".encode()).hexdigest()[: fingerprint.LENGTH]


def make_artifact(config: PipelineConfig, step: int) -> Artifact:
    """The prior after `step` steps as an artifact: the finished one, one made before, or made now of a checkpoint.

    The training may go on meanwhile and remove the checkpoint; then nothing is committed.

    Raises:
        DataError: there is no such checkpoint, or the training has removed it.
        ResumeError: the checkpoint is of another network.
        LineageError: the training's codes and tokenizer do not belong together.
    """
    request = execute.prepare(PRIOR, config)
    finished = request.stored() if step == config.prior.steps else None
    key = checkpoint_fingerprint(request.fingerprint, step)
    existing = finished or store.load(request.root, PRIOR, key)
    if existing is not None:
        return existing
    checkpoint = _work_checkpoints(request).get(step)
    if checkpoint is None:
        raise _no_checkpoint(request, step, config)
    leases = usage.folder(request.root, PRIOR, key)
    io.make_folder(leases)
    with lease.hold(leases, lambda text: None):
        usage.record_inputs(leases, request.inputs.values())
        return store.load(request.root, PRIOR, key) or _commit(request, config, key, step, checkpoint)


def export(config: PipelineConfig, steps: Iterable[int]) -> tuple[dict[int, Artifact], dict[int, str]]:
    """The artifacts of these checkpoints by step, and the reasons why others have none.

    They are made at once, before any point is evaluated: the training goes on and keeps few of them.
    """
    artifacts: dict[int, Artifact] = {}
    reasons: dict[int, str] = {}
    for step in steps:
        try:
            artifacts[step] = make_artifact(config, step)
        except DataError as error:
            reasons[step] = str(error)
    return artifacts, reasons


def export_latest(config: PipelineConfig) -> int | None:
    """The newest checkpoint's step after its artifact was made, or None where there is none.

    The training may replace the newest one while it is read; then the next newest is tried.

    Raises:
        DataError: that happened every time.
    """
    for attempt in range(ATTEMPTS):
        steps = available_steps(config)
        if not steps:
            return None
        try:
            make_artifact(config, steps[-1])
            return steps[-1]
        except DataError:
            if attempt == ATTEMPTS - 1:
                raise
    return None


def _commit(request: Request, config: PipelineConfig, key: str, step: int, checkpoint: str) -> Artifact:
    """Read the checkpoint, write its files and commit the manifest; leaves nothing behind when that fails."""
    from components import prior
    from components.tokenize.plan import code_files
    from vim_core.checkpoint.shard_files import DamagedCheckpoint
    from vim_core.data.code_tables import CodeTable
    from vim_core.tasks.prior import export_checkpoint, shape_of

    began, attempt = time.monotonic(), uuid.uuid4().hex[:12]
    out = io.join(store.folder(request.root, PRIOR, key), f"data-{attempt}")
    codes = request.inputs["codes"]
    meta = CodeTable(code_files(codes, "train"), config.run.code_cache).meta
    tokenizer = lineage.recorded_digests(codes.properties)[lineage.TOKENIZER]
    shape = shape_of(config.prior, meta, len(codes.properties["classes"]), tokenizer)
    try:
        contents = export_checkpoint(checkpoint, {"component": PRIOR, "fingerprint": request.fingerprint}, shape)
    except DamagedCheckpoint as error:  # removed meanwhile
        raise _no_checkpoint(request, step, config) from error
    try:
        for name, data in contents.items():
            io.write_bytes(io.join(out, name), data)
        files = store.files_in(out, f"data-{attempt}", {})
        manifest = Manifest(
            component=PRIOR,
            version=prior.VERSION,
            fingerprint=key,
            digest=fingerprint.merkle((entry.name, entry.sha256) for entry in files),
            config=request.settings,
            inputs={name: made.record for name, made in request.inputs.items()},
            files=files,
            metrics={"step": float(step)},
            properties={
                **prior.describe_prior(config.prior, request.inputs),
                "checkpoint": {"of": request.fingerprint, "step": step},
            },
            protocols={},
            numeric={"family": checkpoint.rsplit("/", 2)[-2]},
            created=datetime.now(UTC).isoformat(),
            attempt=attempt,
            seconds=round(time.monotonic() - began, 3),
        )
    except BaseException:
        io.remove_tree(out)
        raise
    artifact, won = store.commit(request.root, manifest)
    if not won:
        io.remove_tree(out)
    return artifact


def _work_checkpoints(request: Request) -> dict[int, str]:
    """Complete checkpoints in the work folder by step; of several numeric classes the one that was written last."""
    newest: dict[int, tuple[float, str]] = {}
    with store.guarded(request.root):
        for family in io.list_names(request.work):
            for name in io.list_names(io.join(request.work, family)):
                number, folder = name.removeprefix(STEP), io.join(request.work, family, name)
                if not (name.startswith(STEP) and number.isdigit()):
                    continue
                written = io.mtime(io.join(folder, INDEX))
                if written:
                    newest[int(number)] = max(newest.get(int(number), (written, folder)), (written, folder))
    return {step: folder for step, (_, folder) in newest.items()}


def _artifact_steps(request: Request) -> list[int]:
    """Steps of this training of which an artifact was made before."""
    records = [made.properties.get("checkpoint", {}) for made in inventory.artifacts(request.root, PRIOR)]
    return [int(record["step"]) for record in records if record.get("of") == request.fingerprint]


def _no_checkpoint(request: Request, step: int, config: PipelineConfig) -> DataError:
    present = ", ".join(map(str, sorted({*_work_checkpoints(request), *_artifact_steps(request)}))) or "none"
    return DataError(
        f"checkpoint={step}: the training prior/{request.fingerprint} has no such checkpoint, or removed it (it keeps "
        f"the newest prior.keep={config.prior.keep}); there are: {present}"
    )
