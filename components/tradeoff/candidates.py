"""Candidates at one temperature and guidance: drawn, passed to networks, kept in parts; the points measured on them.

They are drawn as `sample` draws, and selected and measured as `select` and `score` do, but as arrays and not as image
tables: of a candidate only what the networks give is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.sample.draw import Conditions, DrawPlan, GroupDrawer, sample_key
from components.tradeoff.grid import ACCEPTANCE, GUIDANCE, TEMPERATURE, candidate_count, expand, share_candidates
from vim_core.config import SampleConfig, TradeoffConfig
from vim_core.metrics import npz
from vim_core.sampling.rejection import accept, candidates_needed
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.features import FeatureSpec
    from vim_core.features.selectors import SelectorSpec
    from vim_core.metrics.frechet import Moments

PART = 512
"""Least number of candidates of a part, the work that an interruption may lose."""

WITHOUT = "fd_without"
"""Key of a point's own file that does not go to the published one: distances without one group of images each."""

COLUMNS = {
    "scores": ("float64", 1),
    "correct": ("int64", 1),
    "features": ("float32", 2),
    "logits": ("float32", 2),
}
"""Arrays of a part with their dtype and number of axes: `scores` [N] are the selector's probabilities of the class
that was sampled, `correct` [N] whether the classifier sees that class, `features` [N, D] and `logits` [N, C] are of the
network of the reference statistics."""


