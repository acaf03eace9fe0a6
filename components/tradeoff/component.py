"""Accuracy and Fréchet distance over temperature, guidance and acceptance, with intervals: which settings are best."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from components.contract import lineage
from components.contract.api import Context, Inputs, Outcome
from vim_core.config import TradeoffConfig
from vim_core.errors import ConfigError, LineageError
from vim_core.storage import io

if TYPE_CHECKING:
    from components.tradeoff.candidates import CandidateSet
    from vim_core.features.selectors import SelectorSpec

VERSION = 1
INPUTS = {
    "prior": "prior",
    "tokenizer": "quantize",
    "classifier": "classify",
    "statistics": "statistics",
    "selector": "selector?",
}
FILE = "tradeoff.json"
IMAGE_NETWORKS = ("classifier", "selector", "statistics")
"""Inputs that must come from the same images."""


def source_state(config: TradeoffConfig) -> str:
    """Text of the list of a network's classes, part of the fingerprint. Raises `DataError` where it cannot be read."""
    from components.select.network import class_list_digest

    return class_list_digest(config.network)


def run(config: TradeoffConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """`tradeoff.json`: every point with its intervals, the best by distance, and the best guidance with an interval.

    Points that an earlier attempt finished are kept, and of an unfinished one the candidates drawn so far.

    Raises:
        LineageError: prior and tokenizer, or the classifiers and statistics, do not belong together; or an evaluator
            is the network that selects.
        ConfigError: the prior has no classes, or guidance is set and it was trained without a null class; the selector
            is missing or has other classes.
    """
    import torch

    from components.engines.devices import beam_device, numeric_folder
    from components.select import network
    from components.tradeoff import candidates, points
    from vim_core.distributed.runtimes import resolve_threads

    check(config, inputs)
    classes = [str(name) for name in inputs["prior"].properties["classes"]]
    device, threads = beam_device(ctx.run), resolve_threads(ctx.run.threads)
    selecting = min(config.acceptances) < 1.0
    selector = network.selector_spec(config.network, inputs, classes, device, "tradeoff") if selecting else None
    described = network.describe(selector) if selector is not None else {}
    lineage.check_evaluators("tradeoff", described.get("digest", ""), inputs)
    # unfinished work of another numeric class is not continued (contract 11)
    folder = io.join(ctx.work, f"{numeric_folder(device, threads, config.lanes)}-{config.precision}")
    sets = candidates.candidate_sets(config, len(classes), folder)
    torch.set_num_threads(threads)
    _measure(sets, config, inputs, selector, ctx)
    records = [points.read(each, rate) for each in sets for rate in each.acceptances]
    resampled = [record.pop(points.RESAMPLED) for record in records]
    places = points.best_guidances(config, records, resampled)
    summary = points.summary(config, inputs, described, records, places)
    io.write_bytes(ctx.path(FILE), json.dumps(summary, sort_keys=True, indent=1).encode())
    for number, record in enumerate(records):
        ctx.tracker.metrics(number, {name: float(value) for name, value in record.items()})
    return Outcome(
        metrics=points.metrics(config, summary),
        properties={
            "judge": summary["judge"],
            "selector": summary["selector"],
            "prior": inputs["prior"].digest,
            **lineage.tokenizer_digests(inputs["tokenizer"]),
            "classes": inputs["prior"].properties["classes"],
        },
        protocols=points.protocols(config, inputs, summary),
        numeric={"device": device, "dtype": config.precision, "threads": threads},
    )


def check(config: TradeoffConfig, inputs: Inputs) -> None:
    """Raise unless the inputs belong together and the prior can sample as configured; see `run`."""
    prior, tokenizer = inputs["prior"], inputs["tokenizer"]
    trained_on, given = lineage.recorded_digests(prior.properties), lineage.tokenizer_digests(tokenizer)
    if not lineage.same_codes(trained_on, given):
        raise LineageError(f"the prior {prior.digest[:12]} {lineage.mismatch(trained_on, given, 'belongs to')}")
    if not prior.properties["conditional"]:
        raise ConfigError("tradeoff: measures accuracy by class, and the prior has no classes; leave it out")
    if any(guidance != 1.0 for guidance in config.guidances) and not prior.properties["null_trained"]:
        raise ConfigError(
            f"tradeoff.guidances={config.guidances}: needs a prior trained with prior.label_dropout > 0; set [1.0]"
        )
    images = {name: inputs[name].manifest.inputs["images"].digest for name in IMAGE_NETWORKS if name in inputs}
    lineage.check_same("tradeoff", "images", images, "classifier")
    network = inputs["statistics"].properties["network"]
    if network["kind"] == "classifier":
        digests = {"statistics": str(network["digest"]), "classifier": inputs["classifier"].digest}
        lineage.check_same("tradeoff", "classifier", digests, "classifier")


def _measure(
    sets: list[CandidateSet], config: TradeoffConfig, inputs: Inputs, selector: SelectorSpec | None, ctx: Context
) -> None:
    """Measure the points that no earlier attempt did; the candidates of a set are removed after its points."""
    from components.statistics.shards import merged_name, read_moments
    from components.tradeoff import points
    from components.tradeoff.candidates import Networks, draw
    from vim_core.metrics.tradeoff import stratified_resamples

    missing = {}
    for candidates in sets:
        rates = [rate for rate in candidates.acceptances if not io.exists(points.point_uri(candidates, rate))]
        if rates:
            missing[candidates] = rates
    done, count = len(sets) - len(missing), sets[0].count
    ctx.progress.start(len(sets) * count, "image")
    if done:
        ctx.progress.note(f"{done} of {len(sets)} points were finished by an earlier attempt")
    if not missing:
        return
    networks, statistics = Networks(config, inputs, selector, ctx), inputs["statistics"]
    rows = stratified_resamples(config.seed, config.bootstrap, sets[0].classes, config.count)
    moments = read_moments(statistics.uri(merged_name(str(statistics.properties["split"]))))
    reference = points.Reference(config, moments, rows)
    drawn = done * count

    def advance(number: int) -> None:
        nonlocal drawn
        drawn += number
        ctx.progress.advance(drawn)

    for candidates, rates in missing.items():
        draw(candidates, networks, advance)
        points.measure(candidates, rates, reference)
        io.remove_tree(candidates.folder)
