"""What a sweep says when all its points are there: best places, their protocol, headline figures."""

from __future__ import annotations

from typing import Any

import numpy as np

from components.contract.api import Inputs
from components.score.names import Names
from components.select.network import described
from vim_core.config import TradeoffConfig
from vim_core.features.selectors import SelectorSpec
from vim_core.metrics.protocol import Protocol
from vim_core.metrics.tradeoff import smallest


def locations(
    config: TradeoffConfig, records: list[dict[str, Any]], resampled: list[list[float]]
) -> list[dict[str, Any]]:
    """The best guidance at each temperature and acceptance rate, by distance, with the interval of its location."""
    found = []
    for temperature in config.temperatures:
        for rate in config.acceptances:
            wanted = (temperature, rate)
            line = [n for n, r in enumerate(records) if (r["temperature"], r["acceptance"]) == wanted]
            best = smallest(
                [float(records[n]["guidance"]) for n in line],
                [float(records[n]["fd"]) for n in line],
                np.array([resampled[n] for n in line]),
                config.confidence,
            )
            shares = {str(guidance): share for guidance, share in best.shares.items()}
            place = {"temperature": temperature, "acceptance": rate, "guidance": best.place}
            found.append({**place, "low": best.low, "high": best.high, "inside": best.inside, "shares": shares})
    return found


def figure_names(inputs: Inputs) -> dict[str, str]:
    """What the points' figures are called by the network they come from."""
    names = Names.of(inputs["statistics"].properties["network"])
    return {"accuracy": "conditional_accuracy", "fd": names.distance, "is": names.score}


def protocol(config: TradeoffConfig, inputs: Inputs, selector: SelectorSpec | None) -> dict[str, Any]:
    """How every point was drawn, selected, judged and resampled."""
    statistics = inputs["statistics"]
    return {
        "count_per_class": config.count,
        "noise": f"seed {config.seed}, keyed by (seed, sample index), the same at every point",
        "seed": config.seed,
        "top_k": config.top_k,
        "top_p": config.top_p,
        "precision": config.precision,
        "selector": described(selector) if selector is not None else {},
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


def metrics(config: TradeoffConfig, whole: dict[str, Any]) -> dict[str, float]:
    """Headline figures; the best guidance is that without rejection (at the loosest rate), at the first temperature."""
    place = next(each for each in whole["best_guidance"] if each["acceptance"] == max(config.acceptances))
    return {
        "points": float(len(whole["points"])),
        "best_fd": float(whole["points"][whole["best"]]["fd"]),
        "best_accuracy": max(float(record["accuracy"]) for record in whole["points"]),
        "best_guidance": float(place["guidance"]),
        "best_guidance_low": float(place["low"]),
        "best_guidance_high": float(place["high"]),
    }


def protocols(config: TradeoffConfig, inputs: Inputs, whole: dict[str, Any]) -> dict[str, Any]:
    """The records that stand beside the headline figures."""
    statistics, best = inputs["statistics"], whole["points"][whole["best"]]
    shared: dict[str, Any] = {"split": "samples", "count": int(best["count"])}
    real: dict[str, Any] = {
        "network": str(statistics.properties["network"]["kind"]),
        "network_digest": str(statistics.properties["network"]["digest"]),
        "reference": f"{statistics.properties['split']} images",
        "reference_count": int(statistics.properties["count"]),
        "reference_digest": statistics.digest,
    }
    number, fd = len(whole["points"]), whole["figures"]["fd"]
    drawn = {name: best[name] for name in ("temperature", "guidance", "acceptance")} | {"seed": config.seed}
    biased = "the smallest of several estimates is biased low: score the chosen settings anew, with another seed"
    distance = f"samples with real images, as {fd}, at the best of {number} points"
    accuracy = f"the classifier's most likely class with the class wanted, at the most accurate of {number} points"
    place = f"guidances {config.guidances} by {fd} without rejection (at the loosest rate), at the first temperature"
    interval = f"{config.confidence:.0%} of {config.bootstrap} resamples have their smallest distance within"
    found = {
        "best_fd": Protocol("best_fd", distance, **shared, **real, sampling=drawn, notes=biased),
        "best_accuracy": Protocol(
            "best_accuracy", accuracy, **shared, network="classifier", network_digest=whole["judge"], notes=biased
        ),
    }
    for name in ("best_guidance", "best_guidance_low", "best_guidance_high"):
        found[name] = Protocol(name, place, **shared, **real, sampling={"seed": config.seed}, notes=interval)
    return {name: record.record() for name, record in found.items()}
