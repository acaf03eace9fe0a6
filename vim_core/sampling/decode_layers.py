"""The prior as decoding wants it: products in the sampling dtype, weights converted and laid out once."""

from __future__ import annotations

import copy
import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.models.prior import ImagePrior


class CastLinear(nn.Module):
    """A linear layer whose weights were converted once; its input is converted, its output is of that dtype."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = linear.weight.detach().to(dtype)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        return F.linear(x.to(self.dtype), self.weight, self.bias)


class PackedLinear(nn.Module):
    """The same by oneDNN, with weights in the blocked layout that it would else make at every product.

    With few rows that is most of the work: fp32 products of 8 rows take a tenth of the time that way.

    Args:
        linear: the layer.
        dtype: of the product.
        rows: of its input at each step, for which the layout is chosen; others work as well.
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
    """Whether `PackedLinear` works there: by oneDNN on x86, in bf16 only where the processor has what that needs."""
    if device.type != "cpu" or platform.machine() != "x86_64" or not torch.backends.mkldnn.is_available():
        return False
    if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))


def prepare_for_decoding(prior: ImagePrior, dtype: torch.dtype, rows: int) -> ImagePrior:
    """A prior in evaluation mode that shares everything with the given one but its linear layers.

    As under autocast, products are in `dtype`, while norms and the sum over the blocks stay in fp32.

    Args:
        prior: stays as it is.
        dtype: fp32 or bf16.
        rows: lanes that are decoded together.
    """
    shared = {id(tensor): tensor for tensor in (*prior.parameters(), *prior.buffers())}
    made = copy.deepcopy(prior, shared).eval()
    packed = packing_available(prior.device, dtype)
    if not packed and dtype is torch.float32:
        return made
    for module in list(made.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, PackedLinear(child, dtype, rows) if packed else CastLinear(child, dtype))
    return made