@dataclass(frozen=True)
class CandidateSet:
    """Candidates drawn as `sampling` says, shared by acceptance rates; number i has class i % classes.

    They are drawn by whole groups of lanes and kept below `folder` until their points are measured.
    """

    sampling: SampleConfig
    acceptances: tuple[float, ...]
    folder: str
    classes: int

    @property
    def parts(self) -> list[range]:
        """The lane groups of each part."""
        lanes = self.sampling.lanes
        groups, step = range(-(-self.sampling.count // lanes)), max(1, -(-PART // lanes))
        return [groups[start : start + step] for start in range(0, len(groups), step)]

    def part_uri(self, number: int) -> str:
        """The file of one part."""
        return io.join(self.folder, f"part-{number:05d}.npz")

    def point_uri(self, rate: float) -> str:
        """The file of the point at this acceptance rate, once it is measured."""
        return f"{self.folder}-a{float(rate)}.json"

    def column(self, name: str, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """One column over all candidates, or over rows in ascending order; one part in memory."""
        pieces = []
        for number, groups in enumerate(self.parts):
            data, first = io.read_bytes(self.part_uri(number)), groups.start * self.sampling.lanes
            part = npz.unpack_checked(data, {name: COLUMNS[name]}, "a part of the candidates")[name]
            inside = slice(None) if rows is None else rows[(rows >= first) & (rows < first + len(part))] - first
            pieces.append(part[inside])
        return np.concatenate(pieces)


def candidate_sets(config: TradeoffConfig, classes: int, folder: str) -> list[CandidateSet]:
    """One set for each pair of temperature and guidance, temperatures outermost, with candidates for every rate."""
    grid = {TEMPERATURE: config.temperatures, GUIDANCE: config.guidances, ACCEPTANCE: config.acceptances}
    shared = {name: getattr(config, name) for name in ("seed", "top_k", "top_p", "lanes", "precision")}
    shared["count"] = candidate_count(config.count, config.acceptances, classes)
    sets = []
    for points in share_candidates(expand(grid, [], {})):
        pair = {name: points[0].settings[name] for name in (TEMPERATURE, GUIDANCE)}
        own = io.join(folder, f"t{float(pair[TEMPERATURE])}-g{float(pair[GUIDANCE])}")
        rates = tuple(point.settings[ACCEPTANCE] for point in points)
        sets.append(CandidateSet(SampleConfig(**shared, **pair), rates, own, classes))
    return sets


@dataclass(frozen=True)
class Networks:
    """Networks that process candidates: selector (every score is 0 without one), classifier, that of the statistics."""

    selector: SelectorSpec | None
    classifier: FeatureSpec
    reference: FeatureSpec

    def columns(self, images: NDArray[np.uint8], labels: list[int]) -> dict[str, NDArray[Any]]:
        """See `COLUMNS`; `images` are uint8 [N, H, W, 3], `labels` [N] the classes that were sampled."""
        import torch

        from components.score.measure import evaluate
        from components.select.network import cached_selector

        pictures, wanted = list(images), torch.tensor(labels)
        scores = np.zeros(len(labels))
        if self.selector is not None:
            scores = cached_selector(self.selector).score(pictures, wanted)[0].numpy()
        outputs, correct = evaluate(pictures, wanted, self.reference, self.classifier)
        return {
            "scores": scores,
            "correct": correct.long().numpy(),
            "features": outputs.features.numpy(),
            "logits": outputs.logits.numpy(),
        }


def draw(candidates: CandidateSet, plan: DrawPlan, networks: Networks, advance: Callable[[int], None]) -> None:
    """Draw the parts that are missing, with the networks and device of a plan.

    `advance` is called with the number of candidates of each part.
    """
    drawer, conditions = GroupDrawer(replace(plan, config=candidates.sampling)), Conditions(range(candidates.classes))
    lanes, count = candidates.sampling.lanes, candidates.sampling.count
    for number, groups in enumerate(candidates.parts):
        if not io.exists(candidates.part_uri(number)):
            columns = []
            for index in groups:
                group = conditions.group(index, lanes, min(lanes, count - index * lanes))
                columns.append(networks.columns(drawer.images(group), list(group.labels[: group.used])))
            arrays = {name: np.concatenate([part[name] for part in columns]) for name in COLUMNS}
            io.write_bytes(candidates.part_uri(number), npz.pack(**arrays))
        advance(min(groups.stop * lanes, count) - groups.start * lanes)


def measure(candidates: CandidateSet, rates: list[float], config: TradeoffConfig, real: Moments, splits: int) -> None:
    """Write the records of these rates of a set whose candidates are all drawn.

    Figures and intervals are those of `score`: `real` are the moments of real images, `splits` the number of splits of
    the Inception Score.
    """
    keys = [sample_key(row) for row in range(candidates.sampling.count)]
    labels, scores = np.arange(len(keys)) % candidates.classes, candidates.column("scores")
    for rate, rows in accept(keys, labels, scores, candidates.classes, config.count, rates).items():
        record = _measured(candidates, [keys[row] for row in rows], rows, config, real, splits)
        record |= {
            TEMPERATURE: candidates.sampling.temperature,
            GUIDANCE: candidates.sampling.guidance,
            ACCEPTANCE: rate,
            "count": len(rows),
            "candidates": candidates_needed(config.count, rate) * candidates.classes,
        }
        io.write_bytes(candidates.point_uri(rate), json.dumps(record).encode())


def _measured(
    candidates: CandidateSet, keys: list[str], rows: NDArray[np.int64], config: TradeoffConfig, real: Moments,
    splits: int,
) -> dict[str, Any]:  # fmt: skip
    from components.score.feature_cache import distance_interval, distances_without_groups
    from vim_core.metrics.conventions import CONVENTIONS
    from vim_core.metrics.frechet import Moments, frechet_distance
    from vim_core.metrics.inception_score import ScoreSums
    from vim_core.metrics.intervals import wilson_interval

    correct, features, logits = (candidates.column(name, rows) for name in ("correct", "features", "logits"))
    moments = Moments.from_batch(features)
    fd = frechet_distance(moments, real)
    without = distances_without_groups([(moments, features)], config.groups, real)
    sums = ScoreSums.from_batch(logits, CONVENTIONS[""].split_numbers(keys, 0, len(keys), splits), splits)
    figures = {
        "accuracy": (float(correct.mean()), wilson_interval(int(correct.sum()), len(rows), config.confidence)),
        "fd": (fd, distance_interval(fd, without, config.confidence)),
        "is": (sums.score()[0], sums.interval(config.confidence)),
    }
    record: dict[str, Any] = {WITHOUT: without}
    for name, (value, interval) in figures.items():
        record[name] = value
        if interval is not None:
            record |= {f"{name}_low": interval[0], f"{name}_high": interval[1]}
    return record
