"""Accuracy and Fréchet distance over temperature, guidance and acceptance, with intervals: which settings are best."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, Any

from components.contract import lineage
from components.contract.api import Artifact, Context, Inputs, Outcome, Row
from components.select import network
from components.statistics.networks import FigureNames
from components.tradeoff.grid import ACCEPTANCE, GUIDANCE, TEMPERATURE
from vim_core.config import TradeoffConfig
from vim_core.errors import ConfigError
from vim_core.metrics.protocol import Protocol
from vim_core.storage import io

if TYPE_CHECKING:
    from components.sample.draw import DrawPlan
    from components.tradeoff.candidates import CandidateSet, Networks

VERSION = 2
source_state = network.source_state
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

Record = dict[str, Any]


def run(config: TradeoffConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """`tradeoff.json`: every point with its intervals, the best by distance, and the best guidance with an interval.

    Points that an earlier attempt finished are kept, and of an unfinished one the candidates drawn so far.

    Raises:
        LineageError: prior and tokenizer, or the classifiers and statistics, do not belong together; or an evaluator
            is the network that selects.
        ConfigError: the prior has no classes, or guidance is set and it was trained without a null class; the selector
            is missing or has other classes.
    """
    from components.engines.devices import beam_device, numeric_folder, ray_threads
    from components.sample.draw import draw_plan
    from components.statistics.networks import classifier_spec, reference_spec
    from components.tradeoff import candidates

    check(config, inputs)
    classes = [str(name) for name in inputs["prior"].properties["classes"]]
    device, threads = beam_device(ctx.run), ray_threads(ctx.run)
    selecting = min(config.acceptances) < 1.0
    selector = network.selector_spec(config.network, inputs, classes, device, "tradeoff") if selecting else None
    described = network.describe(selector) if selector is not None else {}
    lineage.check_evaluators("tradeoff", described.get("digest", ""), inputs)
    # unfinished work of another numeric class is not continued (contract 11)
    folder = io.join(ctx.work, f"{numeric_folder(device, threads, config.lanes, on_host=True)}-{config.precision}")
    sets = candidates.candidate_sets(config, len(classes), folder)
    networks = candidates.Networks(selector, classifier_spec(inputs["classifier"]), reference_spec(inputs, ctx))
    _measure(sets, draw_plan(sets[0].sampling, inputs, device, threads), networks, config, inputs["statistics"], ctx)
    records = [json.loads(io.read_bytes(each.point_uri(rate))) for each in sets for rate in each.acceptances]
    places = best_guidances(config, records)
    for record in records:
        del record[candidates.WITHOUT]
    summary = describe_points(config, inputs, described, records, places)
    io.write_bytes(ctx.path(FILE), json.dumps(summary, sort_keys=True, indent=1).encode())
    for number, record in enumerate(records):
        figures = {name: float(value) for name, value in record.items()}
        ctx.tracker.rows([Row(number, int(time.time() * 1000), figures)])
    return Outcome(
        metrics=headline_figures(config, summary),
        properties={
            "judge": summary["judge"],
            "selector": summary["selector"],
            "prior": inputs["prior"].digest,
            **lineage.tokenizer_digests(inputs["tokenizer"]),
            "classes": inputs["prior"].properties["classes"],
        },
        protocols=protocols(config, inputs, summary),
        numeric={"device": device, "dtype": config.precision, "threads": threads},
    )


def check(config: TradeoffConfig, inputs: Inputs) -> None:
    """Raise unless the inputs belong together and the prior can sample as configured; see `run`."""
    prior = inputs["prior"]
    lineage.check_tokenizer("prior", prior, inputs["tokenizer"], "belongs to")
    if not prior.properties["conditional"]:
        raise ConfigError("tradeoff: measures accuracy by class, and the prior has no classes; leave it out")
    if any(guidance != 1.0 for guidance in config.guidances) and not prior.properties["null_trained"]:
        raise ConfigError(
            f"tradeoff.guidances={config.guidances}: needs a prior trained with prior.label_dropout > 0; set [1.0]"
        )
    images = {name: inputs[name].manifest.inputs["images"].digest for name in IMAGE_NETWORKS if name in inputs}
    lineage.check_same("tradeoff", "images", images, "classifier")
    reference = inputs["statistics"].properties["network"]
    if reference["kind"] == "classifier":
        digests = {"statistics": str(reference["digest"]), "classifier": inputs["classifier"].digest}
        lineage.check_same("tradeoff", "classifier", digests, "classifier")


def _measure(
    sets: list[CandidateSet], plan: DrawPlan, networks: Networks, config: TradeoffConfig, statistics: Artifact,
    ctx: Context,
) -> None:  # fmt: skip
    """Measure the points that no earlier attempt did; the candidates of a set are removed after its points."""
    from components.statistics.shards import merged_name, read_moments
    from components.tradeoff.candidates import draw, measure

    missing = []
    for candidates in sets:
        rates = [rate for rate in candidates.acceptances if not io.exists(candidates.point_uri(rate))]
        if rates:
            missing.append((candidates, rates))
    done, count = len(sets) - len(missing), sets[0].sampling.count
    ctx.progress.start(len(sets) * count, "image")
    if done:
        ctx.progress.note(f"{done} of {len(sets)} points were finished by an earlier attempt")
    if not missing:
        return
    moments = read_moments(statistics.uri(merged_name(str(statistics.properties["split"]))))
    splits = max(1, int(statistics.manifest.config.get("score_splits", 0)))
    drawn = done * count

    def advance(number: int) -> None:
        nonlocal drawn
        drawn += number
        ctx.progress.advance(drawn)

    for candidates, rates in missing:
        draw(candidates, plan, networks, advance)
        measure(candidates, rates, config, moments, splits)
        io.remove_tree(candidates.folder)


def best_guidances(config: TradeoffConfig, records: list[Record]) -> list[Record]:
    """The best guidance at each temperature and acceptance rate, by distance, with the interval of its location."""
    import numpy as np

    from components.tradeoff.candidates import WITHOUT
    from vim_core.metrics.tradeoff import locate_minimum

    places = []
    for temperature, rate in itertools.product(config.temperatures, config.acceptances):
        line = [record for record in records if (record[TEMPERATURE], record[ACCEPTANCE]) == (temperature, rate)]
        best = locate_minimum(
            [float(record[GUIDANCE]) for record in line],
            [float(record["fd"]) for record in line],
            np.array([record[WITHOUT] for record in line]),
            config.bootstrap,
            config.confidence,
        )
        shares = {str(guidance): share for guidance, share in best.shares.items()}
        place = {TEMPERATURE: temperature, ACCEPTANCE: rate, GUIDANCE: best.value}
        places.append({**place, "low": best.low, "high": best.high, "inside": best.inside, "shares": shares})
    return places


def describe_points(
    config: TradeoffConfig, inputs: Inputs, selector: Record, records: list[Record], places: list[Record]
) -> Record:
    """The content of `tradeoff.json`; `selector` describes the network that selects, and is empty without one."""
    statistics = inputs["statistics"]
    names = FigureNames(statistics.properties["network"])
    protocol = {
        "count_per_class": config.count,
        "noise": f"seed {config.seed}, keyed by (seed, sample index), the same at every point",
        "seed": config.seed,
        "top_k": config.top_k,
        "top_p": config.top_p,
        "precision": config.precision,
        "selector": selector,
        "rule": "the best count of the first count / rate candidates of each class",
        "judge": {"network": "classifier", "digest": inputs["classifier"].digest},
        "network": {name: statistics.properties["network"][name] for name in ("kind", "digest")},
        "reference": f"{statistics.properties['split']} images",
        "reference_count": int(statistics.properties["count"]),
        "reference_digest": statistics.digest,
        "confidence": config.confidence,
        "resamples": config.bootstrap,
        "groups": config.groups,
        "intervals": "as in score; accuracy: Wilson 1927; fd: jackknife over groups of images left out in turn; is: "
        "Student's distribution over its splits, if several; best guidance: where the distances are smallest when they "
        "are drawn anew with the jackknife's covariance",
    }
    return {
        "points": records,
        "best": min(range(len(records)), key=lambda number: float(records[number]["fd"])),
        "best_guidance": places,
        "figures": {"accuracy": "conditional_accuracy", "fd": names.distance, "is": names.score},
        "judge": inputs["classifier"].digest,
        "selector": selector.get("digest", ""),
        "protocol": protocol,
    }


def headline_figures(config: TradeoffConfig, summary: Record) -> dict[str, float]:
    """Headline figures; the best guidance is that without rejection (at the loosest rate), at the first temperature."""
    place = next(place for place in summary["best_guidance"] if place[ACCEPTANCE] == max(config.acceptances))
    return {
        "points": float(len(summary["points"])),
        "best_fd": float(summary["points"][summary["best"]]["fd"]),
        "best_accuracy": max(float(record["accuracy"]) for record in summary["points"]),
        "best_guidance": float(place[GUIDANCE]),
        "best_guidance_low": float(place["low"]),
        "best_guidance_high": float(place["high"]),
    }


def protocols(config: TradeoffConfig, inputs: Inputs, summary: Record) -> Record:
    """The protocols of the headline figures."""
    statistics, best = inputs["statistics"], summary["points"][summary["best"]]
    shared: Record = {"split": "samples", "count": int(best["count"])}
    real: Record = {
        "network": str(statistics.properties["network"]["kind"]),
        "network_digest": str(statistics.properties["network"]["digest"]),
        "reference": f"{statistics.properties['split']} images",
        "reference_count": int(statistics.properties["count"]),
        "reference_digest": statistics.digest,
    }
    number, fd = len(summary["points"]), summary["figures"]["fd"]
    drawn = {name: best[name] for name in (TEMPERATURE, GUIDANCE, ACCEPTANCE)} | {"seed": config.seed}
    biased = "the smallest of several estimates is biased low: score the chosen settings anew, with another seed"
    distance = f"samples with real images, as {fd}, at the best of {number} points"
    accuracy = f"the classifier's most likely class with the class wanted, at the most accurate of {number} points"
    place = f"guidances {config.guidances} by {fd} without rejection (at the loosest rate), at the first temperature"
    interval = f"{config.confidence:.0%} of {config.bootstrap} draws by the jackknife are smallest within"
    found = {
        "best_fd": Protocol("best_fd", distance, **shared, **real, sampling=drawn, notes=biased),
        "best_accuracy": Protocol(
            "best_accuracy", accuracy, **shared, network="classifier", network_digest=summary["judge"], notes=biased
        ),
    }
    for name in ("best_guidance", "best_guidance_low", "best_guidance_high"):
        found[name] = Protocol(name, place, **shared, **real, sampling={"seed": config.seed}, notes=interval)
    return {name: record.record() for name, record in found.items()}
