"""The prior: causality, conditioning, features that cannot know the label; GPT-2 as a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.tiny import prior_network
from vim_core.config import StackConfig
from vim_core.errors import ConfigError, DataError
from vim_core.layers.transformer import Dropout
from vim_core.models.prior import ImagePrior, PriorShape, load_prior, model_config
from vim_core.weights.saving import to_bytes


def inputs(count: int = 4, tokens: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 11, (count, tokens), generator=generator), torch.arange(count) % 3


@pytest.mark.parametrize("variant", ["paper", "modern"])
def test_every_code_is_predicted_from_the_ones_before_it_and_their_places(variant: str) -> None:
    prior, (codes, labels) = prior_network(variant=variant), inputs()
    before = prior(codes, labels)
    assert before.shape == (4, 6, 11)
    for changed in range(6):
        other = codes.clone()
        other[:, changed] = (other[:, changed] + 1) % 11
        after = prior(other, labels)
        assert torch.equal(after[:, : changed + 1], before[:, : changed + 1])
        for later in range(changed + 1, 6):
            assert not torch.allclose(after[:, later], before[:, later], atol=1e-4)
    swapped = codes[:, [1, 0, 2, 3, 4, 5]]
    assert not torch.allclose(prior(swapped, labels)[:, 4], before[:, 4], atol=1e-4)


def test_the_class_reaches_every_prediction() -> None:
    prior, (codes, labels) = prior_network(), inputs()
    for other in ((labels + 1) % 3, torch.full_like(labels, prior.null_class)):
        changed = (prior(codes, labels) - prior(codes, other)).abs().amax(dim=(0, 2))
        assert changed.min() > 1e-4


def test_positions_are_sums_of_row_and_column() -> None:
    prior = prior_network()
    for index, vector in enumerate(prior.positions()):
        torch.testing.assert_close(vector, prior.rows[index // 3] + prior.columns[index % 3])


def test_block_features_are_means_over_the_codes_under_the_null_class() -> None:
    prior, (codes, _) = prior_network(), inputs()
    outputs: list[Tensor] = []
    for block in prior.blocks:
        block.register_forward_hook(lambda module, given, result: outputs.append(result))
    found = list(prior.block_features(codes))
    features_of = [output[:, 1:].mean(1) for output in outputs]
    assert len(found) == 2
    for mine, expected in zip(found, features_of, strict=True):
        torch.testing.assert_close(mine, expected)
    # The same blocks in a plain pass with the null class see the same first tokens.
    outputs.clear()
    null = torch.full((4,), prior.null_class)
    x = prior.embed(codes, null)
    for block in prior.blocks:
        x = block(x)
    for mine, output in zip(found, outputs, strict=True):
        torch.testing.assert_close(mine, output[:, 1:].mean(1))


def test_round_trip_and_refusal(tmp_path: Path) -> None:
    prior, (codes, labels) = prior_network(), inputs()
    (tmp_path / "m").write_bytes(to_bytes(prior))
    (tmp_path / "c").write_bytes(model_config(prior.shape))
    loaded = load_prior(str(tmp_path / "m"), str(tmp_path / "c"))
    assert loaded.shape == prior.shape
    assert not loaded.training
    assert torch.equal(loaded(codes, labels), prior(codes, labels))
    other = ImagePrior(PriorShape(StackConfig(1, 2, 16, 32), [2, 3], 11, 3)).shape
    (tmp_path / "c").write_bytes(model_config(other))
    with pytest.raises(DataError, match="does not fit ImagePrior"):
        load_prior(str(tmp_path / "m"), str(tmp_path / "c"))


@pytest.mark.parametrize("variant", ["paper", "modern"])
def test_features_of_one_block_run_no_later_block(variant: str) -> None:
    prior, (codes, _) = prior_network(blocks=4, variant=variant), inputs()
    expected = list(prior.block_features(codes))
    runs: list[int] = []
    for index, block in enumerate(prior.blocks):
        block.register_forward_hook(lambda *_, index=index: runs.append(index))
    for chosen in range(4):
        runs.clear()
        assert torch.equal(prior.features(codes, chosen), expected[chosen])
        assert runs == list(range(chosen + 1))
    for wrong in (-1, 4):
        with pytest.raises(ConfigError, match=f"block={wrong}: this prior has blocks 0 to 3"):
            prior.features(codes, wrong)


@pytest.mark.parametrize(("variant", "hidden"), [("paper", 32), ("modern", 24)])
@pytest.mark.parametrize("embeddings", [False, True])
def test_noise_falls_on_the_papers_three_places(embeddings: bool, variant: str, hidden: int) -> None:
    """After the attention's projection, on the activation and on the net's output; never on attention probabilities."""
    prior, (codes, labels) = prior_network(variant=variant, embedding_dropout=embeddings).train(), inputs()
    seen: list[int] = []
    for module in prior.modules():
        if isinstance(module, Dropout):
            module.register_forward_hook(lambda module, given, result: seen.append(noised(given[0], result)))
    prior(codes, labels)
    assert seen == [16 if embeddings else 0, *[16, hidden, 16] * 2]


def noised(given: Tensor, result: Tensor) -> int:
    """Width of what was noised; 0 where nothing was."""
    assert given.ndim == 3
    return 0 if torch.equal(given, result) else given.shape[2]


def test_noise_after_the_projection_only_scales_or_drops_its_output() -> None:
    prior, (codes, labels) = prior_network(), inputs()
    attention: Any = prior.blocks[0].attention.train()  # type: ignore[union-attr]
    x = prior.embed(codes, labels)
    attention.dropout.rate = 0.0
    whole = attention(x)
    attention.dropout.rate = 0.2
    kept = attention(x) != 0
    assert 0.6 < float(kept.float().mean()) < 0.95
    torch.manual_seed(3)
    found = attention(x)
    share = round(0.2 * 65536) / 65536
    torch.testing.assert_close(found[found != 0], (whole / (1 - share))[found != 0])


def test_an_unconditional_preset_has_a_start_vector_and_no_classes() -> None:
    prior, (codes, _) = prior_network(classes=0), inputs()
    start = torch.zeros(4, dtype=torch.int64)
    before = prior(codes, start)
    with torch.no_grad():
        prior.class_embedding.weight.mul_(torch.arange(16) - 8)
    assert not torch.allclose(prior(codes, start)[:, 0], before[:, 0], atol=1e-4)
    with pytest.raises(IndexError):
        prior(codes, start + 1)


def gpt2(prior: ImagePrior) -> Any:
    """GPT-2 whose vocabulary is codes, then classes; the class token stands at position 0."""
    transformers = pytest.importorskip("transformers")
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


@pytest.mark.slow  # imports transformers
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
