"""Points of the grid measured on the candidates of their set; the best of them and the protocol of the file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.contract.api import Inputs
from components.statistics.networks import FigureNames
from components.tradeoff.candidates import CandidateSet
from components.tradeoff.grid import ACCEPTANCE, GUIDANCE, TEMPERATURE
from vim_core.config import TradeoffConfig
from vim_core.metrics.protocol import Protocol
from vim_core.sampling.rejection import accept, candidates_needed
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.metrics.frechet import Moments

RESAMPLED = "fd_resampled"
"""Key of a point's own file that does not go to the published one: the distance of each resample."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Reference:
    """Shared by all points: settings, moments of real images, and the rows of every resample [B, classes * count]."""

    config: TradeoffConfig
    moments: Moments
    resamples: NDArray[np.int64]


def point_uri(candidates: CandidateSet, rate: float) -> str:
    """The file of a measured point."""
    return f"{candidates.folder}-a{float(rate)}.json"


def read(candidates: CandidateSet, rate: float) -> Record:
    """The record of a measured point, its resampled distances beside the published fields."""
    record: Record = json.loads(io.read_bytes(point_uri(candidates, rate)))
    return record


def measure(candidates: CandidateSet, rates: list[float], reference: Reference) -> None:
    """Write the records of these rates of a set whose candidates are all drawn."""
    keys = [f"{row:012d}" for row in range(candidates.count)]
    labels = np.arange(candidates.count) % candidates.classes
    scores, count = candidates.column("scores"), reference.config.count
    for rate, rows in accept(keys, labels, scores, candidates.classes, count, rates).items():
        record = _measured(candidates, rate, by_class(rows, candidates.classes), reference)
        io.write_bytes(point_uri(candidates, rate), json.dumps(record).encode())


def by_class(rows: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """The same rows class by class, each in ascending order; row i has class i % classes."""
    ordered = np.sort(rows)
    return ordered[np.argsort(ordered % classes, kind="stable")]


def _measured(candidates: CandidateSet, rate: float, rows: NDArray[np.int64], reference: Reference) -> Record:
    from vim_core.metrics.frechet import Moments, frechet_distance
    from vim_core.metrics.inception_score import ScoreSums
    from vim_core.metrics.tradeoff import (
        centred_bootstrap_interval,
        resampled_distances,
        resampled_inception_scores,
        wilson,
    )

    config = reference.config
    correct, features, logits = (candidates.column(name, rows) for name in ("correct", "features", "logits"))
    fd = frechet_distance(Moments.from_batch(features), reference.moments)
    score = ScoreSums.from_batch(logits, np.zeros(len(rows), np.int64), 1).score()[0]
    resampled = resampled_distances(features, reference.resamples, reference.moments)
    scores = resampled_inception_scores(logits, reference.resamples)
    figures = {
        "accuracy": (float(correct.mean()), wilson(int(correct.sum()), len(rows), config.confidence)),
        "fd": (fd, centred_bootstrap_interval(fd, resampled, config.confidence)),
        "is": (score, centred_bootstrap_interval(score, scores, config.confidence)),
    }
    record: Record = {
        TEMPERATURE: candidates.temperature,
        GUIDANCE: candidates.guidance,
        ACCEPTANCE: rate,
        "count": len(rows),
        "candidates": candidates_needed(config.count, rate) * candidates.classes,
        RESAMPLED: resampled.tolist(),
    }
    for name, (value, interval) in figures.items():
        record[name] = value
        if interval is not None:
            record |= {f"{name}_low": interval[0], f"{name}_high": interval[1]}
    return record


def best_guidances(config: TradeoffConfig, records: list[Record], resampled: list[list[float]]) -> list[Record]:
    """The best guidance at each temperature and acceptance rate, by distance, with the interval of its location."""
    from vim_core.metrics.tradeoff import locate_minimum

    places = []
    for temperature in config.temperatures:
        for rate in config.acceptances:
            line = [n for n, r in enumerate(records) if (r[TEMPERATURE], r[ACCEPTANCE]) == (temperature, rate)]
            best = locate_minimum(
                [float(records[n][GUIDANCE]) for n in line],
                [float(records[n]["fd"]) for n in line],
                np.array([resampled[n] for n in line]),
                config.confidence,
            )
            shares = {str(guidance): share for guidance, share in best.shares.items()}
            place = {TEMPERATURE: temperature, ACCEPTANCE: rate, GUIDANCE: best.value}
            places.append({**place, "low": best.low, "high": best.high, "inside": best.inside, "shares": shares})
    return places


def summary(
    config: TradeoffConfig, inputs: Inputs, selector: Record, records: list[Record], places: list[Record]
) -> Record:
    """The content of `tradeoff.json`; `selector` describes the network that selects, and is empty without one."""
    statistics = inputs["statistics"]
    names = FigureNames.of_network(statistics.properties["network"])
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
        "intervals": "accuracy: Wilson 1927; fd and is: spread of bootstrap resamples of the accepted images, class by "
        "class, around the figure; best guidance: where the resamples' distances are smallest",
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


def metrics(config: TradeoffConfig, summary: Record) -> dict[str, float]:
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


def protocols(config: TradeoffConfig, inputs: Inputs, summary: Record) -> dict[str, Any]:
    """The protocols of the headline figures."""
    statistics, best = inputs["statistics"], summary["points"][summary["best"]]
    shared: dict[str, Any] = {"split": "samples", "count": int(best["count"])}
    real: dict[str, Any] = {
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
    interval = f"{config.confidence:.0%} of {config.bootstrap} resamples have their smallest distance within"
    found = {
        "best_fd": Protocol("best_fd", distance, **shared, **real, sampling=drawn, notes=biased),
        "best_accuracy": Protocol(
            "best_accuracy", accuracy, **shared, network="classifier", network_digest=summary["judge"], notes=biased
        ),
    }
    for name in ("best_guidance", "best_guidance_low", "best_guidance_high"):
        found[name] = Protocol(name, place, **shared, **real, sampling={"seed": config.seed}, notes=interval)
    return {name: record.record() for name, record in found.items()}
