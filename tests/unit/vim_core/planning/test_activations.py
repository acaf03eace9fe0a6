"""Bytes that a pass saves, by hand and by autograd's hooks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vim_core.config import QuantizeConfig, StackConfig
from vim_core.models.prior import ImagePrior, PriorShape
from vim_core.planning import activations
from vim_core.planning.activations import Activations, ElementSizes, block_bytes, cross_entropy

STACK = StackConfig(blocks=3, heads=4, dim=64, mlp=256)


def by_autograd(shape: PriorShape, images: int, recompute: bool) -> int:
    """Bytes that a real pass in fp32 saves, each storage once, without the weights."""
    model, found = ImagePrior(shape, recompute).train(), dict[int, int]()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: list[Tensor] = []

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
            kept.append(value)
        return value

    codes, labels = torch.zeros(images, shape.tokens, dtype=torch.int64), torch.zeros(images, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        model(codes, labels)
    return sum(found.values())


@pytest.mark.parametrize("variant", ["paper", "modern"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_priors_pass_against_autograd(variant: str, dropout: float) -> None:
    shape = PriorShape(STACK, [8, 8], 50, 3, dropout, variant=variant)
    found = activations.prior(shape, 4, ElementSizes(4, cpu=True), recompute=False)
    # The modern variant also keeps its tables of angles, which do not grow with the batch.
    assert found.saved == pytest.approx(by_autograd(shape, 4, False), rel=1e-3 if variant == "paper" else 0.05)


def test_a_block_by_hand() -> None:
    # 2 streams, 2 inputs, q k v, the output: 8 D; GELU's two sides: 2 M; log-sums and statistics.
    assert block_bytes(STACK, ElementSizes(4), dropout=False) == 4 * (8 * 64 + 2 * 256) + 4 * 4 + 16
    assert block_bytes(STACK, ElementSizes(2), dropout=False) == 8 * 64 + 2 * (6 * 64 + 2 * 256) + 4 * 4 + 16
    masks = block_bytes(STACK, ElementSizes(4), dropout=True) - block_bytes(STACK, ElementSizes(4), dropout=False)
    assert masks == 2 * 64 + 256
    assert ElementSizes(2, cpu=True).mask == 2


def test_recomputation_keeps_inputs_and_one_block() -> None:
    full = activations.stack(STACK, 10, ElementSizes(), False, recompute=False, variant="paper")
    less = activations.stack(STACK, 10, ElementSizes(), False, recompute=True, variant="paper")
    assert less.saved == 3 * 10 * 4 * 64
    # The input of the block that runs again is there already.
    assert less.transient == full.transient + full.saved / 3 - 10 * 4 * 64


def test_logits_on_an_accelerator_and_in_pieces() -> None:
    assert cross_entropy(1024, 8192, ElementSizes(2)) == Activations(0.0, 3 * 4 * 1024 * 8192)
    assert cross_entropy(1024, 8192, ElementSizes(2, cpu=True)) == Activations(
        0.0, 2 * 2 * 1024 * 8192 + 3 * 4 * (1 << 20)
    )


def test_work_on_the_meta_device_counts_each_storage_once() -> None:
    x = torch.empty(8, 16, device="meta", requires_grad=True)
    assert activations.saved_bytes(lambda: x * x, ElementSizes()) == 4 * 8 * 16
    assert activations.saved_bytes(lambda: x.exp().exp(), ElementSizes()) == 2 * 4 * 8 * 16
    assert activations.saved_bytes(lambda: x * x, ElementSizes(2)) == 2 * 8 * 16
    weight = torch.nn.Parameter(torch.empty(16, 3, device="meta"))
    assert activations.saved_bytes(lambda: x.detach() @ weight, ElementSizes()) == 4 * 8 * 16


def test_encoding_is_the_larger_of_scores_and_hidden_layer() -> None:
    config = QuantizeConfig(image_size=256, patch=8)
    assert activations.encoding_bytes(config, 2) == 4 * 2 * 1024 * (512 + 2 * 8192)
    config.codebook.codes = 16
    assert activations.encoding_bytes(config, 2) == 4 * 2 * 1024 * (2 * 512 + 2 * 2048)
