"""Linear probe: linear classifiers on frozen, mean-pooled features of every block (paper section 4.2).

Features are computed a batch at a time, used by all heads and dropped: memory does not depend on the number of images.
Workers share the computation of features; each then updates all heads on the whole batch, so the result does not
depend on the number of workers.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.profiler import record_function

from vim_core.config import ProbeConfig
from vim_core.data.step_reader import StepImages
from vim_core.distributed.runtimes.base import Runtime
from vim_core.models.prior import ImagePrior, load_prior
from vim_core.optim.masked_adamw import scalar
from vim_core.tasks.base import Batch, Task, floating
from vim_core.tasks.probe_data import CodeProbeRows, PixelProbeRows, ProbeData, ProbeRows
from vim_core.tasks.probe_heads import GramMatrices, SoftmaxHeads, append_ones, unscale
from vim_core.training import accumulation


@dataclass(frozen=True)
class HeadResult:
    """A head's test accuracy, the validation accuracy of its fit without validation images, and its settings.

    For ridge regression `learning_rate` is None and `weight_decay` the penalty (times rows).
    """

    accuracy: float
    validation_accuracy: float
    learning_rate: float | None
    weight_decay: float


@dataclass(frozen=True)
class ProbeResult:
    """The selected heads of one set of features: the best softmax layer, and the best ridge regression, if any."""

    softmax: HeadResult
    ridge: HeadResult | None

    def record(self) -> dict[str, Any]:
        """The entry in `accuracy.json`."""
        entry = asdict(self.softmax)
        if self.ridge is not None:
            entry["ridge"] = {
                "accuracy": self.ridge.accuracy,
                "validation_accuracy": self.ridge.validation_accuracy,
                "penalty": self.ridge.weight_decay,
            }
        return entry


def select_heads(
    pairs: Sequence[tuple[float, float]],
    penalties: Sequence[float],
    validation: Sequence[float],
    test: Sequence[float],
) -> ProbeResult:
    """Select by accuracy on validation images; only the selected heads' test accuracies are reported.

    Args:
        pairs: learning rate and weight decay of each softmax layer.
        penalties: of each ridge regression.
        validation: accuracies of the softmax layers, then of the ridge regressions.
        test: likewise.
    """
    settings: list[tuple[float | None, float]] = [*pairs, *((None, penalty) for penalty in penalties)]
    heads = [HeadResult(right, chosen, *pair) for right, chosen, pair in zip(test, validation, settings, strict=True)]

    by_validation = attrgetter("validation_accuracy")
    softmax, ridge = heads[: len(pairs)], heads[len(pairs) :]
    return ProbeResult(max(softmax, key=by_validation), max(ridge, key=by_validation, default=None))


def accuracy_csv(results: Mapping[str, ProbeResult]) -> str:
    """One line for each set of features and kind of head."""
    lines = ["features,head,learning_rate,weight_decay,validation_accuracy,test_accuracy"]
    for name, result in results.items():
        for kind, head in (("softmax", result.softmax), ("ridge", result.ridge)):
            if head is not None:
                rate = "" if head.learning_rate is None else f"{head.learning_rate:g}"
                scores = f"{head.validation_accuracy:.6f},{head.accuracy:.6f}"
                lines.append(f"{name},{kind},{rate},{head.weight_decay:g},{scores}")
    return "\n".join(lines) + "\n"


PIXELS = "pixels"


def block_name(index: int) -> str:
    """The name of a block's features, blocks counted from 0."""
    return f"block_{index:02d}"


class BlockFeatures(nn.Module):
    """The frozen prior as a function of codes: every block's output under the null class, averaged over tokens."""

    def __init__(self, prior: ImagePrior) -> None:
        super().__init__()
        self.prior = prior.eval().requires_grad_(False)

    def forward(self, codes: Tensor) -> Tensor:
        """Codes [b, T] to features [blocks, b, D]."""
        return torch.stack(list(self.prior.block_features(codes)))


