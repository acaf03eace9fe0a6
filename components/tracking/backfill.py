"""A component's MLflow run that a dead server left unfinished, completed from its artifact."""

from __future__ import annotations

from components.contract.api import Artifact
from components.tracking.fault_log import NONFINITE
from components.tracking.link import Link, ServerRefused
from components.tracking.node_samples import SYSTEM
from components.tracking.run import MlflowRun
from components.tracking.shipping import Ledger, Outbox
from vim_core.storage import io
from vim_core.training import spool

CURVES = "curves.jsonl"
PICTURES = "pictures/"


def is_complete(link: Link, experiment: str, artifact: Artifact) -> bool:
    """Whether the server has this artifact's run to its end. Raises `ServerAway`.

    A run id that the server does not know belongs to another server, which has it.
    """
    known = artifact.manifest.mlflow_run_id
    if known:
        try:
            return bool(link.call(lambda client: client.get_run(known).info.status) == "FINISHED")
        except ServerRefused:
            return True
    query = f"tags.`vim.digest` = '{artifact.digest}' and tags.`vim.fingerprint` = '{artifact.manifest.fingerprint}'"
    query += " and attributes.status = 'FINISHED'"
    return bool(link.call(lambda client: list(client.search_runs([experiment], query, max_results=1))))


def deliver(run: MlflowRun, artifact: Artifact) -> bool:
    """Deliver the points, pictures and skipped updates that the run lacks; False when the server is away."""
    names = [entry.name for entry in artifact.manifest.files]
    outbox = Outbox(run, Ledger(run))
    for name, key in ((CURVES, "m"), (NONFINITE, "nonfinite"), (SYSTEM, "m")):
        if name in names:
            outbox.add([row for row in spool.parse(io.read_bytes(artifact.uri(name))) if key in row])
    while len(outbox):
        if not outbox.deliver():
            return False
    if outbox.faults.waiting and not outbox.faults.deliver(now=True):
        return False
    for name in (name for name in names if name.startswith(PICTURES) and name.endswith(".png")):
        png = io.read_bytes(artifact.uri(name))
        if not run.image(name.removeprefix(PICTURES).removesuffix(".png"), png):
            return False
    return True
