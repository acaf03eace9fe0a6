"""Checkpoints of enhancing-transformers against a network of that layout, written here from its description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.tiny import tokenizer_network
from vim_core.errors import DataError
from vim_core.models.vit_vqgan import ViTVQGAN, load_tokenizer, model_config
from vim_core.tasks.warm_start import encoder_digest
from vim_core.weights.enhancing_transformers import convert_state_dict, load_enhancing
from vim_core.weights.saving import to_bytes

HEAD = 8


class Branch(nn.Module):
    """A norm and what follows it, under the names `norm` and `fn`."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(dim), fn

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(self.norm(x))  # type: ignore[no-any-return]


class Attends(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * HEAD * heads, bias=False)
        self.to_out = nn.Linear(HEAD * heads, dim) if (heads, HEAD) != (1, dim) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (self.heads, HEAD)) for part in self.to_qkv(x).chunk(3, dim=2))
        weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / HEAD**0.5).softmax(-1)
        return self.to_out(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


class Blocks(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        pairs = ((Branch(dim, Attends(dim, heads)), Branch(dim, Net(dim, hidden))) for _ in range(depth))
        self.layers = nn.ModuleList(nn.ModuleList(pair) for pair in pairs)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        for pair in self.layers:
            for branch in pair:  # type: ignore[attr-defined]
                x = branch(x)
        return self.norm(x)  # type: ignore[no-any-return]


def positions(grid: int, dim: int) -> Tensor:
    """Sine and cosine of the column, then of the row [1, grid * grid, dim]."""
    speeds = 10_000.0 ** (-torch.arange(dim // 4) / (dim // 4))
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [place.flatten()[:, None] * speeds for place in (columns, rows)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)[None]


class Encodes(nn.Module):
    def __init__(self, patch: int, grid: int, dim: int, *sizes: int) -> None:
        super().__init__()
        self.to_patch_embedding = nn.Sequential(nn.Conv2d(3, dim, patch, patch), nn.Flatten(2))
        self.en_pos_embedding = nn.Parameter(positions(grid, dim))
        self.transformer = Blocks(dim, *sizes)

    def forward(self, images: Tensor) -> Tensor:
        return self.transformer(self.to_patch_embedding(images).mT + self.en_pos_embedding)  # type: ignore[no-any-return]


class Decodes(nn.Module):
    def __init__(self, patch: int, grid: int, dim: int, *sizes: int) -> None:
        super().__init__()
        self.transformer = Blocks(dim, *sizes)
        self.de_pos_embedding = nn.Parameter(positions(grid, dim))
        self.to_pixel = nn.Sequential(nn.Unflatten(2, (grid, grid)), nn.ConvTranspose2d(dim, 3, patch, patch))

    def forward(self, x: Tensor) -> Tensor:
        return self.to_pixel(self.transformer(x + self.de_pos_embedding).mT)  # type: ignore[no-any-return]


class Theirs(nn.Module):
    """The stage-1 network of that layout, with a codebook of 24 codes of 6 numbers."""

    def __init__(self, encoder: tuple[int, ...], decoder: tuple[int, ...], patch: int = 4, grid: int = 3) -> None:
        super().__init__()
        self.encoder, self.decoder = Encodes(patch, grid, *encoder), Decodes(patch, grid, *decoder)
        self.pre_quant, self.post_quant = nn.Linear(encoder[0], 6), nn.Linear(6, decoder[0])
        self.quantizer = nn.ModuleDict({"embedding": nn.Embedding(24, 6)})
        for value in self.parameters():
            nn.init.normal_(value, std=0.3)
        # Codes where latents are, so that images differ in them.
        entries = self.pre_quant(self.encoder(torch.rand(4, 3, patch * grid, patch * grid))).flatten(0, 1)
        self.quantizer["embedding"].load_state_dict({"weight": entries[:24].detach()})

    def latents(self, images: Tensor) -> Tensor:
        return F.normalize(self.pre_quant(self.encoder(images)), dim=-1)

    def codes(self, images: Tensor) -> Tensor:
        entries = F.normalize(self.quantizer["embedding"].weight, dim=-1)  # type: ignore[arg-type]
        return torch.cdist(self.latents(images), entries[None]).argmin(-1)

    def decoded(self, codes: Tensor) -> Tensor:
        return self.decoder(self.post_quant(F.normalize(self.quantizer["embedding"](codes), dim=-1)))  # type: ignore[no-any-return]


NARROW = (16, 2, 2, 24)
"""Width, depth, heads, hidden width; heads of width 8 fill the model."""
SIZES = {
    "as published": (NARROW, NARROW),
    "a larger decoder": (NARROW, (24, 3, 3, 40)),
    "heads narrower than the model": (NARROW, (40, 2, 4, 48)),
    "one head and no projection": ((8, 1, 1, 16), NARROW),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def checkpoint(path: Path, model: nn.Module, **more: Any) -> str:
    """A file as Lightning writes it."""
    state = model.state_dict() | {"loss.discriminator.weight": torch.ones(2)}
    torch.save({"epoch": 3, "global_step": 7, "state_dict": state, **more}, path)
    return str(path)


@torch.no_grad()
def assert_equal_outputs(theirs: Theirs, ours: ViTVQGAN) -> None:
    images = torch.rand(5, 3, 12, 12)
    latents = F.normalize(ours.latents(images), dim=-1)
    torch.testing.assert_close(latents, theirs.latents(images), atol=1e-5, rtol=1e-5)
    codes = ours.tokenize(images)
    assert torch.equal(codes, theirs.codes(images))
    assert len(codes.unique()) > 5
    raw = ours.decode_vectors(ours.codebook.vectors(codes))
    torch.testing.assert_close(ours.pixels(raw), theirs.decoded(codes), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_codes_and_images_are_the_same(sizes: Any, tmp_path: Path) -> None:
    theirs = Theirs(*sizes)
    assert_equal_outputs(theirs, load_enhancing(checkpoint(tmp_path / "last.ckpt", theirs), HEAD))


def test_earlier_names_and_a_bare_state_dict_are_read(tmp_path: Path) -> None:
    theirs = Theirs(NARROW, NARROW)
    earlier = {}
    for key, value in theirs.state_dict().items():
        name = key.replace("coder.transformer.norm.", "coder.norm.").replace("to_pixel.1.", "to_pixel.conv_out.")
        earlier[name] = value
    assert earlier.keys() != theirs.state_dict().keys()
    torch.save(earlier, tmp_path / "bare.pt")
    assert_equal_outputs(theirs, load_enhancing(str(tmp_path / "bare.pt"), HEAD))


def test_an_imported_tokenizer_is_saved_and_loaded_like_any_other(tmp_path: Path) -> None:
    theirs = Theirs(NARROW, NARROW)
    ours = convert_state_dict(theirs.state_dict(), head_dim=HEAD)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights.write_bytes(to_bytes(ours))
    config.write_bytes(model_config(ours.config))
    tokenizer = load_tokenizer(str(weights), str(config))
    images = torch.rand(3, 3, 12, 12)
    assert torch.equal(tokenizer.encode(images), theirs.codes(images))
    usual = tmp_path / "usual.json"
    usual.write_bytes(config.read_bytes().replace(b'"tanh": "blocks"', b'"tanh": "head"'))
    assert encoder_digest(str(weights), str(usual)) != encoder_digest(str(weights), str(config))


def test_digests_of_encoders_made_before_the_setting_stay(tmp_path: Path) -> None:
    ours = tokenizer_network()
    for number, value in enumerate(ours.state_dict().values()):
        value.fill_(number / 8)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights.write_bytes(to_bytes(ours))
    config.write_bytes(model_config(ours.config))
    recorded = "b73d10f887560254a3a0fb4b984b5469f10f84337bc6e3060d0f74fbdc2d9fd1"
    assert encoder_digest(str(weights), str(config)) == recorded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.transformer.norm.weight": None}, r"has no encoder\.transformer\.norm\.weight"),
        ({"quantizer.extra": torch.ones(1)}, r"unknown tensors: quantizer\.extra"),
        ({"pre_quant.bias": torch.ones(9)}, "layout.*to_code.bias"),
    ],
)
def test_another_layout_is_refused(change: dict[str, Any], message: str) -> None:
    state = {k: v for k, v in (Theirs(NARROW, NARROW).state_dict() | change).items() if v is not None}
    with pytest.raises(DataError, match=rf"(?s)old\.ckpt: .*{message}"):
        convert_state_dict(state, "old.ckpt", HEAD)


def test_another_width_of_heads_is_refused() -> None:
    with pytest.raises(DataError, match="do not make heads of width 64 for a model of width 16"):
        convert_state_dict(Theirs(NARROW, NARROW).state_dict())


class Payload:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("/nowhere/at/all"),)


def test_files_that_hold_more_than_tensors_or_none_are_refused(tmp_path: Path) -> None:
    theirs = Theirs(NARROW, NARROW)
    with pytest.raises(DataError, match="not a file of tensors alone"):
        load_enhancing(checkpoint(tmp_path / "a.ckpt", theirs, callbacks=Payload()), HEAD)
    (tmp_path / "b.ckpt").write_bytes(b"something else")
    with pytest.raises(DataError, match="not a file of tensors alone"):
        load_enhancing(str(tmp_path / "b.ckpt"), HEAD)
    with pytest.raises(DataError, match="no such file"):
        load_enhancing(str(tmp_path / "c.ckpt"), HEAD)
    torch.save({"epoch": 3}, tmp_path / "d.ckpt")
    with pytest.raises(DataError, match="holds no tensors by name"):
        load_enhancing(str(tmp_path / "d.ckpt"), HEAD)
