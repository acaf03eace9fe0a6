"""What is deployed: the profile, and the names and addresses that its parts know each other by."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipelines.jobs.profile import Cluster, KubernetesPlace
from vim_core.errors import ConfigError

SITES = ("mlflow", "dagster", "ray")
MLFLOW_PORT, DAGSTER_PORT, CODE_PORT, POSTGRES_PORT = 5000, 3000, 4000, 5432
DATABASES = ("mlflow", "dagster")
DATABASE_USER = "vim"
NEEDED = {
    "image": "the image with VIM in it, such as REGION-docker.pkg.dev/PROJECT/vim/cpu:1 (infra/images)",
    "project": "the Google Cloud project, such as my-project",
    "bucket": "the bucket for artifacts and backups, without gs://",
    "domain": "the domain whose names mlflow., dagster. and ray. lead to the gateway, such as vim.example.org",
}
SHAPES = {
    "namespace": r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
    "project": r"[a-z][a-z0-9-]{4,28}[a-z0-9]",
    "bucket": r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]",
    "domain": r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*",
    "image": r"[a-z0-9][\w./:@-]*",
    "queue": r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
    "service_account": r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
    "preset": r"[\w-]+",
}
"""Whole values: they go into configurations of other programs, where a stray quote or line would say something else."""
OPTIONAL = {
    "tpu_image": SHAPES["image"],
    "server_image": SHAPES["image"],
    "google_service_account": r"[a-z0-9-]+(@[a-z0-9.-]+\.gserviceaccount\.com)?",
    "accelerator": r"[a-z0-9-]+",
}


@dataclass(frozen=True)
class Deployment:
    """A profile ready to be rendered, and the preset that the deployed Dagster shows."""

    cluster: Cluster
    preset: str

    @property
    def place(self) -> KubernetesPlace:
        """The profile's Kubernetes part."""
        return self.cluster.kubernetes

    @property
    def namespace(self) -> str:
        """Of everything."""
        return self.place.namespace

    @property
    def server_image(self) -> str:
        """Of MLflow, Dagster and the backups."""
        return self.place.server_image or self.place.image

    @property
    def root(self) -> str:
        """Where artifacts lie."""
        return self.cluster.root or f"gs://{self.place.bucket}/vim"

    @property
    def tracking_uri(self) -> str:
        """MLflow's address inside the cluster."""
        return self.cluster.tracking_uri or f"http://{self.host('mlflow')}:{MLFLOW_PORT}"

    def host(self, service: str) -> str:
        """A service's full name inside the cluster."""
        return f"{service}.{self.namespace}.svc.cluster.local"

    def site(self, name: str) -> str:
        """The name under which the gateway shows MLflow, Dagster or Ray."""
        return f"{name}.{self.place.domain}"


def checked(cluster: Cluster, preset: str) -> Deployment:
    """The deployment of a profile.

    Raises:
        ConfigError: naming every value that is empty or no such name, with an example.
    """
    place = cluster.kubernetes
    if cluster.kind != "kubernetes":
        raise ConfigError(f"kind={cluster.kind!r}: manifests are rendered for kind: kubernetes, such as gke-v4")
    missing = [f"kubernetes.{name} ({hint})" for name, hint in NEEDED.items() if not getattr(place, name)]
    if missing:
        raise ConfigError(f"{cluster.name}: copy the profile and fill in {'; '.join(missing)}")
    given = {name: getattr(place, name) for name in SHAPES if name != "preset"}
    optional = {name: text for name in OPTIONAL if (text := getattr(place, name))}
    check_names(**given, preset=preset)
    for name, text in optional.items():
        _check(f"kubernetes.{name}", text, OPTIONAL[name])
    for name in ("root", "tracking_uri"):
        _check(name, getattr(cluster, name), r"[^\s'\"\\]*")
    return Deployment(cluster, preset)


def check_names(**given: str) -> None:
    """Refuse a value that is no whole name of its kind. Raises `ConfigError`."""
    for name, text in given.items():
        _check("--preset" if name == "preset" else f"kubernetes.{name}", text, SHAPES[name])


def _check(name: str, text: str, shape: str) -> None:
    if not re.fullmatch(shape, text):
        raise ConfigError(f"{name}={text!r}: not of the form {shape}")
