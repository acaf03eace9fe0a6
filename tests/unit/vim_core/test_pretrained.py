"""Models by their folder: round trips bit for bit, hashes, lineage, images of any size, and clear refusals."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.artifacts import store
from components.contract.api import Artifact
from tests.support import tiny_artifacts
from tests.support.tiny import assert_equal_bits, pixels, prior_network, tokenizer_network
from vim_core.data.images import center_crop, encode_png, to_tensor
from vim_core.errors import DataError, LineageError
from vim_core.pretrained import PUBLISHED, Prior, Tokenizer
from vim_core.sampling.logits import SamplingSettings
from vim_core.sampling.sampler import Sampler


def saved(folder: Path, **fields: Any) -> Tokenizer:
    made = Tokenizer(tokenizer_network(**fields), lineage={"digest": "d" * 64, "encoder": "e" * 64})
    made.save_pretrained(folder)
    return made


def test_a_tokenizer_comes_back_bit_for_bit(tmp_path: Path) -> None:
    made = saved(tmp_path / "m")
    found = Tokenizer.from_pretrained(tmp_path / "m")
    assert_equal_bits(made.model.state_dict(), found.model.state_dict())
    assert found.model.config == made.model.config
    assert (found.digest, found.lineage) == ("d" * 64, made.lineage)
    images = torch.rand(7, 3, 8, 8)
    codes = made.encode(images)
    assert torch.equal(found.encode(images), codes)
    assert torch.equal(found.decode(codes), made.decode(codes))
    found.save_pretrained(tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "m" / name).read_bytes()


def test_a_prior_comes_back_bit_for_bit_and_samples_alike(tmp_path: Path) -> None:
    made = Prior(prior_network(), {"digest": "p" * 64})
    made.save_pretrained(tmp_path)
    found = Prior.from_pretrained(tmp_path)
    assert_equal_bits(made.model.state_dict(), found.model.state_dict())
    assert found.shape == made.shape
    settings = SamplingSettings(seed=3)
    expected = Sampler(made.model, settings, 2).group(0, torch.tensor([0, 2]))
    assert torch.equal(found.sample([0, 2], settings), expected)
    with pytest.raises(DataError, match="labels 0 to 3: the prior has classes 0 to 2"):
        found.sample([0, 3])


def committed(artifact: Artifact) -> Artifact:
    """The artifact with its manifest on the disk."""
    Path(artifact.folder, store.MANIFEST).write_bytes(store.dump(artifact.manifest))
    return artifact


def test_artifacts_are_read_by_their_manifest(tmp_path: Path) -> None:
    tokenizer = committed(tiny_artifacts.tokenizer(tmp_path))
    prior = committed(tiny_artifacts.prior(tmp_path, tokenizer))
    found = Tokenizer.from_pretrained(tokenizer.folder)
    assert found.digest == tokenizer.digest
    Prior.from_pretrained(prior.folder).check(found)
    with pytest.raises(DataError, match="is an artifact of prior, expected one of quantize"):
        Tokenizer.from_pretrained(prior.folder)


def test_a_prior_takes_its_own_tokenizer_or_one_with_the_same_encoder(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path)
    Prior(prior_network(tokenizer="d" * 64)).check(tokenizer)
    Prior(prior_network(tokenizer="x" * 64), {"encoder": "e" * 64}).check(tokenizer)
    for lineage in ({}, {"encoder": "f" * 64}):
        with pytest.raises(LineageError, match="trained with tokenizer xxxxxxxxxxxx, this one is dddddddddddd"):
            Prior(prior_network(tokenizer="x" * 64), lineage).check(tokenizer)


@pytest.mark.parametrize("form", ["artifact", "exported"])
def test_weights_with_another_hash_are_refused(tmp_path: Path, form: str) -> None:
    if form == "artifact":
        artifact = committed(tiny_artifacts.tokenizer(tmp_path))
        folder, weights = Path(artifact.folder), Path(artifact.uri("model.safetensors"))
    else:
        saved(tmp_path)
        folder, weights = tmp_path, tmp_path / "model.safetensors"
    right = hashlib.sha256(weights.read_bytes()).hexdigest()
    Tokenizer.from_pretrained(folder, sha256=right[:12])
    with pytest.raises(DataError, match=r"sha256 is .*was asked for 00000000"):
        Tokenizer.from_pretrained(folder, sha256="00000000")
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(DataError, match=r"model\.safetensors: sha256 is .* says .*it was changed"):
        Tokenizer.from_pretrained(folder)


def test_weights_of_another_shape_and_missing_files_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    other = tokenizer_network(patch=2).config
    record = json.loads((tmp_path / "config.json").read_text())
    record["quantize"]["patch"] = other.patch
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="does not fit ViTVQGAN"):
        Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(DataError, match="describes a 'vit_vqgan' model, expected 'image_prior'"):
        Prior.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(DataError, match=r"neither manifest\.json nor config\.json lies there"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_config_saved_before_a_setting_joined_means_its_default(tmp_path: Path) -> None:
    made = saved(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["quantize"].pop("tanh") == "head"
    assert set(record) == {"kind", "quantize", PUBLISHED}
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert Tokenizer.from_pretrained(tmp_path).model.config == made.model.config
    del record["quantize"]["patch"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"config\.json: missing quantize\.patch"):
        Tokenizer.from_pretrained(tmp_path)


def test_images_of_any_size_go_in_and_come_out_as_png(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path / "m")
    sizes = [(8, 8), (30, 17), (5, 40)]
    shown = [np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8) for i, size in enumerate(sizes)]
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, picture in zip(files, shown, strict=True):
        file.write_bytes(encode_png(picture))
    images = tokenizer.read(*files)
    assert torch.equal(images, torch.stack([to_tensor(center_crop(picture, 8)) for picture in shown]))
    tokenizer.write(images, *(tmp_path / f"{i}-again.png" for i in range(3)))
    assert torch.equal(tokenizer.read(*(tmp_path / f"{i}-again.png" for i in range(3))), images)
    assert tokenizer.read().shape == (0, 3, 8, 8)


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path / "m")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(encode_png(pixels(1, 32)[0])[:200])
    with pytest.raises(DataError, match=r"text\.png: not an image"):
        tokenizer.read(tmp_path / "text.png")
    with pytest.raises(DataError, match=r"cut\.png: damaged image"):
        tokenizer.read(tmp_path / "cut.png")
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        tokenizer.read(tmp_path / "none.png")
    with pytest.raises(DataError, match=r"m: is a folder"):
        tokenizer.read(tmp_path / "m")


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda t, p: t.write(torch.rand(4, 3, 8, 8), "a.png"), "4 images and 1 file names"),
        (lambda t, p: t.write(torch.rand(3, 8, 8), "a.png"), r"images: \[3, 8, 8\], expected \[N, 3, H, W\]"),
        (lambda t, p: t.encode(torch.rand(3, 8, 8)), r"images: \[3, 8, 8\], expected \[N, 3, 8, 8\]"),
        (lambda t, p: t.encode("cat.jpg"), r"images: a str, expected a torch.Tensor \[N, 3, 8, 8\]"),
        (lambda t, p: t.encode(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)), "divide 8-bit values by 255"),
        (lambda t, p: t.encode(torch.full((1, 3, 8, 8), -0.5)), r"values from -0.5 to -0.5, expected \[0, 1\]"),
        (lambda t, p: t.encode(torch.full((1, 3, 8, 8), torch.nan)), r"values from nan to nan, expected \[0, 1\]"),
        (lambda t, p: t.decode(torch.zeros(4, dtype=torch.int64)), r"codes: \[4\], expected \[N, 4\]"),
        (lambda t, p: t.decode(torch.full((1, 4), 10_000)), "values from 10000 to 10000: the vocabulary has 0 to"),
        (lambda t, p: t.decode(torch.zeros(1, 4)), "codes: torch.float32, expected whole numbers"),
        (lambda t, p: p.sample([0, 1], prefix=torch.zeros(1, 2).long()), r"prefix: \[1, 2\], expected \[2, at most"),
        (lambda t, p: p.features(torch.zeros(1, 3, dtype=torch.int64), 0), r"codes: \[1, 3\], expected \[N, 6\]"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused_in_one_line(use: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        use(Tokenizer(tokenizer_network()), Prior(prior_network()))
    assert "\n" not in str(caught.value)


def test_samples_do_not_depend_on_how_many_are_asked_for_and_keep_their_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, labels = Prior(prior_network()), [0, 1, 2, 0, 1]
    whole = prior.sample(labels)
    prefix = (whole[:, :2] + 1) % prior.shape.vocabulary
    continued = prior.sample(labels, prefix=prefix)
    assert torch.equal(continued[:, :2], prefix)
    monkeypatch.setattr("vim_core.pretrained.LANES", 2)
    assert torch.equal(prior.sample(labels), whole)
    assert torch.equal(prior.sample(labels, prefix=prefix), continued)
    expected = [prior.model.features(whole, block).detach() for block in (0, 1)]
    for block, features in enumerate(expected):
        torch.testing.assert_close(prior.features(whole, block), features)
    assert prior.sample([]).shape == (0, prior.shape.tokens)