class ProbeTask(Task):
    """Heads on the features of every block, and on raw pixels as a baseline, in one pass over the data an epoch.

    Attributes: `heads` and `grams` by name of the feature set, `block_00`, … and `pixels`; `sources`, the rows that
    feature sets are computed from, `codes` and `pixels`.
    """

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
        settings = config.learning_rates, config.weight_decays, config.momentum
        self.heads = {
            name: SoftmaxHeads(width, data.classes, *settings).to(runtime.device) for name, width in widths.items()
        }
        self.grams = {name: GramMatrices(width, data.classes).to(runtime.device) for name, width in widths.items()}
        self._roots: dict[str, Tensor] = {}

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Heads and sums of every feature set; the prior does not change."""
        heads: dict[str, nn.Module] = {f"heads.{name}": module for name, module in self.heads.items()}
        return heads | {f"gram.{name}": module for name, module in self.grams.items()}

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """None: heads update themselves."""
        return {}

    def batch(self, step: int) -> Batch:
        """The tensors of `ProbeRows.prepare`, with the name of the source as a prefix; pixels in [0, 1]."""
        rank, world = self.runtime.rank, self.runtime.world
        return floating(self.prepare({name: rows.request(step, rank, world) for name, rows in self.sources.items()}))

    def requests(self, start: int) -> Generator[dict[str, StepImages], None, None]:
        """Every step's rows by source."""
        rank, world = self.runtime.rank, self.runtime.world
        steps = range(start, self.config.steps)
        with contextlib.ExitStack() as stack:
            parts = [
                stack.enter_context(contextlib.closing(rows.requests(steps, rank, world)))
                for rows in self.sources.values()
            ]
            for requests in zip(*parts, strict=True):
                yield dict(zip(self.sources, requests, strict=True))

    def share_host(self, processes: int) -> list[str]:
        """Notes on the images of the pixel baseline, if there is one."""
        rows = self.sources.get(PIXELS)
        if not isinstance(rows, PixelProbeRows):
            return []
        return rows.train.share_host(self.config.batch, self.runtime.world, processes)

    def prepare(self, request: dict[str, StepImages]) -> Batch:
        """As `batch`, but pixels uint8."""
        parts = {name: self.sources[name].prepare(rows) for name, rows in request.items()}
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}

    def sample_ids(self, step: int) -> list[str]:
        """Image keys of the step's codes."""
        source = self.sources["codes"]
        rows = source.order.batch(step, self.config.batch)[1]
        return [source.keys[int(row)] for row in rows]

    @torch.no_grad()
    def feature_sets(self, source: str, inputs: Tensor) -> dict[str, Tensor]:
        """Features [b, D] of this worker's rows, by name of the set."""
        if source == PIXELS:
            return {PIXELS: inputs.flatten(1)}
        with record_function("vim.forward"), self.runtime.autocast():
            parts = [self.forward(part) for part in self.runtime.microbatches(inputs, self.config.accumulate)]
        features = torch.cat(parts, dim=1)  # [blocks, b, D]
        return {block_name(index): block for index, block in enumerate(features)}

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """One update of every head; the loss is the mean over blocks of the best head's."""
        factor = scalar(0.5 * (1 + math.cos(math.pi * step / self.config.steps)), self.runtime.device)
        losses: dict[str, Tensor] = {}
        skipped: list[Tensor] = []
        for source, rows in self.sources.items():
            labels, fits, new = (self.runtime.gather(batch[f"{source}.{key}"]) for key in ("labels", "fits", "new"))
            first_epoch = rows.any_new(step)
            sets = self.feature_sets(source, batch[f"{source}.inputs"])
            # Features and sums apart from the update, so that its program is the same in every epoch.
            self.runtime.run_now(list(sets.values()))
            for name, features in sets.items():
                x = self.runtime.gather(features.float())  # of the global batch [B, D]
                with record_function("vim.optimizer"):
                    losses[name], flag = self._update_heads(name, x, (labels, fits, new), factor, first_epoch)
                skipped.append(flag)
        flags = torch.stack(skipped)
        self.nonfinite.record(step, tuple(losses), flags)
        blocks = torch.stack([loss for name, loss in losses.items() if name != PIXELS])
        figures = {"loss": blocks.mean(), "skipped": flags.max()}
        return figures | ({"pixel_loss": losses[PIXELS]} if PIXELS in losses else {})

    @torch.no_grad()
    def _update_heads(
        self, name: str, x: Tensor, rows: tuple[Tensor, Tensor, Tensor], factor: Tensor, first_epoch: bool
    ) -> tuple[Tensor, Tensor]:
        """Update a set's heads, and in the first epoch its sums, with features [B, D]; returns loss and skip flag.

        `rows` are the tensors `labels`, `fits` and `new` [B] of `ProbeRows.step`.
        """
        labels, fits, new = rows  # [B] each
        go = torch.isfinite(x).all().float()
        x = torch.where(go > 0, x, torch.zeros_like(x))
        targets = F.one_hot(labels, self.classes).float()  # [B, C]
        counted = torch.stack([fits, torch.ones_like(fits)], dim=1)  # [B, FITS]
        gram, damping = self.grams[name], self.settings.decorrelate
        if first_epoch:
            gram.add(append_ones(x), targets, counted * new[:, None] * go)
        # Final once the sums are.
        if damping and (first_epoch or name not in self._roots):
            self._roots[name] = gram.root(damping)
        root = self._roots.get(name)
        self.runtime.run_now([gram.inner, gram.outer, *([] if root is None else [root])])
        mean, deviation = gram.scaling()
        scaled = append_ones(((x - mean) / deviation).float())  # [B, D + 1]
        shares = counted / counted.sum(0).clamp_min(1)  # [B, FITS]
        losses = self.heads[name].update(scaled, targets, shares, factor, go, root)  # [FITS, H]
        return losses[-1].min(), 1 - go

    @cached_property
    @torch.no_grad()
    def results(self) -> dict[str, ProbeResult]:
        """The selected heads of every feature set; computed once, by all workers together."""
        pairs, penalties = next(iter(self.heads.values())).pairs, self.settings.ridge
        validation, test = (self._accuracies(fit) for fit in (0, 1))
        return {name: select_heads(pairs, penalties, validation[name], test[name]) for name in self.heads}

    def _accuracies(self, fit: int) -> dict[str, list[float]]:
        """Accuracies of softmax layers, then ridge regressions: fit 0 on validation images, 1 on the test split."""
        accuracies: dict[str, list[float]] = {}
        for source, rows in self.sources.items():
            names = [name for name in self.heads if (name == PIXELS) == (source == PIXELS)]
            heads: dict[str, Tensor] = {}  # [D, H, C]
            for name in names:
                gram = self.grams[name]
                both = torch.cat([self.heads[name].fitted(fit), gram.ridge(fit, self.settings.ridge)])
                heads[name] = unscale(both, *gram.scaling())
            correct = {name: torch.zeros(value.shape[1], device=value.device) for name, value in heads.items()}
            count = 0
            for inputs, labels in rows.evaluation_batches(fit == 1, self.runtime.rank, self.runtime.world):
                placed = self.runtime.to_device({"inputs": inputs, "labels": labels}, self.config.accumulate)
                count += int((labels >= 0).sum())
                for name, x in self.feature_sets(source, placed["inputs"]).items():
                    predicted = torch.einsum("bd,dhc->bhc", append_ones(x.float()), heads[name]).argmax(-1)  # [b, H]
                    correct[name] += (predicted == placed["labels"][:, None]).sum(0)
                self.runtime.end_step()
            total = self.runtime.gather_host(torch.tensor([float(count)])).sum()
            accuracies |= {name: (self.runtime.sum(value).cpu() / total).tolist() for name, value in correct.items()}
        return accuracies

    def finish(self) -> dict[str, float]:
        """Test accuracy of every block, and of pixels."""
        return {name: result.softmax.accuracy for name, result in self.results.items()}

    def export(self) -> dict[str, bytes]:
        """`accuracy.json` and the table `accuracy.csv`."""
        results = self.results
        record: dict[str, object] = {"blocks": [value.record() for name, value in results.items() if name != PIXELS]}
        if PIXELS in results:
            record["pixels"] = results[PIXELS].record()
        rows = min(self.config.steps * self.config.batch, self.sources["codes"].order.total)
        record["rows"] = {"seen_by_ridge": rows, "epochs": self.config.steps * self.config.batch / max(1, rows)}
        return {"accuracy.json": json.dumps(record, indent=1).encode(), "accuracy.csv": accuracy_csv(results).encode()}
