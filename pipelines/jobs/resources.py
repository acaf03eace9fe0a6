"""The resources of a job on Kubernetes: TPU slices by topology, and workers on CPUs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from components.contract import registry
from components.engines import topology
from pipelines.jobs.api import JobSpec
from pipelines.jobs.profile import Cluster
from vim_core.config import RunConfig
from vim_core.errors import ConfigError

MAX_WORKER_GROUPS = 7
"""Kueue admits a job as at most 8 sets of pods, and one of them is the head."""


@dataclass(frozen=True)
class JobResources:
    """Slices by topology (the largest number that one component uses), and the CPU workers beside the head."""

    slices: Mapping[str, int]
    cpu_workers: int = 0


def job_resources(cluster: Cluster, spec: JobSpec) -> JobResources:
    """The largest resources that the job uses at one time; components that do not run need none.

    Raises:
        ConfigError: a component needs GPUs or a slice that v4 does not have, or the job needs too many groups.
    """
    import yaml

    tree = yaml.safe_load(spec.settings)
    if not isinstance(tree, dict):
        raise ConfigError(f"settings of the job: expected a preset's settings as YAML, not {type(tree).__name__}")
    run = RunConfig(**tree.get("run", {}))
    runs = []
    for name in components_to_run(spec, list(tree.get("components", []))):
        runs.append((name, dataclasses.replace(cluster.run_settings(run, name), **spec.places.get(name, {}))))
    return combine(runs)


def components_to_run(spec: JobSpec, components: list[str]) -> list[str]:
    """The components that a job may run, in flow order, whether or not their artifacts exist already.

    These are all, or the target and its inputs, or the target alone; with a start, what is made from it and its inputs.

    Raises:
        ConfigError: no component of that name.
    """
    ordered = registry.in_flow_order(components)
    if spec.command != "run" or not (spec.target or spec.start):
        return ordered
    if spec.only:
        return [spec.target]
    ends = {spec.target} if spec.target else set(ordered)
    if spec.start:
        within = {name for end in ends for name in [end, *registry.upstream(end, components)]}
        ends = {name for name in within if name == spec.start or spec.start in registry.upstream(name, components)}
    wanted = ends | {name for end in ends for name in registry.upstream(end, components)}
    return [name for name in ordered if name in wanted]


def combine(runs: Iterable[tuple[str, RunConfig]]) -> JobResources:
    """The maximum over components, which run one after another: of the slices of each topology and of CPU workers.

    Raises:
        ConfigError: GPUs, a wrong topology, or more topologies than Kueue admits.
    """
    slices: dict[str, int] = {}
    workers = 0
    for name, run in runs:
        if run.device == "cuda":
            raise ConfigError(
                f"components.{name}.device='cuda': RayJob objects are made for CPUs and TPU slices; for GPUs bring "
                "up a Ray cluster of your own and use a profile with kind: jobs"
            )
        if run.device == "xla" and run.topology:
            _, count = topology.resolve_slices(run)
            shape = run.topology.lower()
            slices[shape] = max(slices.get(shape, 0), count)
        elif run.workers > 1:
            workers = max(workers, run.workers)
    if len(slices) + bool(workers) > MAX_WORKER_GROUPS:
        raise ConfigError(
            f"components: they ask for {len(slices)} shapes of slices ({', '.join(sorted(slices))}); Kueue admits "
            f"at most {MAX_WORKER_GROUPS} kinds of workers in a job: give several components the same topology"
        )
    return JobResources(dict(sorted(slices.items(), key=lambda item: topology.parse(item[0]).dimensions)), workers)
