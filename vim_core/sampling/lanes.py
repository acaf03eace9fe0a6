"""Decoding on the device: layers with converted weights, the lanes of one group, and one step of them."""

from __future__ import annotations

import copy
import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.models.prior import ImagePrior
from vim_core.sampling.logits import SamplingSettings, guidance_scales, sample_codes


class CastLinear(nn.Module):
    """A linear layer with weights in `dtype`; its input is converted, its output has that dtype."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = linear.weight.detach().to(dtype)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        return F.linear(x.to(self.dtype), self.weight, self.bias)


class PackedLinear(CastLinear):
    """`CastLinear` by oneDNN, with weights in its blocked layout, which it would otherwise make at every product.

    With few rows making it is most of the work: fp32 products of 8 rows take a tenth of the time without it.

    Args:
        linear: the layer.
        dtype: of the product.
        rows: of the input at each step, for which the layout is chosen; other numbers work, too.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, rows: int) -> None:
        super().__init__(linear, dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows)

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        return torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.weight, self.bias, "none", [], "")  # type: ignore[no-any-return]


def packing_available(device: torch.device, dtype: torch.dtype) -> bool:
    """True if `PackedLinear` works: oneDNN on x86, bf16 only on processors with bf16 instructions."""
    if device.type != "cpu" or platform.machine() != "x86_64" or not torch.backends.mkldnn.is_available():
        return False
    if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))


def prepare_for_decoding(prior: ImagePrior, dtype: torch.dtype, rows: int) -> ImagePrior:
    """A copy of the prior in evaluation mode with converted linear layers; all other parameters are shared.

    As under autocast, products are in `dtype`; norms and the residual stream stay in fp32.

    Args:
        prior: the network; it is not changed.
        dtype: fp32 or bf16.
        rows: batch of a decoding step.
    """
    shared = {id(tensor): tensor for tensor in (*prior.parameters(), *prior.buffers())}
    network = copy.deepcopy(prior, shared).eval()
    packed = packing_available(prior.device, dtype)
    if not packed and dtype is torch.float32:
        return network
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, PackedLinear(child, dtype, rows) if packed else CastLinear(child, dtype))
    return network


class Lanes:
    """Buffers of fixed shape and address; `step` reads and writes them alone, and no value reaches the host.

    With guidance there are 2 * lanes rows: the first half has the classes, the second the null class.

    Attributes: `prior`, see `prepare_for_decoding`; `codes` int64 [lanes, T], complete up to `position` int64 [1];
    `masked`: True where steps may span more of the cache than is filled, so that there are fewer shapes.

    Args:
        prior: the network; it is not changed.
        settings: how to sample.
        lanes: samples decoded together.
        dtype: of products and cache.
    """

    def __init__(self, prior: ImagePrior, settings: SamplingSettings, lanes: int, dtype: torch.dtype) -> None:
        device, tokens, dim = prior.device, prior.shape.tokens, prior.shape.stack.dim
        rows = lanes * (2 if settings.guided else 1)
        self.settings = settings
        self.prior = prepare_for_decoding(prior, dtype, rows)
        # On CPUs attention of one query is slower in bf16 than in fp32: there the cache holds bf16 values as fp32.
        self.cache = self.prior.empty_cache(rows, torch.float32 if device.type == "cpu" else dtype)
        self.tokens = tokens
        self.masked = device.type != "cpu"
        self.codes = torch.zeros(lanes, tokens, dtype=torch.int64, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self._indices = torch.arange(tokens, device=device)
        self._unmasked = torch.zeros(tokens, dtype=self.cache[0][0].dtype, device=device)
        self._position_embeddings = self.prior.positions().detach()  # [T, D]
        self._scales = guidance_scales(settings, tokens).to(device, torch.float32)  # [T]
        self._uniform = torch.zeros(lanes, tokens, dtype=torch.float64, device=device)
        self._x = torch.zeros(rows, 1, dim, device=device)

    def start(self, labels: Tensor, uniform: Tensor, prefix: Tensor | None = None) -> int:
        """Start a group; returns the first position to sample.

        Args:
            labels: int64 [lanes].
            uniform: random numbers fp64 [lanes, T].
            prefix: given codes int64 [lanes, P] that the images begin with; they pass the network at once.
        """
        self._uniform.copy_(uniform)
        labels = labels.to(self.codes.device)
        if self.settings.guided:
            labels = torch.cat([labels, torch.full_like(labels, self.prior.null_class)])  # [2 lanes]
        count = 0 if prefix is None else prefix.shape[1]
        self.position.fill_(count)
        if prefix is None or not count:
            self._x.copy_(self.prior.class_embedding(labels)[:, None])
            return 0
        self.codes[:, :count] = prefix.to(self.codes.device)
        codes = self.codes[:, :count].repeat(len(labels) // len(self.codes), 1)  # [rows, P]
        x = self.prior.embed(codes, labels)  # [rows, P + 1, D]
        self.prior.prefill(x[:, :-1], self.cache)
        self._x.copy_(x[:, -1:])
        return count

    def logits(self, span: int) -> Tensor:
        """Guided logits [lanes, V] of the code at `position`, with attention over the first `span` cache entries.

        The span ends at `position`; with `masked` it may end anywhere after it, which only costs time.
        """
        mask = None
        if self.masked:
            # masked_fill, because torch.where would copy its scalars to the device, which a CUDA graph cannot.
            mask = self._unmasked[:span].masked_fill(self._indices[:span] > self.position, -torch.inf)  # [span]
        filled = [
            (keys[:, :, :span], values[:, :, :span]) for keys, values in self.cache
        ]  # [rows, heads, span, D / heads]
        logits = self.prior.decode_step(self._x, filled, self.position, mask)  # [rows, V]
        if not self.settings.guided:
            return logits
        conditional, unconditional = logits.chunk(2)
        return unconditional + self._scales.index_select(0, self.position) * (conditional - unconditional)

    def step(self, span: int) -> None:
        """Sample the code at `position`, which must lie within `span`, and advance."""
        uniform = self._uniform.index_select(1, self.position)[:, 0]  # [lanes]
        codes = sample_codes(self.logits(span), uniform, self.settings)  # [lanes]
        self.codes.index_copy_(1, self.position, codes[:, None])
        positions = self._position_embeddings.index_select(0, self.position)  # [1, D]
        x = (self.prior.code_embedding(codes) + positions)[:, None]  # [lanes, 1, D]
        self._x.copy_(x.repeat(2, 1, 1) if self.settings.guided else x)
        self.position.add_(1)

    def state(self) -> list[Tensor]:
        """A copy of the buffers that a step changes, except the cache: repeating the step writes the same into it."""
        return [value.clone() for value in (self.codes, self.position, self._x)]

    def restore(self, state: list[Tensor]) -> None:
        """Undo the step since `state`."""
        for value, saved in zip((self.codes, self.position, self._x), state, strict=True):
            value.copy_(saved)
