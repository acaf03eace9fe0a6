"""Training of the small classifier that scores samples and provides features."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from vim_core.config import ClassifyConfig
from vim_core.data.image_loader import ImageLoader
from vim_core.data.step_reader import StepImages
from vim_core.distributed.runtimes.base import Runtime
from vim_core.models.classifier import Classifier, ClassifierShape, model_config
from vim_core.optim.optimizers import Ema, make_optimizer
from vim_core.tasks.base import Batch
from vim_core.tasks.image_task import ImageTask
from vim_core.training.evaluation import CancelCheck, Evaluation, snapshot
from vim_core.weights.saving import to_bytes


@dataclass
class ClassifierData:
    """Image table files of both splits and the number of classes."""

    train: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    classes: int = 10


class ClassifierTask(ImageTask[Classifier]):
    """Cross-entropy on augmented images; the average of the weights is exported, if there is one."""

    headline = ("accuracy", 1)

    def __init__(self, config: ClassifyConfig, data: ClassifierData, runtime: Runtime) -> None:
        super().__init__(config, runtime)
        self.settings = config
        self.shape = ClassifierShape(config.image_size, data.classes, config.width, config.features, config.dropout)
        torch.manual_seed(config.seed)
        self.model = Classifier(self.shape).to(runtime.device)
        self.forward = runtime.compile(self.model)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.ema = Ema(self.model, config.ema) if config.ema else None
        self.train_images = ImageLoader(
            data.train, config.image_size, config.augment, config.seed, config.image_decoding
        )
        self.held_out = ImageLoader(data.test, config.image_size, config.augment, config.seed)
        # Its own loader for evaluations during training, because loaders are for one thread.
        self.evaluation_images = ImageLoader(data.test, config.image_size, config.augment, config.seed)

    def prepare(self, request: StepImages) -> Batch:
        """Augmented `images` uint8 [b, 3, S, S] and `labels` [b]."""
        return super().prepare(request) | {"labels": self.train_images.labels[request.rows]}

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """One update."""
        self.model.train()
        with record_function("vim.forward"):
            with self.runtime.autocast():
                logits = self.forward(batch["images"])  # [b, classes]
            loss = F.cross_entropy(logits.float(), batch["labels"])
        self.optimizer.zero_grad(set_to_none=True)
        with record_function("vim.backward"):
            loss.backward()
        result = self.update(step, self.model, self.optimizer, self.settings.optim, loss.detach(), {})
        if self.ema:
            self.ema.update(step)
        accuracy = (logits.argmax(1) == batch["labels"]).float().mean()
        return {"loss": result.loss, "accuracy": accuracy, "skipped": result.skipped}

    def finish(self) -> dict[str, float]:
        """Accuracy on the held-out images."""
        value = accuracy(self.result.eval(), self.held_out, len(self.held_out))
        return {"test_accuracy": value, "test_images": float(len(self.held_out))}

    def evaluation(self) -> Evaluation:
        """`accuracy` of the weights that would be exported now."""
        model, count = snapshot(self.result, self.runtime), len(self.evaluation_images)
        assert model is not None, "classifiers are not sharded"
        count = min(self.config.evaluate_limit or count, count)
        return lambda check: {"accuracy": accuracy(model, self.evaluation_images, count, check)}

    def export(self) -> dict[str, bytes]:
        """Weights and shape."""
        return {"model.safetensors": to_bytes(self.result), "config.json": model_config(self.shape)}


@torch.no_grad()
def accuracy(model: Classifier, images: ImageLoader, count: int, check: CancelCheck = lambda: None) -> float:
    """Share of the first `count` images whose most likely class is their label; calls `check` before every batch."""
    device, correct = next(model.parameters()).device, 0
    for rows in torch.arange(count).split(256):
        check()
        logits = model(images.plain(rows.tolist()).to(device))  # [n, classes]
        correct += int((logits.argmax(1).cpu() == images.labels[rows]).sum())
    return correct / count
