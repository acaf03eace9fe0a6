"""Job specs: the job's id, which follows from its spec, and the spec's file below the root that the cluster reaches."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable

from components.artifacts import store
from components.contract import fingerprint, registry, settings
from pipelines.jobs.api import JobSpec
from vim_core.config import PipelineConfig
from vim_core.config.decode import decode
from vim_core.errors import DataError
from vim_core.storage import io

FOLDER, FILE = "submissions", "spec.json"
FINGERPRINT_LENGTH = 12
PRESET_LENGTH = 20
"""Letters of the preset's name in a job's id: Kubernetes takes 47 for the whole."""
JOB_ID = re.compile(r"(?P<base>vim-[a-z0-9-]+-[0-9a-f]{12})-a(?P<attempt>[1-9][0-9]*)")


def config_of(spec: JobSpec) -> PipelineConfig:
    """The settings of a spec. Raises `ConfigError` for those of another version."""
    return settings.from_yaml(spec.settings, f"job of {spec.preset}")


def base_id(spec: JobSpec) -> str:
    """The part of the id that all attempts at this job share: `vim-<preset>-<fingerprint>`, before `-a<number>`.

    The fingerprint follows from settings that change a result, root, command, and the versions of the components. As
    for artifacts, `run` settings are left out: a second submitter finds the job with any profile.
    """
    config = config_of(spec)
    tree = {
        "settings": fingerprint.result_settings(config),
        "root": config.run.root,
        "versions": {name: registry.component(name).VERSION for name in config.components},
        **{name: getattr(spec, name) for name in ("command", "target", "start", "only", "force", "sweep")},
    }
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"vim-{preset_label(spec.preset)}-{digest[:FINGERPRINT_LENGTH]}"


def preset_label(preset: str) -> str:
    """A preset's name as a part of a job's id: letters that paths, Ray and Kubernetes take."""
    return re.sub(r"[^a-z0-9]+", "-", preset.lower())[:PRESET_LENGTH].strip("-") or "custom"


def attempts(job_ids: Iterable[str], base: str) -> dict[int, str]:
    """The ids among `job_ids` that are attempts at the job of this base, by number."""
    matches = {job_id: JOB_ID.fullmatch(job_id) for job_id in job_ids}
    return {int(match["attempt"]): job_id for job_id, match in matches.items() if match and match["base"] == base}


def plan(spec: JobSpec, config: PipelineConfig) -> tuple[list[str], list[str]]:
    """The components that the job brings up to date, in flow order, and those of them that `force` makes again.

    Raises:
        ConfigError: a component that is unknown or not in the preset.
    """
    from pipelines.orchestration import launch

    names = launch.plan(config, spec.target or None, spec.only, spec.start)
    return names, ([spec.target] if spec.target else names) if spec.force else []


def uri(root: str, job_id: str) -> str:
    """The address of a job's spec. Raises `DataError` for text that is not a job's id."""
    if not JOB_ID.fullmatch(job_id):
        raise DataError(f"{job_id!r} is not the id of a job, such as vim-digits-0123456789ab-a1")
    return io.join(root, FOLDER, job_id, FILE)


def job_id_of(uri: str) -> str:
    """The id of the job whose spec has this address. Raises `DataError` for any other address."""
    name = uri.removesuffix(f"/{FILE}").rsplit("/", 1)[-1]
    if not uri.endswith(f"/{FILE}") or not JOB_ID.fullmatch(name):
        raise DataError(f"{uri}: not the address of a job's spec; it would end in {FOLDER}/<job>/{FILE}")
    return name


def list_jobs(root: str) -> list[str]:
    """The ids of all jobs with a spec below this root. Raises `StorageError`."""
    with store.guarded(root):
        return [name for name in io.list_names(io.join(root, FOLDER)) if JOB_ID.fullmatch(name)]


def write(root: str, job_id: str, spec: JobSpec) -> bool:
    """Store a spec; False where a different one is stored for this id. Raises `StorageError`."""
    target = uri(root, job_id)
    data = (json.dumps(dataclasses.asdict(spec), indent=2, sort_keys=True) + "\n").encode()
    with store.guarded(root):
        return io.create_exclusive(target, data) or io.read_bytes(target) == data


def read(uri: str) -> JobSpec:
    """A stored spec. Raises `DataError` where there is none, or for a missing, unknown or mistyped key."""
    try:
        tree = json.loads(io.read_bytes(uri))
    except FileNotFoundError as error:
        raise DataError(f"{uri}: is not there; the submitter and the cluster must reach the same root") from error
    except ValueError as error:
        raise DataError(f"{uri}: not valid JSON ({error})") from error
    return decode(JobSpec, tree, uri, error=DataError)
