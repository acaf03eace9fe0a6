"""Stage 2: training of the image prior over codes (paper section 4)."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vim_core.checkpoint.shard_files import DamagedCheckpoint, open_checkpoint
from vim_core.config import PriorConfig
from vim_core.data.code_files import CodeFile, CodeMeta
from vim_core.data.code_tables import CodeTable
from vim_core.data.images import grid_png
from vim_core.data.sample_order import keyed_rng
from vim_core.data.step_reader import StepImages
from vim_core.distributed.runtimes.base import Runtime
from vim_core.errors import ConfigError, ResumeError
from vim_core.losses.likelihood import next_token_loss
from vim_core.metrics.codebook import unigram_bits
from vim_core.models.prior import ImagePrior, PriorShape, model_config
from vim_core.models.vit_vqgan import Tokenizer, load_tokenizer
from vim_core.optim.optimizers import make_optimizer
from vim_core.sampling.logits import SamplingSettings
from vim_core.sampling.sampler import Sampler
from vim_core.tasks.base import Batch, NetworkTask, build_network, floating
from vim_core.tasks.prior_source import CodeSource, ImageSource, PriorSource
from vim_core.training import accumulation, flops
from vim_core.training.evaluation import CancelCheck, Drawing, Evaluation, evaluation_device, snapshot
from vim_core.training.held_out_metrics import bits_per_token
from vim_core.weights.saving import to_bytes

PREVIEW_COLUMNS = 8


@dataclass
class PriorData:
    """Code table files of both splits, the number of classes and the digest of the tokenizer of the codes.

    `tokenizer_files` (weights, config) are needed for previews; `prior.source: images` needs them and `images`, the
    image table files of the training split. `cache` is `run.code_cache`.
    """

    train: Sequence[str | CodeFile] = ()
    test: Sequence[str | CodeFile] = ()
    classes: int = 0
    tokenizer: str = ""
    tokenizer_files: tuple[str, str] | None = None
    images: list[str] = field(default_factory=list)
    cache: str = ""


def shape_of(config: PriorConfig, meta: CodeMeta, classes: int, tokenizer: str) -> PriorShape:
    """The network's shape for a code table with metadata `meta`, made by the tokenizer with digest `tokenizer`."""
    return PriorShape(
        stack=config.stack,
        variant=config.variant,
        grid=list(meta.grid),
        vocabulary=meta.vocabulary,
        classes=classes if config.conditional else 0,
        dropout=config.dropout,
        embedding_dropout=config.embedding_dropout,
        null_trained=not config.conditional or config.label_dropout > 0,
        tokenizer=tokenizer,
    )


