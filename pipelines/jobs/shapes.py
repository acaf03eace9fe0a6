"""What a job needs of a Kubernetes cluster: slices of TPUs by topology, and workers on CPUs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from components.contract import registry
from components.engines import topology
from pipelines.jobs.api import JobSpec
from pipelines.jobs.profile import Cluster
from vim_core.config import RunConfig
from vim_core.errors import ConfigError

MOST_GROUPS = 7
"""Kueue admits a job as at most 8 sets of pods, and one of them is the head."""


@dataclass(frozen=True)
class Shapes:
    """Slices by topology (the largest number that one component takes), and how many CPU workers beside the head."""

    slices: Mapping[str, int]
    cpu_workers: int = 0


def of_job(cluster: Cluster, spec: JobSpec) -> Shapes:
    """What the components of this submission need at most at one time; components that are left out need nothing.

    Raises:
        ConfigError: a component is placed where RayJob objects cannot put it, or on a slice that v4 does not have.
    """
    tree = _settings(spec)
    run = RunConfig(**tree.get("run", {}))
    runs = []
    for name in needed(spec, list(tree.get("components", []))):
        placed = cluster.place(run, name)
        runs.append((name, dataclasses.replace(placed, **spec.places.get(name, {}))))
    return together(runs)


def needed(spec: JobSpec, components: list[str]) -> list[str]:
    """The components that a submission may run, in flow order; one that is finished counts, because nobody looked yet.

    All, or the target and what it needs, or the target alone; with a start, what is made from it and what those need.

    Raises:
        ConfigError: no component of that name.
    """
    chosen = registry.in_flow_order(components)
    if spec.command != "run" or not (spec.target or spec.start):
        return chosen
    if spec.only:
        return [spec.target]
    ends = {spec.target} if spec.target else set(chosen)
    if spec.start:
        within = {name for end in ends for name in [end, *registry.upstream(end, components)]}
        ends = {name for name in within if name == spec.start or spec.start in registry.upstream(name, components)}
    wanted = ends | {name for end in ends for name in registry.upstream(end, components)}
    return [name for name in chosen if name in wanted]


def together(runs: Iterable[tuple[str, RunConfig]]) -> Shapes:
    """The components take turns, so each shape is there as often as the neediest of them wants it.

    Raises:
        ConfigError: GPUs, a wrong topology, or more shapes than Kueue admits.
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
            _, count = topology.slices_of(run)
            shape = run.topology.lower()
            slices[shape] = max(slices.get(shape, 0), count)
        elif run.workers > 1:
            workers = max(workers, run.workers)
    if len(slices) + bool(workers) > MOST_GROUPS:
        raise ConfigError(
            f"components: they ask for {len(slices)} shapes of slices ({', '.join(sorted(slices))}); Kueue admits "
            f"at most {MOST_GROUPS} kinds of workers in a job: give several components the same topology"
        )
    return Shapes(dict(sorted(slices.items(), key=lambda item: topology.parse(item[0]).dimensions)), workers)


def _settings(spec: JobSpec) -> dict[str, Any]:
    import yaml

    tree = yaml.safe_load(spec.settings)
    if not isinstance(tree, dict):
        raise ConfigError(f"settings of the job: expected a preset's settings as YAML, not {type(tree).__name__}")
    return tree
