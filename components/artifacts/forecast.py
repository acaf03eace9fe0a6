"""The components that a run would make or reuse, each with the reason and a duration from earlier runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from components.artifacts import execute, inventory
from components.artifacts.inventory import short_name
from components.contract import fingerprint, registry
from components.contract.api import Artifact
from vim_core.config import PipelineConfig
from vim_core.storage import io
from vim_core.text import duration, flatten

SHOWN = 4
"""Differing settings named at most."""
LENGTH = "steps"
"""The setting that the duration of a training is proportional to."""


@dataclass(frozen=True)
class Step:
    """One component of a run: whether it is made, why, and the expected seconds (None: no earlier run).

    `rough` says that the earlier run had other settings than the steps of its training.
    """

    name: str
    made: bool
    reason: str
    seconds: float | None = None
    rough: bool = False


def forecast(config: PipelineConfig, names: Sequence[str], forced: Collection[str]) -> list[Step]:
    """The steps of running `names`, of which `forced` are made although they exist. Nothing is written.

    Raises:
        DataError: an input that is not among `names` was not made yet.
        VimError: the root or ingest's source cannot be read.
    """
    steps: dict[str, Step] = {}
    cache: execute.ArtifactCache = {}
    for name in names:
        sources = registry.inputs_of(name, config.components, config)
        before = [source for source in dict.fromkeys(sources.values()) if source in steps and steps[source].made]
        inputs, reasons = dict[str, Artifact](), [f"follows {', '.join(before)}"] if before else []
        unfinished = False
        if not before:
            request = execute.prepare(name, config, cache)
            stored, inputs = request.stored(), request.inputs
            if stored is not None and name not in forced:
                cache[name] = stored
                steps[name] = Step(name, False, f"{short_name(stored.manifest.key)} of {stored.manifest.created[:16]}")
                continue
            unfinished = stored is None and io.exists(request.work)
            reasons = ["made again, as asked"] if stored is not None else []
        settings = flatten(fingerprint.result_settings(getattr(config, name)))
        nearest = nearest_artifact(inventory.artifacts(config.run.root, name), settings, inputs)
        if nearest is None:
            steps[name] = Step(name, True, "; ".join([*reasons, "none in this root"]))
            continue
        other = short_name(nearest.manifest.key)
        differing = _differences(name, nearest, settings, inputs)
        if differing:
            more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
            reasons.append(f"unlike {other}: {', '.join(differing[:SHOWN])}{more}")
        elif not reasons:
            reasons = [f"other source data than {other}" if not sources else f"other data than {other}"]
        reasons += ["unfinished work is continued"] * unfinished
        rough = any(not each.startswith(f"{name}.{LENGTH}=") for each in differing)
        steps[name] = Step(name, True, "; ".join(reasons), expected_seconds(nearest, settings), rough)
    return list(steps.values())


def lines(steps: Sequence[Step]) -> Iterator[str]:
    """The steps for people, a line each, and the total."""
    for number, step in enumerate(steps, start=1):
        time = "" if not step.made else "no earlier run"
        if step.seconds is not None:
            time = f"{'roughly' if step.rough else 'about'} {duration(step.seconds)}"
        action = "would run" if step.made else "reused"
        yield f"{number:>2} of {len(steps)}  {step.name:<11}  {action:<9}  {time:<19}  {step.reason}"
    made = [step for step in steps if step.made]
    total = duration(sum(step.seconds or 0.0 for step in made))
    unknown = [step.name for step in made if step.seconds is None]
    rest = f"; no earlier run of {', '.join(unknown)}" if unknown else ""
    estimate = f", about {total} by the durations of earlier runs{rest}" if made else ""
    yield f"{len(made)} of {len(steps)} components would run{estimate}"


def _differences(name: str, artifact: Artifact, settings: dict[str, Any], inputs: dict[str, Artifact]) -> list[str]:
    """The version, settings and inputs in which a request differs from an existing artifact."""
    manifest = artifact.manifest
    version = registry.component(name).VERSION
    found = [f"version {version}, there {manifest.version}"] if version != manifest.version else []
    theirs = flatten(manifest.config)
    for key, value in settings.items():
        if theirs.get(key) != value:
            found.append(f"{name}.{key}={value}, there {theirs.get(key, 'not known')}")
    for key, source in inputs.items():
        record, ours = manifest.inputs.get(key), short_name(source.manifest.key)
        if record is None:
            found.append(f"{key} {ours}, there none")
        elif record.digest != source.digest:
            there = short_name(record.key)
            found.append(f"{key} {ours}, there {there if there != ours else f'one with digest {record.digest[:8]}'}")
    return found


def nearest_artifact(
    artifacts: Sequence[Artifact], settings: dict[str, Any], inputs: dict[str, Artifact]
) -> Artifact | None:
    """The artifact with the fewest differences, the newest of several."""

    def distance(artifact: Artifact) -> int:
        return len(_differences(artifact.manifest.component, artifact, settings, inputs))

    return min(artifacts, key=distance, default=None)


def expected_seconds(artifact: Artifact, settings: dict[str, Any]) -> float:
    """Its duration, scaled by the steps of a training."""
    before, now = artifact.manifest.config.get(LENGTH), settings.get(LENGTH)
    scale = now / before if isinstance(before, int) and isinstance(now, int) and before > 0 else 1.0
    return float(artifact.manifest.seconds * scale)
