"""The lanes of one group on the device: what decoding reads and writes, and one step of it."""

from __future__ import annotations

import torch
from torch import Tensor

from vim_core.models.prior import ImagePrior
from vim_core.sampling.decode_layers import prepare_for_decoding
from vim_core.sampling.logits import SamplingSettings, guidance_scales, sample_codes


class Lanes:
    """Buffers of fixed shape and place; `step` is a function of them alone, and no value of it reaches the host.

    With guidance the first half of the rows knows the class, the second the null class.

    Attributes: `prior`, as `decoding` makes it; `codes` int64 [lanes, T], complete up to `position` int64 [1];
    `masked`: whether steps may span more than is filled, for the sake of fewer shapes.

    Args:
        prior: the network; it stays as it is.
        settings: how to draw.
        lanes: samples decoded together.
        dtype: of products and cache.
    """

    def __init__(self, prior: ImagePrior, settings: SamplingSettings, lanes: int, dtype: torch.dtype) -> None:
        device, tokens, dim = prior.device, prior.shape.tokens, prior.shape.stack.dim
        rows = lanes * (2 if settings.guided else 1)
        self.settings = settings
        self.prior = prepare_for_decoding(prior, dtype, rows)
        # Attention of one query in bf16 takes CPUs longer than the same in fp32: what is kept there is bf16 in fp32.
        self.cache = self.prior.empty_cache(rows, torch.float32 if device.type == "cpu" else dtype)
        self.tokens = tokens
        self.masked = device.type != "cpu"
        self.codes = torch.zeros(lanes, tokens, dtype=torch.int64, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self._places = torch.arange(tokens, device=device)
        self._visible = torch.zeros(tokens, dtype=self.cache[0][0].dtype, device=device)
        self._vectors = self.prior.positions().detach()
        self._scales = guidance_scales(settings, tokens).to(device, torch.float32)
        self._uniform = torch.zeros(lanes, tokens, dtype=torch.float64, device=device)
        self._x = torch.zeros(rows, 1, dim, device=device)

    def begin(self, labels: Tensor, uniform: Tensor, given: Tensor | None = None) -> int:
        """Start a group; returns the first position that is to be drawn.

        Args:
            labels: int64 [lanes].
            uniform: fp64 [lanes, T].
            given: codes int64 [lanes, P] that the images begin with; they go through the network in one pass.
        """
        device = self.codes.device
        self._uniform.copy_(uniform)
        labels = labels.to(device)
        if self.settings.guided:
            labels = torch.cat([labels, torch.full_like(labels, self.prior.null_class)])
        count = 0 if given is None else given.shape[1]
        self.position.fill_(count)
        if given is None or not count:
            self._x.copy_(self.prior.class_embedding(labels)[:, None])
            return 0
        self.codes[:, :count] = given.to(device)
        whole = self.codes[:, :count].repeat(len(labels) // len(self.codes), 1)
        x = self.prior.embed(whole, labels)
        self.prior.prefill(x[:, :-1], self.cache)
        self._x.copy_(x[:, -1:])
        return count

    def logits(self, span: int) -> Tensor:
        """Guided logits [lanes, V] of the code at `position`, attending to the first `span` places of the cache.

        The span ends at `position`, or where lanes are `masked` anywhere beyond, which costs time alone.
        """
        mask = None
        if self.masked:
            # masked_fill, because torch.where would copy its numbers to the device, which a CUDA graph cannot.
            mask = self._visible[:span].masked_fill(self._places[:span] > self.position, -torch.inf)
        filled = [(keys[:, :, :span], values[:, :, :span]) for keys, values in self.cache]
        return self._guide(self.prior.decode_step(self._x, filled, self.position, mask))

    def step(self, span: int) -> None:
        """Draw the code at `position`, which must lie within `span`, and move on."""
        uniform = self._uniform.index_select(1, self.position)[:, 0]
        codes = sample_codes(self.logits(span), uniform, self.settings)
        self.codes.index_copy_(1, self.position, codes[:, None])
        x = (self.prior.code_embedding(codes) + self._vectors.index_select(0, self.position))[:, None]
        self._x.copy_(x.repeat(2, 1, 1) if self.settings.guided else x)
        self.position.add_(1)

    def state(self) -> list[Tensor]:
        """A copy of what a step changes, but for the cache, which the same step writes alike."""
        return [value.clone() for value in (self.codes, self.position, self._x)]

    def restore(self, state: list[Tensor]) -> None:
        """Take a step back to `state`."""
        for value, kept in zip((self.codes, self.position, self._x), state, strict=True):
            value.copy_(kept)

    def _guide(self, logits: Tensor) -> Tensor:
        if not self.settings.guided:
            return logits
        conditional, free = logits.chunk(2)
        return free + self._scales.index_select(0, self.position) * (conditional - free)