class PriorTask(NetworkTask[ImagePrior]):
    """Next-code prediction with dropout; for guidance some labels become the null class, keyed by step."""

    headline = ("nll_bits_per_token", -1)

    def __init__(self, config: PriorConfig, data: PriorData, runtime: Runtime) -> None:
        super().__init__(config, runtime)
        self.settings = config
        accumulation.check_batch(config, runtime.world, "prior")
        self.train_table, self.test_table = CodeTable(data.train, data.cache), CodeTable(data.test, data.cache)
        meta = self.train_table.meta
        self.shape = shape_of(config, meta, data.classes, data.tokenizer)
        if config.source == "codes":
            self.source: PriorSource = CodeSource(self.train_table, config.seed)
        elif data.tokenizer_files is None:
            raise ConfigError("prior.source='images': needs the tokenizer's files; use prior.source=codes without them")
        else:
            tokenizer = load_tokenizer(*data.tokenizer_files, str(runtime.device))
            self.test_table.check(data.tokenizer, tokenizer.grid, tokenizer.vocabulary)
            self.source = ImageSource(data.images, tokenizer, config.augment, config.seed, config.image_decoding)
        torch.manual_seed(config.seed)
        self.model, self.ema = build_network(lambda: ImagePrior(self.shape, config.recompute), runtime, config.ema)
        self.forward = runtime.compile(self.model)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.tokenizer_files = data.tokenizer_files
        self._decoder: Tokenizer | None = None

    def _condition(self, labels: Tensor) -> Tensor:
        """The class input for labels [b]: the null class of an unconditional prior."""
        return labels if self.settings.conditional else torch.full_like(labels, self.model.null_class)

    def batch(self, step: int) -> Batch:
        """Codes [b, T] or images [b, 3, S, S] in [0, 1], and labels [b], some replaced by the null class."""
        request = self.source.request(step, self.config.batch, self.runtime.rank, self.runtime.world)
        return floating(self.prepare((step, request)))

    def requests(self, start: int) -> Generator[tuple[int, StepImages], None, None]:
        """Every step with its samples, images encoded."""
        steps = range(start, self.config.steps)
        samples = self.source.requests(steps, self.config.batch, self.runtime.rank, self.runtime.world)
        with contextlib.closing(samples):
            yield from zip(steps, samples, strict=True)

    def share_host(self, processes: int) -> list[str]:
        """Notes on the images, if codes are made of them."""
        if not isinstance(self.source, ImageSource):
            return []
        return self.source.images.share_host(self.config.batch, self.runtime.world, processes)

    def prepare(self, request: tuple[int, StepImages]) -> Batch:
        """As `batch`, but images uint8."""
        (step, samples), share = request, self.config.batch // self.runtime.world
        labels = self._condition(torch.from_numpy(self.source.labels[samples.rows]))
        if self.settings.label_dropout > 0:
            chance = keyed_rng("label", self.config.seed, step).random(self.config.batch)
            dropped = chance[self.runtime.rank * share :][:share] < self.settings.label_dropout
            labels = labels.masked_fill(torch.from_numpy(dropped), self.model.null_class)
        return {**self.source.read(samples), "labels": labels}

    def _forward_pass(self, codes: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], None]:
        """Cross-entropy per token in nats, for codes [b, T] and labels [b]."""
        with self.runtime.autocast():
            logits = self.forward(codes, labels)  # [b, T, V]
        return {"loss": next_token_loss(logits, codes)}, None

    def sample_ids(self, step: int) -> list[str]:
        """Image keys of the step's samples; those of a code table with their view."""
        return self.source.names(self.source.order.batch(step, self.config.batch)[1])

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """One update."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        samples = [self.source.codes(batch, self.runtime), batch["labels"]]
        terms, _ = accumulation.accumulate_gradients(
            self._forward_pass, samples, self.config.accumulate, self.runtime, self.model
        )
        result = self.update(step, self.model, self.optimizer, self.settings.optim, terms["loss"], {})
        if self.ema:
            self.ema.update(step)
        return {
            "loss": result.loss,
            "gradient_norm": result.gradient_norm,
            "learning_rate": torch.tensor(result.learning_rate),
            "skipped": result.skipped,
        }

    def _bits(self, model: ImagePrior, limit: int, check: CancelCheck = lambda: None) -> float:
        """Bits per token of the first `limit` held-out images (0: all)."""
        table = self.test_table

        def read(rows: np.ndarray) -> tuple[Tensor, Tensor]:
            labels = torch.from_numpy(table.labels[rows].astype(np.int64))
            return torch.from_numpy(table.codes[rows].astype(np.int64)), self._condition(labels)

        return bits_per_token(model, read, min(limit or len(table), len(table)), check)

    @cached_property
    def _unigram_bits(self) -> float:
        return unigram_bits(self.train_table.codes, self.test_table.codes, self.shape.vocabulary)

    def finish(self) -> dict[str, float]:
        """Bits per token of the held-out codes given their labels, and of a unigram code fitted on the training split.

        On the first worker of a sharded network; empty on the others.
        """
        model = self.runtime.full_network(self.result)
        if model is None:
            return {}
        return {
            "nll_bits_per_token": self._bits(model.eval(), 0),
            "unigram_bits_per_token": self._unigram_bits,
        }

    def flops(self) -> flops.FlopsByPart:
        """See `flops.prior_step`."""
        encoding = self.source.tokenizer.model.config if isinstance(self.source, ImageSource) else None
        return flops.prior_step(self.shape, self.config.batch, tokenizer=encoding)

    def evaluation(self) -> Evaluation | None:
        """`nll_bits_per_token` of the weights that would be exported now; the first time also the unigram code's."""
        model, first = snapshot(self.result, self.runtime), "_unigram_bits" not in vars(self)
        if model is None:
            return None

        def evaluate(check: CancelCheck) -> dict[str, float]:
            figures = {"nll_bits_per_token": self._bits(model, self.config.evaluate_limit, check)}
            return figures | ({"unigram_bits_per_token": self._unigram_bits} if first else {})

        return evaluate

    def drawing(self, beside: bool = False) -> Drawing | None:
        """Decoded samples of the current weights, if there is a tokenizer."""
        files = self.tokenizer_files
        if files is None or not self.settings.preview:
            return None
        device = evaluation_device(self.runtime.device)
        there = not beside and device == self.runtime.device
        model = self.runtime.full_network(self.result) if there else snapshot(self.result, self.runtime)
        if model is None:
            return None

        def draw(check: CancelCheck) -> dict[str, bytes]:
            if self._decoder is None:
                self._decoder = load_tokenizer(*files, str(device))
            count, seed = self.settings.preview, self.config.seed
            return {"samples": preview(model, self._decoder, count, seed, check, graphs=not beside)}

        return draw

    def export(self) -> dict[str, bytes]:
        """Weights and shape; on the first worker of a sharded network."""
        model = self.runtime.full_network(self.result, torch.device("cpu"))
        return {} if model is None else {"model.safetensors": to_bytes(model), "config.json": model_config(self.shape)}


