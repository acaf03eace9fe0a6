"""Candidates at one temperature and guidance: drawn, passed to networks, kept in parts; the points measured on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.contract.api import Context, Inputs
from components.tradeoff.grid import ACCEPTANCE, GUIDANCE, TEMPERATURE, candidate_count, expand, share_candidates
from vim_core.config import TradeoffConfig
from vim_core.metrics import npz
from vim_core.sampling.rejection import accept, candidates_needed
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.features.selectors import SelectorSpec
    from vim_core.metrics.frechet import Moments

PART = 512
"""Least number of candidates of a part, the work that an interruption may lose."""

RESAMPLED = "fd_resampled"
"""Key of a point's own file that does not go to the published one: the distance of each resample."""

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
    """`count` candidates at one temperature and guidance, shared by acceptance rates; number i has class i % classes.

    They are drawn by whole groups of `lanes` and kept below `folder` until their points are measured.
    """

    temperature: float
    guidance: float
    acceptances: tuple[float, ...]
    folder: str
    classes: int
    count: int
    lanes: int

    @property
    def parts(self) -> list[range]:
        """The lane groups of each part."""
        groups, step = range(-(-self.count // self.lanes)), max(1, -(-PART // self.lanes))
        return [groups[start : start + step] for start in range(0, len(groups), step)]

    def part_uri(self, number: int) -> str:
        """The file of one part."""
        return io.join(self.folder, f"part-{number:05d}.npz")

    def point_uri(self, rate: float) -> str:
        """The file of the point at this acceptance rate, once it is measured."""
        return f"{self.folder}-a{float(rate)}.json"

    def part_size(self, groups: range) -> int:
        """Candidates in these groups; the last group may hold more lanes than are used."""
        return min(groups.stop * self.lanes, self.count) - groups.start * self.lanes

    def column(self, name: str, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """One column over all candidates, or over different rows in their order; one part in memory."""
        ordered = None if rows is None else np.sort(rows)
        pieces, first = [], 0
        for number, groups in enumerate(self.parts):
            data = io.read_bytes(self.part_uri(number))
            part = npz.unpack_checked(data, {name: COLUMNS[name]}, "a part of the candidates")[name]
            if ordered is not None:
                inside = ordered[(ordered >= first) & (ordered < first + len(part))]
                part = part[inside - first]
            pieces.append(part)
            first += self.part_size(groups)
        values = np.concatenate(pieces)
        return values if rows is None else values[np.searchsorted(np.sort(rows), rows)]


def candidate_sets(config: TradeoffConfig, classes: int, folder: str) -> list[CandidateSet]:
    """One set for each pair of temperature and guidance, temperatures outermost, with candidates for every rate."""
    grid = {TEMPERATURE: config.temperatures, GUIDANCE: config.guidances, ACCEPTANCE: config.acceptances}
    count = candidate_count(config.count, config.acceptances, classes)
    sets = []
    for points in share_candidates(expand(grid, [], {})):
        temperature, guidance = points[0].settings[TEMPERATURE], points[0].settings[GUIDANCE]
        place = io.join(folder, f"t{float(temperature)}-g{float(guidance)}")
        rates = tuple(point.settings[ACCEPTANCE] for point in points)
        sets.append(CandidateSet(temperature, guidance, rates, place, classes, count, config.lanes))
    return sets


class Networks:
    """The networks that process candidates: prior, decoder, selector, classifier, and that of the statistics.

    Without a selector every score is 0.
    """

    def __init__(self, config: TradeoffConfig, inputs: Inputs, selector: SelectorSpec | None, ctx: Context) -> None:
        from components.engines.devices import beam_device
        from components.select.network import cached_selector
        from components.statistics.networks import classifier_spec, reference_spec
        from vim_core.features import load_extractor
        from vim_core.models.prior import load_prior
        from vim_core.models.vit_vqgan import load_tokenizer

        self.config = config
        device, weights, shape = beam_device(ctx.run), "model.safetensors", "config.json"
        prior, tokenizer = inputs["prior"], inputs["tokenizer"]
        self.prior = load_prior(prior.uri(weights), prior.uri(shape), device)
        self.decoder = load_tokenizer(tokenizer.uri(weights), tokenizer.uri(shape), device)
        self.selector = cached_selector(selector) if selector is not None else None
        evaluator, reference = classifier_spec(inputs["classifier"]), reference_spec(inputs, ctx)
        self.classifier = load_extractor(evaluator)
        self.reference = self.classifier if reference == evaluator else load_extractor(reference)

    def sampler(self, temperature: float, guidance: float) -> Any:
        """The prior's sampler; all samplers draw from the same noise."""
        import torch

        from vim_core.sampling.logits import SamplingSettings
        from vim_core.sampling.sampler import Sampler

        config = self.config
        settings = SamplingSettings(config.seed, temperature, config.top_k, config.top_p, guidance)
        return Sampler(
            self.prior, settings, config.lanes, torch.bfloat16 if config.precision == "bf16" else torch.float32
        )

    def columns(self, images: list[Any], labels: Any) -> dict[str, NDArray[Any]]:
        """See `COLUMNS`; `images` are uint8 [H, W, 3], `labels` int64 [N] the classes that were sampled."""
        from vim_core.features import extract_images

        scores = np.zeros(len(images)) if self.selector is None else self.selector.score(images, labels)[0].numpy()
        seen = extract_images(self.classifier, images)
        correct = (seen.logits.argmax(dim=1) == labels).long().numpy()
        if self.reference is not self.classifier:
            seen = extract_images(self.reference, images)
        return {"scores": scores, "correct": correct, "features": seen.features.numpy(), "logits": seen.logits.numpy()}


def draw(candidates: CandidateSet, networks: Networks, advance: Callable[[int], None]) -> None:
    """Draw the parts that are missing; `advance` is called with the number of candidates of each part."""
    import torch

    from vim_core.data.images import from_tensor

    sampler = networks.sampler(candidates.temperature, candidates.guidance)
    for number, groups in enumerate(candidates.parts):
        if not io.exists(candidates.part_uri(number)):
            columns = []
            for group in groups:
                index = torch.arange(group * candidates.lanes, (group + 1) * candidates.lanes)
                labels = index % candidates.classes
                codes = sampler.group(group, labels)
                used = int((index < candidates.count).sum())
                # all lanes are decoded, as an image's last bits may depend on its place in the batch; 8 bits a channel,
                # as in a table of samples
                images = list(from_tensor(networks.decoder.decode(codes)))[:used]
                columns.append(networks.columns(images, labels[:used]))
            arrays = {name: np.concatenate([part[name] for part in columns]) for name in COLUMNS}
            io.write_bytes(candidates.part_uri(number), npz.pack(**arrays))
        advance(candidates.part_size(groups))


def measure(
    candidates: CandidateSet, rates: list[float], config: TradeoffConfig, real: Moments, resamples: NDArray[np.int64]
) -> None:
    """Write the records of these rates of a set whose candidates are all drawn.

    `real` are the moments of real images, `resamples` the rows of every resample [B, classes * count].
    """
    keys = [f"{row:012d}" for row in range(candidates.count)]
    labels = np.arange(candidates.count) % candidates.classes
    scores, count = candidates.column("scores"), config.count
    for rate, rows in accept(keys, labels, scores, candidates.classes, count, rates).items():
        record = _measured(candidates, rate, by_class(rows, candidates.classes), config, real, resamples)
        io.write_bytes(candidates.point_uri(rate), json.dumps(record).encode())


def by_class(rows: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """The same rows class by class, each in ascending order; row i has class i % classes."""
    ordered = np.sort(rows)
    return ordered[np.argsort(ordered % classes, kind="stable")]


def _measured(
    candidates: CandidateSet, rate: float, rows: NDArray[np.int64], config: TradeoffConfig, real: Moments,
    resamples: NDArray[np.int64],
) -> dict[str, Any]:  # fmt: skip
    from vim_core.metrics.frechet import Moments, frechet_distance
    from vim_core.metrics.inception_score import ScoreSums
    from vim_core.metrics.tradeoff import (
        centred_bootstrap_interval,
        resampled_distances,
        resampled_inception_scores,
        wilson,
    )

    correct, features, logits = (candidates.column(name, rows) for name in ("correct", "features", "logits"))
    fd = frechet_distance(Moments.from_batch(features), real)
    score = ScoreSums.from_batch(logits, np.zeros(len(rows), np.int64), 1).score()[0]
    resampled = resampled_distances(features, resamples, real)
    scores = resampled_inception_scores(logits, resamples)
    figures = {
        "accuracy": (float(correct.mean()), wilson(int(correct.sum()), len(rows), config.confidence)),
        "fd": (fd, centred_bootstrap_interval(fd, resampled, config.confidence)),
        "is": (score, centred_bootstrap_interval(score, scores, config.confidence)),
    }
    record: dict[str, Any] = {
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
