"""MLflow's server: runs in Postgres, files in the bucket, known by the names that the cluster and the gateway use."""

from __future__ import annotations

from pipelines.deploying.deployment import DATABASE_USER, MLFLOW_PORT, POSTGRES_PORT, Deployment
from pipelines.deploying.objects import (
    POSTGRES_SECRET,
    container,
    deployment,
    pod,
    probe,
    secret,
    service,
    value,
)  # fmt: skip
from pipelines.jobs.manifests import Manifest


def mlflow(made: Deployment) -> list[Manifest]:
    """One server. Clients send files through it, so people who browse need no rights on the bucket."""
    own = made.host("mlflow")
    inside = ("mlflow", f"mlflow.{made.namespace}", own)
    names = [f"{name}{port}" for name in inside for port in ("", f":{MLFLOW_PORT}")]
    variables = environment([*names, made.site("mlflow")], [made.site("mlflow")])
    env = [
        *(value(name, text) for name, text in variables.items()),
        # libpq reads it; the database's address holds no password.
        secret("PGPASSWORD", POSTGRES_SECRET, "password"),
    ]
    server = container(
        "mlflow", made.server_image, command("postgres", f"gs://{made.place.bucket}/mlflow"), env, "1", "4Gi",
        ports=[{"containerPort": MLFLOW_PORT}], readinessProbe=probe("/health", MLFLOW_PORT),
        volumeMounts=[{"name": "temporary", "mountPath": "/tmp"}],
    )  # fmt: skip
    ports = {"http": (MLFLOW_PORT, MLFLOW_PORT)}
    spec = pod([server], volumes=[{"name": "temporary", "emptyDir": {}}])
    return [service(made.namespace, "mlflow", ports), deployment(made.namespace, "mlflow", spec)]


def command(database_host: str, artifacts: str, python: str = "python") -> list[str]:
    """How the server is started, on every interface of its container."""
    # The driver by name: SQLAlchemy's default for postgresql:// is another one since 2.1.
    return [
        python, "-m", "mlflow", "server", "--host", "0.0.0.0", "--port", str(MLFLOW_PORT), "--workers", "2",
        "--backend-store-uri", f"postgresql+psycopg2://{DATABASE_USER}@{database_host}:{POSTGRES_PORT}/mlflow",
        "--artifacts-destination", artifacts,
    ]  # fmt: skip


def environment(hosts: list[str], sites: list[str]) -> dict[str, str]:
    """Its variables: the names it answers to, the sites whose pages may change something."""
    return {
        "HOME": "/tmp",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"https://{site}" for site in sites),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
