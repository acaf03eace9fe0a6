"""Profiles of clusters: address, `run` settings of each component, root and tracking server."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.contract import code, registry, yaml_files
from vim_core.config import RunConfig
from vim_core.config.decode import decode
from vim_core.config.fields import one_of, require
from vim_core.errors import ConfigError
from vim_core.text import hint

FOLDER = Path(__file__).resolve().parents[1] / "conf" / "clusters"
KINDS = ("jobs", "kubernetes")
LOCAL = "local"
OWN_FIELDS = ("root", "tracking_uri")
"""Fields of `run` that are fields of the profile itself, the same for all components."""


@dataclass
class KubernetesSettings:
    """Settings of the RayJob objects on a Kubernetes cluster; `infra/kubernetes` has the deployment around them.

    `context` is the entry of the kubeconfig (empty: the current one). `namespace`, `queue` and `service_account` are
    those of the deployment. `image` is the one of head and CPU workers, `tpu_image` that of TPU hosts (empty: the
    same). `head_*` and `host_*` are requests of the head and each TPU host; a CPU worker requests as much as the
    head. `accelerator` is GKE's name of the TPU's node label, empty without TPUs. `domain` is that of the gateway,
    for addresses of Ray dashboards (empty: none are printed). `ttl_s` is the number of seconds that a job's Ray
    cluster stays, for inspection, after the job has ended.
    """

    context: str = ""
    namespace: str = "vim"
    queue: str = "vim"
    image: str = ""
    tpu_image: str = ""
    head_cpus: int = 4
    head_memory: str = "16Gi"
    host_cpus: int = 200
    host_memory: str = "360Gi"
    accelerator: str = "tpu-v4-podslice"
    service_account: str = "vim"
    domain: str = ""
    ttl_s: int = 600

    def __post_init__(self) -> None:
        for name in ("head_cpus", "host_cpus"):
            require(getattr(self, name) > 0, f"kubernetes.{name}", getattr(self, name), "must be positive")
        for name in ("head_memory", "host_memory"):
            text = getattr(self, name)
            require(re.fullmatch(r"[1-9]\d*[KMGT]i", text) is not None, f"kubernetes.{name}", text, "must be like 16Gi")
        require(self.ttl_s >= 0, "kubernetes.ttl_s", self.ttl_s, "must be 0 (at once) or seconds")


@dataclass
class Cluster:
    """A profile: one file in `pipelines/conf/clusters/`, or any YAML file.

    `kind` jobs is an existing Ray cluster with its Jobs API at `address` (http://host:8265); kubernetes makes a RayJob
    object for each submission. `token_file` holds the cluster's token, which is never copied into settings, logs or
    job specs. `python` starts the job there, with the variables `env`. `run` are values for the preset's `run`, for
    every component, `components` for one of them. `retries` is the number of times that a job lost with its node is
    sent again.
    """

    name: str = ""
    kind: str = "jobs"
    address: str = ""
    token_file: str = ""
    python: str = "python"
    env: dict[str, str] = field(default_factory=dict)
    root: str = ""
    tracking_uri: str = ""
    run: dict[str, Any] = field(default_factory=dict)
    components: dict[str, dict[str, Any]] = field(default_factory=dict)
    retries: int = 3
    kubernetes: KubernetesSettings = field(default_factory=KubernetesSettings)

    def __post_init__(self) -> None:
        one_of("kind", self.kind, KINDS)
        require(self.retries >= 0, "retries", self.retries, "must be 0 (none) or positive")
        _check_run("run", self.run)
        for name, values in self.components.items():
            registry.component(name)
            _check_run(f"components.{name}", values)

    @property
    def is_local(self) -> bool:
        """True if it is the cluster that `vimctl cluster up` starts on this machine."""
        return self.name == LOCAL

    def run_settings(self, run: RunConfig, component: str = "") -> RunConfig:
        """`run` with the profile's values: those of one component, or the common ones where none is named.

        Raises:
            ConfigError: a value that `run` does not take, such as a wrong device.
        """
        own = {name: value for name in OWN_FIELDS if (value := getattr(self, name))}
        return dataclasses.replace(run, **own, **{**self.run, **self.components.get(component, {})})


def load(name: str) -> Cluster:
    """A profile by name or file; `local` with the address and token of the cluster that runs here.

    Raises:
        ConfigError: there is none of this name, or a wrong key or value is in it.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        if path.parent != FOLDER:
            raise ConfigError(f"cluster {name!r}: there is no such file")
        raise ConfigError(f"cluster {name!r} is unknown; {hint(name, names())}, or give a YAML file")
    try:
        tree = OmegaConf.to_container(OmegaConf.create(yaml_files.read(path, Cluster)), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {error.full_key}: {str(error).splitlines()[0]}") from error
    cluster = decode(Cluster, tree, str(path), defaults=True)
    cluster.name = cluster.name or path.stem
    if cluster.is_local:
        from pipelines.jobs import local_cluster

        running = local_cluster.read()
        if running is not None and running.running:
            cluster.address = cluster.address or running.address
            cluster.token_file = cluster.token_file or running.token_file
            cluster.python = running.python
            cluster.env = code.child_environment() | cluster.env
            cluster.run.setdefault("ray_address", running.ray_address)
    return cluster


def names() -> list[str]:
    """The profiles that ship with the package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _check_run(key: str, values: dict[str, Any]) -> None:
    """Refuse a field of `run` that does not exist, that a profile has of its own, or whose value is wrong."""
    # Hardware files are merged when a preset is loaded, before a cluster's values.
    elsewhere = (*OWN_FIELDS, "hardware", "changed")
    known = [entry.name for entry in dataclasses.fields(RunConfig) if entry.name not in elsewhere]
    for name in values:
        if name not in known:
            raise ConfigError(f"{key}.{name}: no setting of `run` that a cluster may change; {hint(name, known)}")
    decode(RunConfig, yaml_files.as_text(RunConfig, values), key=key, defaults=True)
