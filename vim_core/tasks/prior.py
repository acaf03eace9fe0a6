"""Stage 2: training step of the image prior over code tables (paper section 4)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vim_core import losses
from vim_core.config import PriorConfig
from vim_core.data.codes import CodeTable
from vim_core.data.position import SampleOrder, keyed_rng
from vim_core.ema import Ema
from vim_core.metrics.unigram import unigram_bits
from vim_core.models.prior import ImagePrior, PriorShape, model_config
from vim_core.models.saving import to_bytes
from vim_core.optim import adamw, clip, guarded_step, learning_rate, set_rate
from vim_core.runtime.base import Runtime
from vim_core.tasks.base import Batch, Task


@dataclass
class PriorData:
    """Code table files of both splits, the number of classes and the tokenizer they must come from."""

    train: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    classes: int = 0
    tokenizer: str = ""


class PriorTask(Task):
    """Next-code prediction with dropout; labels are dropped to the null class for guidance, keyed by step."""

    def __init__(self, config: PriorConfig, data: PriorData, runtime: Runtime) -> None:
        super().__init__(config, runtime)
        self.settings = config
        self.train_table, self.test_table = CodeTable(data.train), CodeTable(data.test)
        meta = self.train_table.meta
        self.shape = PriorShape(
            stack=config.stack,
            grid=list(meta.grid),
            vocabulary=meta.vocabulary,
            classes=data.classes if config.conditional else 0,
            dropout=config.dropout,
            null_trained=not config.conditional or config.label_dropout > 0,
            tokenizer=data.tokenizer,
        )
        torch.manual_seed(config.seed)
        self.model = ImagePrior(self.shape).to(runtime.device)
        self.optimizer = adamw(self.model, config.optim)
        self.ema = Ema(self.model, config.ema) if config.ema else None
        self.order = SampleOrder([len(self.train_table)], config.seed)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The prior and its average."""
        return {"model": self.model} | ({"ema": self.ema.shadow} if self.ema else {})

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """AdamW."""
        return {"model": self.optimizer}

    def _rows(self, table: CodeTable, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        codes = torch.from_numpy(table.codes[rows].astype(np.int64))
        labels = torch.from_numpy(np.asarray(table.labels)[rows].astype(np.int64))
        if not self.settings.conditional:
            labels = torch.full_like(labels, self.model.null_class)
        return codes, labels

    def batch(self, step: int) -> Batch:
        """Codes [b, T] and labels [b], some replaced by the null class."""
        share = self.config.batch // self.runtime.world
        _, rows = self.order.batch(step, self.config.batch, self.runtime.rank, self.runtime.world)
        codes, labels = self._rows(self.train_table, rows)
        if self.settings.label_dropout > 0:
            chance = keyed_rng("label", self.config.seed, step).random(self.config.batch)
            dropped = chance[self.runtime.rank * share :][:share] < self.settings.label_dropout
            labels = labels.masked_fill(torch.from_numpy(dropped), self.model.null_class)
        return {"codes": codes, "labels": labels}

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """One update."""
        self.model.train()
        with self.runtime.autocast():
            logits = self.model(batch["codes"], batch["labels"])
        loss = losses.next_token_loss(logits, batch["codes"])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.runtime.average_gradients(self.model.parameters())
        norm = clip(self.model.parameters(), self.settings.optim.clip_norm)
        rate = learning_rate(self.settings.optim, step, self.config.steps)
        set_rate(self.optimizer, rate)
        mean_loss = self.runtime.mean(loss.detach().clone())
        skipped = guarded_step(self.optimizer, mean_loss, norm)
        if self.ema:
            self.ema.update(step)
        return {"loss": mean_loss, "gradient_norm": norm, "learning_rate": torch.tensor(rate), "skipped": skipped}

    @property
    def result(self) -> ImagePrior:
        """What is exported: the average if there is one."""
        return self.ema.shadow if self.ema else self.model  # type: ignore[return-value]

    @torch.inference_mode()
    def finish(self) -> dict[str, float]:
        """Bits per token of the held-out codes, given their labels, beside the unigram code fitted on train."""
        model = self.result.eval()
        total, count = 0.0, 0
        for rows in np.array_split(np.arange(len(self.test_table)), -(-len(self.test_table) // 64)):
            codes, labels = (value.to(self.runtime.device) for value in self._rows(self.test_table, rows))
            total += float(losses.next_token_loss(model(codes, labels), codes)) * codes.numel()
            count += codes.numel()
        unigram = unigram_bits(self.train_table.codes, self.test_table.codes, self.shape.vocabulary)
        return {"nll_bits_per_token": losses.bits(total / count), "unigram_bits_per_token": unigram}

    def export(self) -> dict[str, bytes]:
        """Weights and shape."""
        return {"model.safetensors": to_bytes(self.result), "config.json": model_config(self.shape)}
