"""All manifests of a deployment by file, and writing them: the same profile gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.deploying import (
    accounts,
    database,
    experiments,
    gateway,
    network,
    orchestrator,
    queues,
)  # fmt: skip
from pipelines.deploying.deployment import Deployment
from pipelines.jobs import manifests
from pipelines.jobs.manifests import Manifest
from vim_core.errors import ConfigError, StorageError


@dataclass(frozen=True)
class Piece:
    """One file: what makes its objects, and a line on what it is."""

    file: str
    about: str
    make: Callable[[Deployment], list[Manifest]]


PIECES = {
    "namespace": Piece("00-namespace.yaml", "The namespace.", accounts.namespace),
    "accounts": Piece("10-accounts.yaml", "Service accounts (workload identity).", accounts.accounts),
    "rbac": Piece("15-rbac.yaml", "Who may submit, follow and stop jobs.", accounts.submitters),
    "network": Piece("20-network.yaml", "Nothing may talk to anything, except what is listed.", network.policies),
    "queues": Piece("25-queues.yaml", "Kueue: kinds of nodes, quotas, the queue. Needs Kueue.", queues.queues),
    "postgres": Piece("30-postgres.yaml", "Postgres. Needs Secret vim-postgres.", database.postgres),
    "backup": Piece("35-backup.yaml", "Postgres into the bucket, every night.", database.backup),
    "mlflow": Piece("40-mlflow.yaml", "MLflow's server.", experiments.mlflow),
    "dagster": Piece("50-dagster.yaml", "Dagster: web server, daemon, code location.", orchestrator.dagster),
    "gateway": Piece("60-gateway.yaml", "nginx: TLS and login. Needs vim-tls, vim-htpasswd.", gateway.gateway),
    "restore": Piece("by-hand/restore.yaml", "Restores the newest backup into empty databases.", database.restore),
    "raycluster": Piece(
        "by-hand/raycluster.yaml", "A Ray cluster that stays, and holds its slices all the time.",
        lambda made: [manifests.ray_cluster(made.cluster, gateway.STANDING)],
    ),
}  # fmt: skip
"""By the name that `--only` takes. Those in by-hand are not meant for `kubectl apply` of the whole folder."""


def text(made: Deployment, name: str) -> str:
    """A piece as YAML. Raises `ConfigError` for a name that is none, or for what the profile lacks."""
    if name not in PIECES:
        raise ConfigError(f"--only {name}: no such piece; known are {', '.join(PIECES)}")
    piece = PIECES[name]
    head = f"# {piece.about}\n# By `vimctl infra render` from the profile {made.cluster.name}: change it there.\n"
    return head + "".join(f"---\n{dump(each)}" for each in piece.make(made))


def write(made: Deployment, folder: str, only: Iterable[str]) -> list[Path]:
    """Write the named pieces, or all; the paths, in their order. Nothing is written when one of them cannot be made.

    Raises:
        ConfigError: see `text`.
        StorageError: the folder cannot be written.
    """
    return write_files(folder, {PIECES[name].file: text(made, name) for name in _chosen(only)})


def write_files(folder: str, texts: dict[str, str]) -> list[Path]:
    """Write texts by relative path below a folder. Raises `StorageError` where that cannot be done."""
    paths = []
    try:
        for file, content in texts.items():
            path = Path(folder, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            paths.append(path)
    except OSError as error:
        raise StorageError(f"--out {folder}: {error.strerror}; give a folder that you may write to") from error
    return paths


def dump(tree: Any) -> str:
    """YAML without references between its parts, texts of several lines as such."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def lines(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Plain.add_representer(str, lines)
    return yaml.dump(tree, Dumper=Plain, sort_keys=False, width=120)


def _chosen(only: Iterable[str]) -> list[str]:
    given = list(only)
    for name in given:
        if name not in PIECES:
            raise ConfigError(f"--only {name}: no such piece; known are {', '.join(PIECES)}")
    return given or list(PIECES)
