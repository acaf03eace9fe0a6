"""Stage 1: training step of the ViT-VQGAN and its discriminator (paper section 3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.profiler import record_function

from vim_core.config import QuantizeConfig
from vim_core.config.fields import without_execution
from vim_core.data.image_loader import ImageLoader
from vim_core.data.images import grid_png
from vim_core.data.sample_order import keyed_rng
from vim_core.distributed.runtimes.base import Runtime
from vim_core.errors import ConfigError
from vim_core.layers.discriminator import advance_spectral
from vim_core.losses.adversarial import LeCam, adversarial_share, discriminator_pass, generator_term
from vim_core.losses.likelihood import logit_laplace
from vim_core.losses.perceptual import Perceptual
from vim_core.metrics.codebook import CodeUsageWindow
from vim_core.models.classifier import Classifier, load_classifier
from vim_core.models.codebook import batch_perplexity, entropy_loss
from vim_core.models.discriminator import Discriminator, make_discriminator
from vim_core.models.vit_vqgan import Reconstruction, Tokenizer, ViTVQGAN, model_config
from vim_core.optim.masked_adamw import scalar
from vim_core.optim.optimizers import make_optimizer
from vim_core.tasks.base import Batch, build_network, build_replicated
from vim_core.tasks.image_task import ImageTask
from vim_core.tasks.warm_start import PretrainedTokenizer, load_pretrained
from vim_core.training import accumulation, flops
from vim_core.training.evaluation import CancelCheck, Drawing, Evaluation, evaluation_device, snapshot
from vim_core.training.held_out_metrics import ReconstructionScorer, psnr_db
from vim_core.training.usage_watch import UsageWatch
from vim_core.weights.saving import to_bytes


@dataclass
class QuantizerData:
    """Image table files of both splits, and the tokenizer of `quantize.init_from` to start from.

    With a classifier's files (weights, config) evaluations during training include a Fréchet distance.
    """

    train: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    pretrained: PretrainedTokenizer | None = None
    classifier: tuple[str, str] | None = None


@dataclass
class GeneratorPass:
    """The generator's codes [B * T], latents [B * T, code_dim] and reconstructions [B, 3, S, S], without gradient."""

    codes: Tensor
    latents: Tensor
    fake: Tensor


def check_accumulation(config: QuantizeConfig, world: int) -> None:
    """Raise `ConfigError` unless `world` workers and microbatches divide the batch and every loss is a mean over it."""
    accumulation.check_batch(config, world, "quantize")
    if config.accumulate > 1 and config.codebook.entropy.weight > 0:
        raise ConfigError(
            f"quantize.accumulate={config.accumulate}: the entropy term (codebook.entropy.weight="
            f"{config.codebook.entropy.weight}) is of the whole batch, not a mean over its parts; use 1"
        )