def preview_labels(classes: int, count: int) -> Tensor:
    """Labels int64 [rows, columns] of at least `count` samples, a class per column; all 0 without classes."""
    columns = min(PREVIEW_COLUMNS, classes or PREVIEW_COLUMNS, count)
    labels = torch.linspace(0, max(0, classes - 1), columns).round().long()
    return labels.expand(-(-count // columns), columns)


def preview(
    prior: ImagePrior,
    tokenizer: Tokenizer,
    count: int,
    seed: int,
    check: CancelCheck = lambda: None,
    graphs: bool = True,
) -> bytes:
    """A PNG of at least `count` samples at temperature 1, with the same noise each time.

    Args:
        check: called before every token; see `CancelCheck`.
        graphs: see `Sampler`.
    """
    labels = preview_labels(prior.shape.classes, count)
    training = prior.training
    sampler = Sampler(prior, SamplingSettings(seed=seed), labels.numel(), graphs=graphs)
    codes = sampler.group(0, labels.flatten(), check=check)  # [rows * columns, T]
    prior.train(training)
    return grid_png(tokenizer.decode(codes), columns=labels.shape[1])


AVERAGE, CURRENT = "module/ema/", "module/model/"
"""Name prefixes of the averaged and the current weights in a checkpoint."""


def export_checkpoint(folder: str, identity: dict[str, Any], shape: PriorShape) -> dict[str, bytes]:
    """`model.safetensors` and `config.json`, with the averaged weights if the training keeps an average.

    Args:
        folder: of the checkpoint; the training may write and remove checkpoints meanwhile, also this one.
        identity: that the checkpoint must carry.
        shape: of the network.

    Raises:
        DamagedCheckpoint: it is gone, not whole, or was removed while it was read.
        ResumeError: it belongs to another training or network.
    """
    try:
        saved = open_checkpoint(folder, identity)
        model = ImagePrior(shape)
        prefix = AVERAGE if any(name.startswith(AVERAGE) for name in saved.names()) else CURRENT
        names = {name.removeprefix(prefix) for name in saved.names() if name.startswith(prefix)}
        unmatched = sorted(names ^ set(model.state_dict()))
        if unmatched:
            raise ResumeError(f"{folder}: {unmatched[0]} is in the checkpoint or in the network, but not in both")
        try:
            model.load_state_dict({name: saved.rows(f"{prefix}{name}") for name in names}, strict=True)
        except RuntimeError as error:
            raise ResumeError(f"{folder}: the checkpoint is of another network: {error}") from error
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{error.filename or error} is gone") from error
    return {"model.safetensors": to_bytes(model), "config.json": model_config(shape)}
