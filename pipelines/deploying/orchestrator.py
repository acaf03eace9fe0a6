"""Dagster: web server, daemon and a code location with VIM's assets, all on one history in Postgres."""

from __future__ import annotations

import hashlib
from typing import Any

from pipelines.deploying.deployment import CODE_PORT, DAGSTER_PORT, DATABASE_USER, POSTGRES_PORT, Deployment
from pipelines.deploying.objects import (
    POSTGRES_SECRET,
    config_map,
    container,
    deployment,
    pod,
    probe,
    secret,
    service,
    value,
)  # fmt: skip
from pipelines.jobs.manifests import Manifest

HOME = "/opt/dagster"
PASSWORD = "VIM_POSTGRES_PASSWORD"
COMMANDS = {
    "dagster-web": ["dagster-webserver", "-h", "0.0.0.0", "-p", str(DAGSTER_PORT), "-w", f"{HOME}/workspace.yaml"],
    "dagster-daemon": ["dagster-daemon", "run", "-w", f"{HOME}/workspace.yaml"],
    "dagster-code": ["dagster", "api", "grpc", "-m", "pipelines.definitions", "-h", "0.0.0.0", "-p", str(CODE_PORT)],
}
SUBMITTING = ("dagster-code", "dagster-daemon")
"""These submit to the cluster, so their account's token is there."""


def dagster(made: Deployment) -> list[Manifest]:
    """Configuration, the three deployments and the two services that are called."""
    files = {"dagster.yaml": to_yaml(instance("postgres")), "workspace.yaml": to_yaml(workspace("dagster-code"))}
    digest = hashlib.sha256("".join(files.values()).encode()).hexdigest()[:16]
    found = [
        config_map(made.namespace, "dagster", files),
        service(made.namespace, "dagster-web", {"http": (DAGSTER_PORT, DAGSTER_PORT)}),
        service(made.namespace, "dagster-code", {"grpc": (CODE_PORT, CODE_PORT)}),
    ]
    return [*found, *(deployment(made.namespace, role, _pod(made, role), digest) for role in COMMANDS)]


def _pod(made: Deployment, role: str) -> Manifest:
    env = [value(name, text) for name, text in environment(made.preset, made.root, made.tracking_uri).items()]
    env += [
        value("VIM_MLFLOW_URL", f"https://{made.site('mlflow')}"),
        secret(PASSWORD, POSTGRES_SECRET, "password"),
    ]
    mounts = [
        {"name": "home", "mountPath": HOME},
        {"name": "configuration", "mountPath": f"{HOME}/dagster.yaml", "subPath": "dagster.yaml", "readOnly": True},
        {"name": "configuration", "mountPath": f"{HOME}/workspace.yaml", "subPath": "workspace.yaml", "readOnly": True},
        {"name": "temporary", "mountPath": "/tmp"},
    ]
    more: Manifest = {"volumeMounts": mounts}
    if role == "dagster-web":
        more |= {"ports": [{"containerPort": DAGSTER_PORT}], "readinessProbe": probe("/server_info", DAGSTER_PORT)}
    if role == "dagster-code":
        more |= {"ports": [{"containerPort": CODE_PORT}]}
        more["readinessProbe"] = {"tcpSocket": {"port": CODE_PORT}, "periodSeconds": 10}
    amounts = ("4", "16Gi") if role == "dagster-code" else ("500m", "2Gi")
    server = container(role, made.server_image, COMMANDS[role], env, *amounts, **more)
    volumes = [
        {"name": "home", "emptyDir": {}},
        {"name": "temporary", "emptyDir": {}},
        {"name": "configuration", "configMap": {"name": "dagster"}},
    ]
    spec = pod([server], volumes=volumes)
    spec["automountServiceAccountToken"] = role in SUBMITTING
    return spec


def environment(preset: str, root: str, tracking_uri: str) -> dict[str, str]:
    """Variables of all three, so that each of them can load the same definitions."""
    return {
        "DAGSTER_HOME": HOME,
        "DAGSTER_DISABLE_TELEMETRY": "true",
        "HOME": "/tmp",
        "VIM_PRESET": preset,
        "VIM_OVERRIDES": f"run.root={root} run.tracking_uri={tracking_uri}",
    }


def instance(database_host: str, port: int = POSTGRES_PORT) -> dict[str, Any]:
    """dagster.yaml: history in Postgres, a queue with limits, slots given back, lost runs started again."""
    return {
        "storage": {
            "postgres": {
                "postgres_db": {
                    # The driver by name: SQLAlchemy's default is another one since 2.1.
                    "scheme": "postgresql+psycopg2",
                    "hostname": database_host,
                    "port": port,
                    "username": DATABASE_USER,
                    "password": {"env": PASSWORD},
                    "db_name": "dagster",
                }
            }
        },
        # A step's output lies where it ran; the events tell what matters, MLflow has the curves.
        "compute_logs": {
            "module": "dagster._core.storage.noop_compute_log_manager",
            "class": "NoOpComputeLogManager",
        },
        "concurrency": {
            "pools": {"granularity": "op", "default_limit": 1},
            "runs": {
                "max_concurrent_runs": 8,
                "tag_concurrency_limits": [
                    {"key": "vim/schedule", "value": {"applyLimitPerUniqueValue": True}, "limit": 1}
                ],
            },
        },
        "run_monitoring": {"enabled": True, "poll_interval_seconds": 30, "free_slots_after_run_end_seconds": 30},
        # Components retry what can be retried themselves; here only runs whose process was lost start again.
        "run_retries": {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False},
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},
    }


def workspace(host: str, port: int = CODE_PORT) -> dict[str, Any]:
    """workspace.yaml: where the definitions are served."""
    return {"load_from": [{"grpc_server": {"host": host, "port": port, "location_name": "vim"}}]}


def to_yaml(tree: dict[str, Any]) -> str:
    """As text, keys in their order."""
    import yaml

    return yaml.safe_dump(tree, sort_keys=False)
