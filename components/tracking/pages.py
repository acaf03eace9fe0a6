"""MLflow's pages: their addresses, and the view with which an experiment's table of runs opens."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

from components.artifacts.format import HEADLINES

SHARE_KEY = "vim"
VIEW_TAG = f"mlflow.sharedViewState.{SHARE_KEY}"
"""Tag of an experiment that holds the view; MLflow's own saved views have tags of this form."""
NOTE = "mlflow.note.content"
VIEW_NAME = "Headline figures"
TRAINING = "workflowType=machine_learning"
"""Without it MLflow shows an experiment's traces, of which there are none."""
COLUMNS = (
    "quantize/test_psnr_db", "score/codebook_usage", "prior/nll_bits_per_token", "score/fid", "score/fd_classifier",
    "score/is", "score/conditional_accuracy", "tradeoff/best_fd", "probe/top1",
)  # fmt: skip
"""Figures of a pipeline's run that the table shows, as far as runs have them."""
RUN_NAME = "attributes.`Run Name`"
NAME_WIDTH, WIDTH = 260, 115
"""Widths of the table's columns in pixels."""
LATEST = 20
"""Number of runs in an experiment's description."""
PIPELINES = "tags.`vim.kind` = 'pipeline'"


def run_page(server: str, experiment_id: str, run_id: str) -> str:
    """The page of an MLflow run, or '' where `server` is no web address or the run is not known there."""
    if not (server.startswith("http") and experiment_id and run_id):
        return ""
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING}"


def runs_page(server: str, experiment_id: str) -> str:
    """The table of an experiment's runs with their headline figures; `server` itself while there is no experiment."""
    if not (server.startswith("http") and experiment_id):
        return server
    query = f"{TRAINING}&viewStateShareKey={SHARE_KEY}"
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def describe_experiment(client: Any, experiment_id: str) -> None:
    """Write an experiment's view and description after its newest runs of pipelines, unless they are there already.

    `client` is an MlflowClient. The view has the columns that a run fills; a component of another preset has none.
    """
    order = ["attributes.start_time DESC"]
    runs = list(client.search_runs([experiment_id], PIPELINES, max_results=LATEST, order_by=order))
    figures = {name for run in runs for name in run.data.metrics}
    columns = [name for name in COLUMNS if name in figures] if runs else list(COLUMNS)
    tags = {VIEW_TAG: shared_view(columns), "mlflow.experimentKind": "custom_model_development"}
    if runs:
        tags[NOTE] = _runs_table(runs, columns)
    known = client.get_experiment(experiment_id).tags
    for name, value in tags.items():
        if known.get(name) != value:
            client.set_experiment_tag(experiment_id, name, value)


def shared_view(metrics: Sequence[str]) -> str:
    """The text of a saved view of MLflow 3.17 whose table shows these metrics, in this order, the newest run first."""
    columns = [f"metrics.`{name}`" for name in metrics]
    state = {
        "searchFilter": "", "orderByKey": "attributes.start_time", "orderByAsc": False, "startTime": "ALL",
        "lifecycleFilter": "Active", "datasetsFilter": [], "modelVersionFilter": "All Runs",
        "selectedColumns": columns, "columnOrder": [RUN_NAME, *columns],
        "columnWidths": {RUN_NAME: NAME_WIDTH, **dict.fromkeys(columns, WIDTH)},
        "viewMaximized": False, "runListHidden": False,
    }  # fmt: skip
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    return json.dumps({"name": VIEW_NAME, "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"})


def figures_table(figures: dict[str, float]) -> list[str]:
    """Markdown lines of a table with a row for each headline figure; none without figures."""
    known = [f"{component}/{key}" for component, keys in HEADLINES.items() for key in keys]
    names = [name for name in known if name in figures]
    if not names:
        return []
    return ["| figure | value |", "|---|---:|", *(f"| {name} | {figures[name]:.5g} |" for name in names), ""]


def _runs_table(runs: Sequence[Any], columns: Sequence[str]) -> str:
    newest = [f"{name} {runs[0].data.metrics[name]:.4g}" for name in columns if name in runs[0].data.metrics]
    lines = [f"| run | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for run in runs:
        cells = (f"{run.data.metrics[name]:.4g}" if name in run.data.metrics else "" for name in columns)
        lines.append(f"| {run.info.run_name} | {' | '.join(cells)} |")
    return "\n".join([f"Newest: {runs[0].info.run_name}: {', '.join(newest)}", "", *lines])