class QuantizerTask(ImageTask[ViTVQGAN]):
    """Updates the generator, then the discriminator; lazy R1 and dead-code restarts at their intervals.

    `generator_pass` and `discriminator_pass` only compute losses and `update` only updates: between them gradients
    accumulate over microbatches. LeCam gets the mean of the microbatches' mean logits.
    """

    headline = ("psnr_db", 1)

    def __init__(self, config: QuantizeConfig, data: QuantizerData, runtime: Runtime) -> None:
        super().__init__(config, runtime)
        self.settings = config
        check_accumulation(config, runtime.world)
        torch.manual_seed(config.seed)
        self.data = data
        self.model, self.ema = build_network(
            lambda: ViTVQGAN(config),
            runtime,
            config.ema,
            # Restarts need the whole codebook.
            keep=lambda network: [network.codebook.weight],
            load=lambda network: load_pretrained(network, config, data.pretrained),
        )
        self.forward = runtime.compile(self.model)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.perceptual = Perceptual.create(config.loss, runtime.device)
        if self.perceptual is not None:
            self.perceptual.forward = runtime.convolve(self.perceptual.network)
        self.discriminator: Discriminator | None = None
        self.lecam: LeCam | None = None
        if config.loss.adversarial > 0:
            # Replicated: R1 differentiates it twice, and FSDP2 frees a block's weights after the first time. It is
            # small (29 million parameters at 256x256).
            self.discriminator = build_replicated(
                partial(make_discriminator, config.discriminator, config.image_size), runtime
            )
            self.judge = runtime.convolve(self.discriminator)
            self.discriminator_optimizer = make_optimizer(self.discriminator, config.discriminator.optim)
            if config.discriminator.lecam.weight > 0:
                self.lecam = LeCam(config.discriminator.lecam).to(runtime.device)
        self.train_images = ImageLoader(
            data.train, config.image_size, config.augment, config.seed, config.image_decoding
        )
        self.held_out = ImageLoader(data.test, config.image_size, config.augment, config.seed)
        self.window = CodeUsageWindow(config.codebook.codes, config.batch, runtime.device)
        self.scorer: ReconstructionScorer | None = None
        if config.evaluate_every:
            bounds = config.usage_alarm, config.usage_halt, config.usage_grace
            self.watch = UsageWatch(*bounds, config.codebook.codes, config.codebook.restart.every)
            # Its own loader, because loaders are for one thread.
            images = ImageLoader(data.test, config.image_size, config.augment, config.seed)
            classifier: Classifier | None = None
            if data.classifier is not None:
                with torch.random.fork_rng([]):
                    classifier = load_classifier(*data.classifier, str(evaluation_device(runtime.device)))
            self.scorer = ReconstructionScorer(images, config.evaluate_limit, classifier)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Tokenizer, its average, the window of code usage, discriminator, LeCam's averages of logits."""
        average = self.ema.shadow if self.ema else None
        optional = {"ema": average, "discriminator": self.discriminator, "lecam": self.lecam}
        modules: dict[str, nn.Module] = {"model": self.model, "window": self.window}
        return modules | {name: module for name, module in optional.items() if module is not None}

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """AdamW for both networks."""
        optimizers: dict[str, Optimizer] = {"model": self.optimizer}
        return optimizers | ({"discriminator": self.discriminator_optimizer} if self.discriminator else {})

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """One update of the generator and, with an adversarial term, one of the discriminator."""
        images = batch["images"]
        figures, passes = self._generator_step(step, images)
        with record_function("vim.codebook"):
            self._update_codebook(step, passes, figures)
        if self.discriminator is not None:
            fake = self.runtime.join_microbatches([each.fake for each in passes])  # [b, 3, S, S]
            with record_function("vim.discriminator"):
                figures |= self._discriminator_step(step, images, fake)
        if self.ema:
            self.ema.update(step)
        return figures

    def _global_mean(self, value: Tensor) -> Tensor:
        """The mean over workers, with the gradient of this worker's value: exact once gradients are averaged."""
        return value + (self.runtime.mean(value.detach().clone()) - value.detach())

    def generator_pass(self, step: int, images: Tensor) -> tuple[dict[str, Tensor], GeneratorPass]:
        """Weighted loss terms of the generator on images [B, 3, S, S]; nothing is updated."""
        weights, entropy = self.settings.loss, self.settings.codebook.entropy
        with self.runtime.autocast():
            result: Reconstruction = self.forward(images)
            fake, quantized = self.model.pixels(result.raw), result.quantized  # [B, 3, S, S]
            terms = {
                "codebook": quantized.codebook_loss,
                "commitment": self.settings.codebook.commitment * quantized.commitment_loss,
                "l2": weights.l2 * F.mse_loss(fake, images),
            }
            if weights.l1 > 0:
                terms["l1"] = weights.l1 * F.l1_loss(fake, images)
            if weights.logit_laplace > 0:
                terms["logit_laplace"] = weights.logit_laplace * logit_laplace(result.raw, images)
            if self.perceptual is not None:
                terms["perceptual"] = weights.perceptual * self.perceptual(fake, images)
            if (assignment := quantized.assignment) is not None:
                mean = self._global_mean(assignment.mean)  # [codes]
                terms["entropy"] = entropy.weight * entropy_loss(assignment.sample_entropy, mean, entropy.diversity)
            if self.discriminator is not None:
                # A tensor: the graph stays the same while the weight grows.
                share = weights.adversarial * adversarial_share(self.settings.discriminator, step)
                terms["adversarial"] = generator_term(
                    self.discriminator, self.judge, scalar(share, self.runtime.device), fake
                )
        return terms, GeneratorPass(quantized.codes, quantized.latents, fake.detach())

    def _generator_step(self, step: int, images: Tensor) -> tuple[dict[str, Tensor], list[GeneratorPass]]:
        self.optimizer.zero_grad(set_to_none=True)
        terms, passes = accumulation.accumulate_gradients(
            partial(self.generator_pass, step), [images], self.config.accumulate, self.runtime, self.model
        )
        loss = accumulation.total_loss(terms)
        result = self.update(step, self.model, self.optimizer, self.settings.optim, loss, terms)
        return terms | {"loss": loss, "gradient_norm": result.gradient_norm, "skipped": result.skipped}, passes

    def _discriminator_step(self, step: int, images: Tensor, fake: Tensor) -> dict[str, Tensor]:
        assert self.discriminator is not None
        advance_spectral(self.discriminator)
        self.discriminator.requires_grad_(True)
        optimizer, settings = self.discriminator_optimizer, self.settings.discriminator
        optimizer.zero_grad(set_to_none=True)
        terms, logits = accumulation.accumulate_gradients(
            partial(discriminator_pass, self.discriminator, self.judge, self.lecam, settings, self.runtime, step),
            [images, fake],
            self.config.accumulate,
            self.runtime,
            self.discriminator,
        )
        loss = accumulation.total_loss(terms)
        result = self.update(step, self.discriminator, optimizer, settings.optim, loss, terms, "discriminator.")
        logit_real, logit_fake = (accumulation.mean(parts) for parts in zip(*logits, strict=True))
        if self.lecam is not None:
            # Copies, because collectives work in place.
            real, generated = self.runtime.mean(logit_real.clone()), self.runtime.mean(logit_fake.clone())
            self.lecam.observe(step, real, generated, result.skipped)
        figures = terms | {"discriminator": loss, "logit_real": logit_real, "logit_fake": logit_fake}
        return figures | {"discriminator_gradient_norm": result.gradient_norm, "discriminator_skipped": result.skipped}

    def _update_codebook(self, step: int, passes: list[GeneratorPass], figures: dict[str, Tensor]) -> None:
        """Usage of the codes of a step: its metrics, the codebook's moving usage, restarts of dead codes."""
        codebook, restart = self.model.codebook, self.settings.codebook.restart
        codes = accumulation.concatenate([each.codes for each in passes])  # [b * T]
        counts = torch.zeros_like(codebook.usage).index_add_(
            0, codes, torch.ones_like(codes, dtype=codebook.usage.dtype)
        )
        counts = self.runtime.sum(counts)  # over all workers, [K]
        figures["batch_usage"] = (counts > 0).float().mean()
        figures["batch_perplexity"] = batch_perplexity(counts)
        figures |= self.window.add(counts, figures["skipped"])
        if not self.settings.freeze_encoder:
            codebook.observe(counts, figures["skipped"])
        if restart.every and (step + 1) % restart.every == 0 and step < restart.until * self.config.steps:
            latents = self.runtime.gather(accumulation.concatenate([each.latents for each in passes]))
            draw = keyed_rng("restart", self.config.seed, step).integers(0, len(latents), self.settings.codebook.codes)
            index = self.runtime.send(torch.from_numpy(draw))
            restarted = codebook.restart(latents, index, self.optimizer, figures["skipped"])
            figures["restarted"] = restarted.float().sum()

    def _tokenizer(self) -> Tokenizer | None:
        """The current tokenizer; None on all workers but the first of a sharded network."""
        model = self.runtime.full_network(self.result)
        return None if model is None else Tokenizer(model, self.runtime.device)

    def _copied_tokenizer(self) -> Tokenizer | None:
        """A copy of the current tokenizer for another thread; None as above."""
        model = snapshot(self.result, self.runtime)
        return None if model is None else Tokenizer(model, evaluation_device(self.runtime.device))

    def drawing(self, beside: bool = False) -> Drawing | None:
        """Held-out images above their reconstructions."""
        training = self.model.training
        tokenizer = self._copied_tokenizer() if beside else self._tokenizer()
        if tokenizer is None:
            return None
        # Read here, because loaders are for one thread.
        images = self.held_out.plain(range(min(16, len(self.held_out))))

        def draw(check: CancelCheck) -> dict[str, bytes]:
            decoded = tokenizer.decode(tokenizer.encode(images))  # [n, 3, S, S]
            if not beside:
                self.model.train(training)
            return {"reconstructions": grid_png(torch.cat([images, decoded]), columns=len(images))}

        return draw

    def finish(self) -> dict[str, float]:
        """The mean over the held-out images of each image's PSNR in dB; on the first worker of a sharded network."""
        tokenizer, values = self._tokenizer(), []
        if tokenizer is None:
            return {}
        for rows in torch.arange(len(self.held_out)).split(256):
            images = self.held_out.plain(rows.tolist())
            decoded = tokenizer.decode(tokenizer.encode(images))
            values.append(psnr_db(images, decoded))
        return {"test_psnr_db": float(torch.cat(values).mean())}

    def flops(self) -> flops.FlopsByPart:
        """See `flops.quantizer_step`."""
        return flops.quantizer_step(self.settings, self.perceptual is not None)

    def evaluation(self) -> Evaluation | None:
        """Metrics of `ReconstructionScorer` for the weights that would be exported now."""
        if self.scorer is None:
            return None
        scorer, tokenizer = self.scorer, self._copied_tokenizer()
        if tokenizer is None:
            return None
        return lambda check: scorer(tokenizer, check)

    def export(self) -> dict[str, bytes]:
        """Weights (of the average, if there is one) and settings; on the first worker of a sharded network."""
        model = self.runtime.full_network(self.result, torch.device("cpu"))
        if model is None:
            return {}
        source = self.data.pretrained
        # The address of the initial tokenizer is not part of the result, its digest is.
        settings = without_execution(self.settings, **({"init_from": f"digest:{source.digest}"} if source else {}))
        return {"model.safetensors": to_bytes(model), "config.json": model_config(settings)}
