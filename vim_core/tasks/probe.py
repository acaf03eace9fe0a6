"""Linear probe: softmax layers on frozen, mean-pooled features of every block (paper section 4.2).

Features are made a batch at a time, used by all heads and forgotten: memory does not depend on the number of images.
Workers share the features, whose cost is that of the prior; each then updates all heads on the whole batch, so one
worker and many do the same.
"""

from __future__ import annotations

import json
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from vim_core.config import ProbeConfig
from vim_core.distributed.runtimes.base import Runtime
from vim_core.models.prior import ImagePrior, load_prior
from vim_core.tasks import probe_results
from vim_core.tasks.base import Batch, Task
from vim_core.tasks.probe_data import CodeProbeRows, PixelProbeRows, ProbeData, ProbeRows
from vim_core.tasks.probe_gram import GramSums, append_ones, unscale
from vim_core.tasks.probe_heads import SoftmaxHeads
from vim_core.training import accumulation

PIXELS = "pixels"


class BlockFeatures(nn.Module):
    """The frozen prior as a function of codes: every block's output under the null class, averaged over tokens."""

    def __init__(self, prior: ImagePrior) -> None:
        super().__init__()
        self.prior = prior.eval().requires_grad_(False)

    def forward(self, codes: Tensor) -> Tensor:
        """Codes [b, T] to features [blocks, b, D]."""
        return torch.stack(list(self.prior.block_features(codes)))


