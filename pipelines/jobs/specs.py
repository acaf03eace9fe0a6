"""Specs of jobs: the name that follows from what is asked, and their place below the root that the cluster reaches."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from components.artifacts import store
from components.contract import fingerprint as hashing
from components.contract import registry, settings
from pipelines.jobs.api import JobSpec
from vim_core.config import PipelineConfig
from vim_core.errors import DataError
from vim_core.storage import io

FOLDER, FILE = "submissions", "spec.json"
COMMANDS = ("run", "sweep")
DIGITS = 12
PRESET_LENGTH = 20
"""Of a preset's name in a job's: Kubernetes takes 47 letters for a RayJob."""
NAME = re.compile(r"(?P<base>vim-[a-z0-9-]+-[0-9a-f]{12})-a(?P<attempt>[1-9][0-9]*)")


def config_of(spec: JobSpec) -> PipelineConfig:
    """The settings of a spec. Raises `ConfigError` for those of another version."""
    return settings.from_yaml(spec.settings, f"job of {spec.preset}")


def fingerprint(spec: JobSpec) -> str:
    """Hex digits over what is asked: settings that change a result, root, command, and the versions of the components.

    Where the work runs is not in it, as in an artifact's: a second submitter finds the job whatever its profile says.
    """
    config = config_of(spec)
    asked = {
        "settings": hashing.settings_of(config),
        "root": config.run.root,
        "versions": {name: registry.component(name).VERSION for name in config.components},
        **{name: getattr(spec, name) for name in ("command", "target", "start", "only", "force", "sweep")},
    }
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def base(spec: JobSpec) -> str:
    """The name that all attempts at this job share: `vim-<preset>-<fingerprint>`."""
    return f"vim-{label(spec.preset)}-{fingerprint(spec)}"


def label(preset: str) -> str:
    """A preset's name as part of a job's: letters that paths, Ray and Kubernetes take."""
    return re.sub(r"[^a-z0-9]+", "-", preset.lower())[:PRESET_LENGTH].strip("-") or "custom"


def identity(base: str, attempt: int) -> str:
    """The name of one attempt."""
    return f"{base}-a{attempt}"


def attempts(names: Iterable[str], base: str) -> dict[int, str]:
    """Of names of jobs those that are attempts at this one, by number."""
    found = {name: NAME.fullmatch(name) for name in names}
    return {int(match["attempt"]): name for name, match in found.items() if match and match["base"] == base}


def planned(spec: JobSpec, config: PipelineConfig) -> tuple[list[str], list[str]]:
    """The components that the job brings up to date, in flow order, and those of them that `force` makes again.

    Raises:
        ConfigError: a component that is unknown or not in the preset.
    """
    from pipelines.orchestration import launch

    names = launch.plan(config, spec.target or None, spec.only, spec.start)
    return names, ([spec.target] if spec.target else names) if spec.force else []


def uri(root: str, identity: str) -> str:
    """Where the spec of a job lies. Raises `DataError` for a name that is none of a job."""
    if not NAME.fullmatch(identity):
        raise DataError(f"{identity!r} is no name of a job, such as vim-digits-0123456789ab-a1")
    return io.join(root, FOLDER, identity, FILE)


def identity_of(uri: str) -> str:
    """The name of the job whose spec lies there. Raises `DataError` where no job's does."""
    name = uri.removesuffix(f"/{FILE}").rsplit("/", 1)[-1]
    if not uri.endswith(f"/{FILE}") or not NAME.fullmatch(name):
        raise DataError(f"{uri}: no spec of a job lies there; it would end in {FOLDER}/<job>/{FILE}")
    return name


def stored(root: str) -> list[str]:
    """Names of the jobs that were ever sent from this root. Raises `StorageError`."""
    with store.guarded(root):
        return [name for name in io.list_names(io.join(root, FOLDER)) if NAME.fullmatch(name)]


def write(root: str, identity: str, spec: JobSpec) -> bool:
    """Store a spec, once; False where another one lies there under this name. Raises `StorageError`."""
    place, data = uri(root, identity), _dump(spec)
    with store.guarded(root):
        return io.create_exclusive(place, data) or io.read_bytes(place) == data


def read(uri: str) -> JobSpec:
    """A stored spec. Raises `DataError` where there is none, or with a missing, unknown or mistyped key."""
    try:
        tree = json.loads(io.read_bytes(uri))
    except FileNotFoundError as error:
        raise DataError(f"{uri}: is not there; the submitter and the cluster must reach the same root") from error
    except ValueError as error:
        raise DataError(f"{uri}: not valid JSON ({error})") from error
    return _parsed(tree, uri)


def _dump(spec: JobSpec) -> bytes:
    return (json.dumps(dataclasses.asdict(spec), indent=2, sort_keys=True) + "\n").encode()


def _parsed(tree: Any, uri: str) -> JobSpec:
    kinds: dict[str, type] = {field.name: _kind(str(field.type)) for field in dataclasses.fields(JobSpec)}
    if not isinstance(tree, dict) or set(tree) != set(kinds):
        raise DataError(f"{uri}: not the keys of a job's spec; it was written by another version")
    for name, kind in kinds.items():
        if not isinstance(tree[name], kind):
            raise DataError(f"{uri}: {name}={tree[name]!r} is no {kind.__name__}")
    spec = JobSpec(**tree)
    if spec.command not in COMMANDS:
        raise DataError(f"{uri}: command={spec.command!r}: must be one of {', '.join(COMMANDS)}")
    return spec


def _kind(annotation: str) -> type:
    return {"str": str, "bool": bool}.get(annotation, dict)
