"""The same servers on one machine without Kubernetes, for docker compose: Postgres, MLflow, Dagster, nginx."""

from __future__ import annotations

from typing import Any

from pipelines.deploying import database, experiments, gateway, nginx, orchestrator, rendering
from pipelines.deploying.deployment import DAGSTER_PORT, DATABASE_USER, DATABASES, MLFLOW_PORT
from pipelines.jobs.manifests import Manifest

HEADER = """\
# The shared servers on one machine: Postgres, MLflow and Dagster behind nginx with TLS and a login.
# Written by `vimctl infra compose`; infra/README.md says how to start it. Needs, beside this file:
#   secrets/postgres-password   secrets/htpasswd   secrets/tls.crt   secrets/tls.key
"""
IMAGE = "${VIM_IMAGE:-vim-server:latest}"
ROOT = "/var/lib/vim"
CONTAINED: Manifest = {
    "restart": "unless-stopped",
    "read_only": True,
    "tmpfs": ["/tmp"],
    "security_opt": ["no-new-privileges:true"],
    "cap_drop": ["ALL"],
}
# Compose replaces ${…}; a shell inside the container has to see its own dollars.
WITH_PASSWORD = 'export {name}="$$(cat /run/secrets/postgres-password)"; exec {command}'


def files(preset: str, domain: str, https_port: int) -> dict[str, str]:
    """compose.yaml and the files that it mounts, by name."""
    return {
        "compose.yaml": HEADER + rendering.dump(compose(preset, domain, https_port)),
        "nginx.conf": configuration(domain, https_port),
        "dagster.yaml": rendering.dump(orchestrator.instance("postgres")),
        "workspace.yaml": rendering.dump(orchestrator.workspace("dagster-code")),
        "databases.sql": database.databases(),
    }


def compose(preset: str, domain: str, https_port: int) -> dict[str, Any]:
    """The services. Only nginx is reachable from outside, and only from this machine unless VIM_BIND says otherwise."""
    return {
        "name": "vim",
        "services": {
            "postgres": _postgres(),
            "mlflow": _mlflow(domain, https_port),
            **{role: _dagster(role, preset, domain, https_port) for role in orchestrator.COMMANDS},
            "nginx": _nginx(https_port),
            "backup": _backup(),
        },
        "secrets": {
            "postgres-password": {"file": "./secrets/postgres-password"},
            "htpasswd": {"file": "./secrets/htpasswd"},
            "tls.crt": {"file": "./secrets/tls.crt"},
            "tls.key": {"file": "./secrets/tls.key"},
        },
        "volumes": {"postgres": {}, "artifacts": {}, "backups": {}},
    }


def configuration(domain: str, https_port: int) -> str:
    """nginx.conf for compose; it asks docker's own name server."""
    gate = nginx.Gate(
        certificate="/run/secrets/tls.crt", key="/run/secrets/tls.key", htpasswd="/run/secrets/htpasswd",
        http_port=gateway.HTTP_PORT, https_port=gateway.HTTPS_PORT, public_port=https_port, resolver="127.0.0.11",
    )  # fmt: skip
    sites = {
        f"mlflow.{domain}": f"http://mlflow$late:{MLFLOW_PORT}",
        f"dagster.{domain}": f"http://dagster-web$late:{DAGSTER_PORT}",
    }
    return nginx.config(gate, sites)


def _postgres() -> Manifest:
    return {
        "image": database.IMAGE,
        "restart": "unless-stopped",
        "security_opt": ["no-new-privileges:true"],
        "environment": {
            "POSTGRES_USER": DATABASE_USER,
            "POSTGRES_DB": DATABASES[0],
            "POSTGRES_PASSWORD_FILE": "/run/secrets/postgres-password",
        },
        "secrets": ["postgres-password"],
        "volumes": [
            "postgres:/var/lib/postgresql/data",
            "./databases.sql:/docker-entrypoint-initdb.d/databases.sql:ro",
        ],
        "healthcheck": {"test": ["CMD", "pg_isready", "-U", DATABASE_USER], "interval": "5s", "retries": 12},
    }


def _mlflow(domain: str, https_port: int) -> Manifest:
    site = f"mlflow.{domain}"
    port = "" if https_port == 443 else f":{https_port}"
    hosts = [site, "mlflow", f"mlflow:{MLFLOW_PORT}"]
    return {
        **_ours(experiments.command("postgres", f"{ROOT}/mlflow"), "PGPASSWORD"),
        "environment": experiments.environment(hosts, [f"{site}{port}"]),
        "volumes": [f"artifacts:{ROOT}"],
    }


def _dagster(role: str, preset: str, domain: str, https_port: int) -> Manifest:
    port = "" if https_port == 443 else f":{https_port}"
    environment = orchestrator.environment(preset, f"{ROOT}/artifacts", f"http://mlflow:{MLFLOW_PORT}")
    return {
        **_ours(orchestrator.COMMANDS[role], orchestrator.PASSWORD),
        "environment": {**environment, "VIM_MLFLOW_URL": f"https://mlflow.{domain}{port}"},
        "tmpfs": ["/tmp", f"{orchestrator.HOME}:uid=10001,gid=10001"],
        "volumes": [
            f"./dagster.yaml:{orchestrator.HOME}/dagster.yaml:ro",
            f"./workspace.yaml:{orchestrator.HOME}/workspace.yaml:ro",
            f"artifacts:{ROOT}",
        ],
    }


def _ours(command: list[str], password: str) -> Manifest:
    words = WITH_PASSWORD.format(name=password, command=" ".join(command))
    return {
        "image": IMAGE,
        **CONTAINED,
        "entrypoint": ["sh", "-c", words],
        "secrets": ["postgres-password"],
        "depends_on": {"postgres": {"condition": "service_healthy"}},
    }


def _nginx(https_port: int) -> Manifest:
    bind = "${VIM_BIND:-127.0.0.1}"
    return {
        "image": gateway.IMAGE,
        **CONTAINED,
        "command": ["nginx", "-g", "daemon off;"],
        "secrets": ["htpasswd", "tls.crt", "tls.key"],
        "volumes": ["./nginx.conf:/etc/nginx/nginx.conf:ro"],
        "ports": [
            f"{bind}:{https_port}:{gateway.HTTPS_PORT}",
            f"{bind}:${{VIM_HTTP_PORT:-8080}}:{gateway.HTTP_PORT}",
        ],
    }


def _backup() -> Manifest:
    """Started by hand or by the machine's cron: docker compose run --rm backup."""
    script = "/opt/vim/postgres/backup.sh"
    return {
        **_ours(["bash", script, f"{ROOT}/backups", *DATABASES], "PGPASSWORD"),
        "restart": "no",
        "profiles": ["backup"],
        "environment": {"PGHOST": "postgres", "PGUSER": DATABASE_USER, "HOME": "/tmp"},
        "volumes": [f"backups:{ROOT}/backups"],
    }
