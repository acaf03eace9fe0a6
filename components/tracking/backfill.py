"""Complete from its artifact a component's MLflow run that an unavailable server left unfinished."""

from __future__ import annotations

from components.contract.api import Artifact
from components.tracking.delivery import BATCH_ROWS
from components.tracking.link import Link, ServerRefused
from components.tracking.node_samples import SYSTEM
from components.tracking.run import MlflowRun
from components.tracking.shipping import NONFINITE, FaultLog, rows_of
from vim_core.storage import io
from vim_core.training import spool

CURVES = "curves.jsonl"
PICTURES = "pictures/"


def is_complete(link: Link, experiment: str, artifact: Artifact) -> bool:
    """True if the server has this artifact's run to its end. Raises `ServerAway`.

    A run id that the server does not know belongs to another server, which has it.
    """
    run_id = artifact.manifest.mlflow_run_id
    if run_id:
        try:
            return bool(link.call(lambda client: client.get_run(run_id).info.status) == "FINISHED")
        except ServerRefused:
            return True
    query = f"tags.`vim.digest` = '{artifact.digest}' and tags.`vim.fingerprint` = '{artifact.manifest.fingerprint}'"
    query += " and attributes.status = 'FINISHED'"
    return bool(link.call(lambda client: list(client.search_runs([experiment], query, max_results=1))))


def complete(run: MlflowRun, artifact: Artifact) -> None:
    """Deliver the points, pictures and skipped updates that the run lacks. Raises `ServerAway`."""
    names = [entry.name for entry in artifact.manifest.files]
    faults = FaultLog()
    for name, key in ((CURVES, "m"), (NONFINITE, "nonfinite"), (SYSTEM, "m")):
        if name in names:
            rows = rows_of(
                [entry for entry in spool.parse_rows(io.read_bytes(artifact.uri(name))) if key in entry], faults
            )
            for start in range(0, len(rows), BATCH_ROWS):
                run.new_rows(rows[start : start + BATCH_ROWS])
    skipped = faults.due(now=True)
    if skipped:
        run.text(NONFINITE, skipped)
    for name in (name for name in names if name.startswith(PICTURES) and name.endswith(".png")):
        run.image(name.removeprefix(PICTURES).removesuffix(".png"), io.read_bytes(artifact.uri(name)))
