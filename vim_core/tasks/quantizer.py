"""Stage 1: training step of the ViT-VQGAN and its discriminator (paper section 3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from vim_core import losses
from vim_core.config import QuantizeConfig
from vim_core.data.feed import ImageFeed
from vim_core.data.grids import grid_png
from vim_core.data.position import keyed_rng
from vim_core.ema import Ema
from vim_core.models.discriminator import Discriminator
from vim_core.models.saving import to_bytes
from vim_core.models.vit_vqgan import Reconstruction, Tokenizer, ViTVQGAN, model_config
from vim_core.optim import adamw, clip, guarded_step, learning_rate, set_rate
from vim_core.perceptual import Perceptual
from vim_core.runtime.base import Runtime
from vim_core.tasks.base import Batch, Task


@dataclass
class QuantizerData:
    """Image table files of both splits."""

    train: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)


class QuantizerTask(Task):
    """Generator, then discriminator, then lazy R1 and dead-code restarts when their step comes."""

    def __init__(self, config: QuantizeConfig, data: QuantizerData, runtime: Runtime) -> None:
        super().__init__(config, runtime)
        self.settings = config
        torch.manual_seed(config.seed)
        self.model = ViTVQGAN(config).to(runtime.device)
        self.optimizer = adamw(self.model, config.optim)
        self.ema = Ema(self.model, config.ema) if config.ema else None
        self.perceptual = Perceptual.create(config.loss, runtime.device)
        self.judge: Discriminator | None = None
        if config.loss.adversarial > 0:
            self.judge = Discriminator(config.discriminator, config.image_size).to(runtime.device)
            self.judge_optimizer = adamw(self.judge, config.discriminator.optim)
        self.feed = ImageFeed(data.train, config.image_size, config.augment, config.seed)
        self.held_out = ImageFeed(data.test, config.image_size, config.augment, config.seed)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Tokenizer, its average, discriminator."""
        found: dict[str, nn.Module] = {"model": self.model}
        if self.ema:
            found["ema"] = self.ema.shadow
        if self.judge:
            found["discriminator"] = self.judge
        return found

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """AdamW for both networks."""
        found: dict[str, Optimizer] = {"model": self.optimizer}
        return found | ({"discriminator": self.judge_optimizer} if self.judge else {})

    def batch(self, step: int) -> Batch:
        """Augmented images [b, 3, S, S]."""
        images, _ = self.feed.batch(step, self.config.batch, self.runtime.rank, self.runtime.world)
        return {"images": images}

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """One update of the generator and, with an adversarial term, one of the discriminator."""
        images = batch["images"]
        figures, result, fake = self._generator_step(step, images)
        self._watch_codes(step, result, figures)
        if self.judge is not None:
            figures |= self._judge_step(step, images, fake)
        if self.ema:
            self.ema.update(step)
        return figures

    def ramp(self, step: int) -> Tensor:
        """Weight of the adversarial term at a step: a tensor, so the graph stays the same while it grows."""
        settings = self.settings.discriminator
        share = 1.0 if settings.ramp_steps == 0 else (step - settings.ramp_start) / settings.ramp_steps
        share = share if step >= settings.ramp_start else 0.0
        return torch.tensor(self.settings.loss.adversarial * min(1.0, max(0.0, share)), device=self.runtime.device)

    def _terms(self, images: Tensor, result: Reconstruction, fake: Tensor) -> dict[str, Tensor]:
        weights, quantized = self.settings.loss, result.quantized
        terms = {
            "codebook": quantized.codebook_loss,
            "commitment": self.settings.codebook.commitment * quantized.commitment_loss,
            "l2": weights.l2 * F.mse_loss(fake, images),
        }
        if weights.logit_laplace > 0:
            terms["logit_laplace"] = weights.logit_laplace * losses.logit_laplace(result.raw, images)
        if self.perceptual is not None:
            terms["perceptual"] = weights.perceptual * self.perceptual(fake, images)
        return terms

    def _generator_step(self, step: int, images: Tensor) -> tuple[dict[str, Tensor], Reconstruction, Tensor]:
        with self.runtime.autocast():
            result: Reconstruction = self.model(images)
            fake = self.model.pixels(result.raw)
            terms = self._terms(images, result, fake)
            if self.judge is not None:
                self.judge.requires_grad_(False)
                terms["adversarial"] = self.ramp(step) * losses.generator_loss(self.judge(fake))
        loss = torch.stack(list(terms.values())).sum()
        norm, skipped = self._update(step, self.model, self.optimizer, loss, self.settings.optim.clip_norm)
        figures = {name: value.detach() for name, value in terms.items()}
        return figures | {"loss": loss.detach(), "gradient_norm": norm, "skipped": skipped}, result, fake.detach()

    def _update(
        self, step: int, module: nn.Module, optimizer: Optimizer, loss: Tensor, max_norm: float
    ) -> tuple[Tensor, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.runtime.average_gradients(module.parameters())
        norm = clip(module.parameters(), max_norm)
        config = self.settings.optim if module is self.model else self.settings.discriminator.optim
        set_rate(optimizer, learning_rate(config, step, self.config.steps))
        return norm, guarded_step(optimizer, self.runtime.mean(loss.detach().clone()), norm)

    def _judge_step(self, step: int, images: Tensor, fake: Tensor) -> dict[str, Tensor]:
        judge, settings = self.judge, self.settings.discriminator
        assert judge is not None
        judge.requires_grad_(True)
        with self.runtime.autocast():
            loss = 0.5 * losses.discriminator_loss(judge(images), judge(fake))
        if settings.r1_gamma > 0 and step % settings.r1_every == 0:
            real = images.detach().requires_grad_(True)
            # Lazy regularisation: the penalty of the skipped steps is paid at once (StyleGAN2, section 3.1).
            loss = loss + 0.5 * settings.r1_gamma * settings.r1_every * losses.r1_penalty(judge(real), real)
        _, skipped = self._update(step, judge, self.judge_optimizer, loss, settings.optim.clip_norm)
        return {"discriminator": loss.detach(), "discriminator_skipped": skipped}

    def _watch_codes(self, step: int, result: Reconstruction, figures: dict[str, Tensor]) -> None:
        book, restart = self.model.codebook, self.settings.codebook.restart
        counts = torch.zeros_like(book.usage).index_add_(
            0, result.quantized.codes, torch.ones_like(result.quantized.codes, dtype=book.usage.dtype)
        )
        counts = self.runtime.sum(counts)
        book.observe(counts)
        figures["batch_usage"] = (counts > 0).float().mean()
        if restart.every and (step + 1) % restart.every == 0 and step < restart.until * self.config.steps:
            latents = self.runtime.gather(result.quantized.latents)
            draw = keyed_rng("restart", self.config.seed, step).integers(0, len(latents), self.settings.codebook.codes)
            index = torch.from_numpy(draw).to(latents.device)
            figures["restarted"] = book.restart(latents, index, self.optimizer).float().sum()

    def _tokenizer(self) -> Tokenizer:
        return Tokenizer(self.ema.shadow if self.ema else self.model, self.runtime.device)  # type: ignore[arg-type]

    def pictures(self) -> dict[str, bytes]:
        """Held-out images above their reconstructions."""
        images = self.held_out.plain(range(min(16, len(self.held_out))))
        training = self.model.training
        tokenizer = self._tokenizer()
        decoded = tokenizer.decode(tokenizer.encode(images))
        self.model.train(training)
        return {"reconstructions": grid_png(torch.cat([images, decoded]), columns=len(images))}

    def finish(self) -> dict[str, float]:
        """PSNR in dB over the held-out images, each image's own, then their mean."""
        tokenizer, values = self._tokenizer(), []
        for rows in torch.arange(len(self.held_out)).split(256):
            images = self.held_out.plain(rows.tolist())
            decoded = tokenizer.decode(tokenizer.encode(images))
            values.append(-10 * torch.log10((decoded - images).square().mean(dim=(1, 2, 3)).clamp_min(1e-12)))
        return {"test_psnr_db": float(torch.cat(values).mean())}

    def export(self) -> dict[str, bytes]:
        """Weights (the average's, if there is one) and settings."""
        return {"model.safetensors": to_bytes(self._tokenizer().model), "config.json": model_config(self.settings)}
