"""Postgres with a database for MLflow and one for Dagster, and its backups to the bucket."""

from __future__ import annotations

from pathlib import Path

from pipelines.deploying.deployment import DATABASE_USER, DATABASES, POSTGRES_PORT, Deployment
from pipelines.deploying.objects import (
    POSTGRES_SECRET,
    about,
    config_map,
    container,
    pod,
    secret,
    service,
    value,
)  # fmt: skip
from pipelines.jobs.manifests import HARDENED, MANAGED, ROLE, Manifest

IMAGE = "postgres:17"
POSTGRES_USER = 999
DISK = "20Gi"
SCRIPTS = Path(__file__).resolve().parent / "postgres"
WHEN = "17 3 * * *"
KEPT_S = 7 * 86400


def postgres(made: Deployment) -> list[Manifest]:
    """One server on a disk of its own. Cloud SQL instead: leave this out and let a service `postgres` lead there."""
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": DISK}}},
    }
    server = {
        "name": "postgres",
        "image": IMAGE,
        "env": [
            value("POSTGRES_USER", DATABASE_USER),
            value("POSTGRES_DB", DATABASES[0]),
            # A folder below the mount: the disk's own root has lost+found in it, which initdb refuses.
            value("PGDATA", "/var/lib/postgresql/data/pgdata"),
            secret("POSTGRES_PASSWORD", POSTGRES_SECRET, "password"),
        ],
        "ports": [{"name": "postgres", "containerPort": POSTGRES_PORT}],
        "resources": {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "2Gi"}},
        "securityContext": HARDENED,
        "readinessProbe": {"exec": {"command": ["pg_isready", "-U", DATABASE_USER]}, "periodSeconds": 5},
        "volumeMounts": [
            {"name": "data", "mountPath": "/var/lib/postgresql/data"},
            {"name": "first", "mountPath": "/docker-entrypoint-initdb.d", "readOnly": True},
        ],
    }
    volumes = [{"name": "first", "configMap": {"name": "postgres-first"}}]
    stateful = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": about(made.namespace, "postgres", "postgres"),
        "spec": {
            "serviceName": "postgres",
            "replicas": 1,
            "selector": {"matchLabels": {ROLE: "postgres"}},
            "template": {
                "metadata": {"labels": {**MANAGED, ROLE: "postgres"}},
                "spec": pod([server], "default", POSTGRES_USER, volumes=volumes),
            },
            "volumeClaimTemplates": [claim],
        },
    }
    ports = {"postgres": (POSTGRES_PORT, POSTGRES_PORT)}
    return [
        config_map(made.namespace, "postgres-first", {"databases.sql": databases()}),
        service(made.namespace, "postgres", ports),
        stateful,
    ]


def databases() -> str:
    """What an empty server is told once: the databases beside its first."""
    return "".join(f"CREATE DATABASE {name};\n" for name in DATABASES[1:])


def backup(made: Deployment) -> list[Manifest]:
    """Every night, both databases into the bucket; and the scripts, also for restoring."""
    scripts = {name: (SCRIPTS / name).read_text(encoding="utf-8") for name in ("backup.sh", "restore.sh")}
    words = ["bash", "/opt/vim/postgres/backup.sh", f"gs://{made.place.bucket}/backups/postgres", *DATABASES]
    schedule = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": about(made.namespace, "backup", "backup"),
        "spec": {
            "schedule": WHEN,
            "concurrencyPolicy": "Forbid",
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {"spec": _job(made, words, 2)},
        },
    }
    return [config_map(made.namespace, "postgres-scripts", scripts), schedule]


def restore(made: Deployment) -> list[Manifest]:
    """To be created by hand when it is needed: the newest backup into empty databases, never over a filled one."""
    words = ["bash", "/opt/vim/postgres/restore.sh", f"gs://{made.place.bucket}/backups/postgres/latest", *DATABASES]
    meta = about(made.namespace, "restore", "backup")
    return [{"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": _job(made, words, 0)}]


def _job(made: Deployment, words: list[str], retries: int) -> Manifest:
    env = [
        value("PGHOST", "postgres"),
        value("PGPORT", str(POSTGRES_PORT)),
        value("PGUSER", DATABASE_USER),
        secret("PGPASSWORD", POSTGRES_SECRET, "password"),
        value("HOME", "/tmp"),
    ]
    mounts = [
        {"name": "scripts", "mountPath": "/opt/vim/postgres", "readOnly": True},
        {"name": "temporary", "mountPath": "/tmp"},
    ]
    work = container("postgres", made.server_image, words, env, "500m", "1Gi", volumeMounts=mounts)
    volumes = [
        {"name": "scripts", "configMap": {"name": "postgres-scripts"}},
        {"name": "temporary", "emptyDir": {}},
    ]
    return {
        "backoffLimit": retries,
        "ttlSecondsAfterFinished": KEPT_S,
        "template": {
            "metadata": {"labels": {**MANAGED, ROLE: "backup"}},
            "spec": pod([work], restartPolicy="Never", volumes=volumes),
        },
    }