class ProbeTask(Task):
    """Heads of every block, and of raw pixels beside them, in one pass over the data an epoch."""

    def __init__(self, config: ProbeConfig, data: ProbeData, runtime: Runtime) -> None:
        super().__init__(config, runtime)
        self.settings, self.classes = config, data.classes
        accumulation.check_batch(config, runtime.world, "probe")
        prior = load_prior(*data.prior, str(runtime.device))
        self.features = BlockFeatures(prior)
        self.forward = runtime.compile(self.features)
        self.sources: dict[str, ProbeRows] = {"codes": CodeProbeRows(config, data)}
        widths = {block_name(index): prior.shape.stack.dim for index in range(prior.shape.stack.blocks)}
        if config.pixels and data.train_images:
            self.sources[PIXELS] = PixelProbeRows(config, data)
            widths[PIXELS] = 3 * config.pixels**2
        self.heads = {name: self._heads(width) for name, width in widths.items()}
        self.grams = {name: GramSums(width, data.classes).to(runtime.device) for name, width in widths.items()}
        self._roots: dict[str, Tensor] = {}
        self._found: dict[str, probe_results.ProbeResult] | None = None

    def _heads(self, width: int) -> SoftmaxHeads:
        config = self.settings
        made = SoftmaxHeads(width, self.classes, config.learning_rates, config.weight_decays, config.momentum)
        return made.to(self.runtime.device)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Heads and sums of every set of features; the prior is as it was."""
        heads: dict[str, nn.Module] = {f"heads.{name}": made for name, made in self.heads.items()}
        return heads | {f"gram.{name}": made for name, made in self.grams.items()}

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """None: heads update themselves."""
        return {}

    def batch(self, step: int) -> Batch:
        """See `Rows.step`, each name behind that of its source."""
        rank, world = self.runtime.rank, self.runtime.world
        parts = {name: source.step(step, rank, world) for name, source in self.sources.items()}
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}

    def sample_ids(self, step: int) -> list[str]:
        """Image keys of the step's codes."""
        source = self.sources["codes"]
        rows = source.order.ids(step * self.config.batch, self.config.batch)
        return [source.keys[int(row)] for row in rows]

    @torch.no_grad()
    def sets(self, source: str, inputs: Tensor) -> dict[str, Tensor]:
        """Features [b, D] of this worker's rows, by name of the set."""
        if source == PIXELS:
            return {PIXELS: inputs.flatten(1)}
        with self.runtime.autocast():
            parts = [self.forward(part) for part in self.runtime.microbatches(inputs, self.config.accumulate)]
        pooled = torch.cat(parts, dim=1)
        return {block_name(index): block for index, block in enumerate(pooled)}

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """One update of every head; the loss is the mean over blocks of the best head's."""
        device = self.runtime.device
        factor = torch.tensor(0.5 * (1 + math.cos(math.pi * step / self.config.steps)), device=device)
        losses: dict[str, Tensor] = {}
        skipped: list[Tensor] = []
        for source, rows in self.sources.items():
            given = {key: self.runtime.gather(batch[f"{source}.{key}"]) for key in ("labels", "fits", "new")}
            learns = step * self.config.batch < rows.total
            for name, own in self.sets(source, batch[f"{source}.inputs"]).items():
                loss, flag = self._learn(name, self.runtime.gather(own.float()), given, factor, learns)
                losses[name] = loss
                skipped.append(flag)
        flags = torch.stack(skipped)
        self.nonfinite.record(step, tuple(losses), flags)
        blocks = torch.stack([loss for name, loss in losses.items() if name != PIXELS])
        found = {"loss": blocks.mean(), "skipped": flags.amax()}
        return found | ({"pixel_loss": losses[PIXELS]} if PIXELS in losses else {})

    @torch.no_grad()
    def _learn(
        self, name: str, x: Tensor, given: dict[str, Tensor], factor: Tensor, learns: bool
    ) -> tuple[Tensor, Tensor]:
        """Sums (while `learns`: in the first epoch) and heads take the global batch [b, D]; loss and skip flag."""
        go = torch.isfinite(x).all().float()
        x = torch.where(go > 0, x, torch.zeros_like(x))
        targets = F.one_hot(given["labels"], self.classes).float()
        sides = torch.stack([given["fits"], torch.ones_like(given["fits"])], dim=1)
        gram = self.grams[name]
        if learns:
            gram.add(append_ones(x), targets, sides * given["new"][:, None] * go)
        mean, deviation = gram.scaling()
        scaled = append_ones(((x - mean) / deviation).float())
        shares = sides / sides.sum(0).clamp_min(1)
        losses = self.heads[name].update(scaled, targets, shares, factor, go, self._root(name, learns))
        return losses[-1].amin(), 1 - go

    def _root(self, name: str, learns: bool) -> Tensor | None:
        """What decorrelates a set's features; it is final once the sums are."""
        if not self.settings.decorrelate:
            return None
        if learns or name not in self._roots:
            self._roots[name] = self.grams[name].root(self.settings.decorrelate)
        return self._roots[name]

    @torch.no_grad()
    def judged(self) -> dict[str, probe_results.ProbeResult]:
        """Every head's accuracy on validation images and on the test split; once, by all workers together."""
        if self._found is None:
            pairs, config = next(iter(self.heads.values())).pairs, self.settings
            accuracies = [self._accuracies(side) for side in (0, 1)]
            self._found = {
                name: probe_results.select_heads(pairs, config.ridge, accuracies[0][name], accuracies[1][name])
                for name in self.heads
            }
        return self._found

    def _accuracies(self, side: int) -> dict[str, list[float]]:
        """Of the heads of one side, ridge's behind the others: side 0 on validation images, 1 on the test split."""
        found: dict[str, list[float]] = {}
        for source, rows in self.sources.items():
            names = [name for name in self.heads if (name == PIXELS) == (source == PIXELS)]
            heads = {name: self._final(name, side) for name in names}
            right = {name: torch.zeros(value.shape[1], device=value.device) for name, value in heads.items()}
            count = 0
            for inputs, labels in rows.judged(side == 1, self.runtime.rank, self.runtime.world):
                placed = self.runtime.to_device({"inputs": inputs, "labels": labels}, self.config.accumulate)
                count += int((labels >= 0).sum())
                for name, x in self.sets(source, placed["inputs"]).items():
                    guesses = torch.einsum("bd,dhc->bhc", append_ones(x.float()), heads[name]).argmax(-1)
                    right[name] += (guesses == placed["labels"][:, None]).sum(0)
                self.runtime.end_step()
            total = self.runtime.gather_host(torch.tensor([float(count)])).sum()
            found |= {name: (self.runtime.sum(value).cpu() / total).tolist() for name, value in right.items()}
        return found

    def _final(self, name: str, side: int) -> Tensor:
        """Heads [D, H, C] of one side on features as they come."""
        gram = self.grams[name]
        heads = torch.cat([self.heads[name].side(side), gram.ridge(side, self.settings.ridge)])
        return unscale(heads, *gram.scaling())

    def finish(self) -> dict[str, float]:
        """Accuracy of every block, and of pixels."""
        return {name: found.softmax.accuracy for name, found in self.judged().items()}

    def export(self) -> dict[str, bytes]:
        """`accuracy.json` and the table `accuracy.csv`, see `probe_verdict`."""
        found = self.judged()
        blocks = [value for name, value in found.items() if name != PIXELS]
        record = probe_results.accuracy_json(blocks, found.get(PIXELS))
        rows = min(self.config.steps * self.config.batch, self.sources["codes"].total)
        record["rows"] = {"seen_by_ridge": rows, "epochs": self.config.steps * self.config.batch / max(1, rows)}
        return {
            "accuracy.json": json.dumps(record, indent=1).encode(),
            "accuracy.csv": probe_results.accuracy_csv(found).encode(),
        }


def block_name(index: int) -> str:
    """What the features of a block are called, blocks counted from 0."""
    return f"block_{index:02d}"
