"""The prior against the GPT-2 of the transformers package with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.tiny import prior_network
from vim_core.models.prior import ImagePrior

transformers = pytest.importorskip("transformers")


def gpt2(prior: ImagePrior) -> Any:
    """GPT-2 whose vocabulary is codes, then classes; the class token stands at position 0."""
    shape = prior.shape
    assert isinstance(prior.norm, torch.nn.LayerNorm)
    config = transformers.GPT2Config(
        vocab_size=shape.vocabulary + shape.classes + 1,
        n_positions=1 + shape.tokens,
        n_embd=shape.stack.dim,
        n_layer=shape.stack.blocks,
        n_head=shape.stack.heads,
        n_inner=shape.stack.mlp,
        activation_function="gelu_new",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    state: dict[str, Tensor] = {
        "wte.weight": torch.cat([prior.code_embedding.weight, prior.class_embedding.weight]),
        "wpe.weight": torch.cat([torch.zeros(1, shape.stack.dim), prior.positions()]),
        "ln_f.weight": prior.norm.weight,
        "ln_f.bias": prior.norm.bias,
    }
    names = {"ln_1": "norm1", "ln_2": "norm2", "attn.c_attn": "attention.qkv", "attn.c_proj": "attention.out"}
    names |= {"mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down"}
    for index, block in enumerate(prior.blocks):
        for theirs, ours in names.items():
            module = block.get_submodule(ours)
            weight = module.weight if theirs.startswith("ln") else module.weight.T
            state |= {f"h.{index}.{theirs}.weight": weight, f"h.{index}.{theirs}.bias": module.bias}  # type: ignore[dict-item]
    model = transformers.GPT2Model(config).eval()
    missing, unexpected = model.load_state_dict({k: v.detach().contiguous() for k, v in state.items()}, strict=False)
    assert not unexpected
    assert not [name for name in missing if not name.endswith(("attn.bias", "attn.masked_bias"))]
    return model


@torch.no_grad()
def test_logits_and_block_features_equal_gpt2() -> None:
    prior = prior_network(blocks=3)
    model, codes = gpt2(prior), torch.randint(0, 11, (4, 6))
    labels = torch.tensor([0, 2, 1, prior.null_class])
    tokens = torch.cat([labels[:, None] + prior.shape.vocabulary, codes], dim=1)
    last = model(input_ids=tokens[:, :-1]).last_hidden_state
    expected = F.linear(last, prior.head.weight, prior.head.bias)
    torch.testing.assert_close(prior(codes, labels), expected, atol=2e-4, rtol=1e-4)

    null = torch.full((4, 1), prior.shape.vocabulary + prior.null_class)
    states = model(input_ids=torch.cat([null, codes], dim=1), output_hidden_states=True).hidden_states
    for mine, theirs in zip(list(prior.block_features(codes))[:-1], states[1:-1], strict=True):
        torch.testing.assert_close(mine, theirs[:, 1:].mean(1), atol=2e-4, rtol=1e-4)
