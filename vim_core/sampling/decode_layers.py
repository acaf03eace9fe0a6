"""Linear layers for decoding: weights converted to the sampling dtype and laid out once."""

from __future__ import annotations

import copy
import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.models.prior import ImagePrior


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


class PackedLinear(nn.Module):
    """`CastLinear` by oneDNN, with weights in its blocked layout, which it would otherwise make at every product.

    With few rows making it is most of the work: fp32 products of 8 rows take a tenth of the time without it.

    Args:
        linear: the layer.
        dtype: of the product.
        rows: of the input at each step, for which the layout is chosen; other numbers work, too.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, rows: int) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype), rows)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

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
