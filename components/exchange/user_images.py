"""Encode and reconstruct a user's own images with a tokenizer; import other projects' tokenizer weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from vim_core.errors import ConfigError, DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.pretrained import Tokenizer

MAX_PIXELS = 100_000_000
GAP = 4
"""White columns between a picture and its reconstruction."""


def encode_images(
    images: Sequence[str], tokenizer: str, out: str, device: str, max_pixels: int = MAX_PIXELS
) -> Iterator[str]:
    """Return the codes of pictures, one JSON line each, or with `out` write one code table (keys are the addresses).

    Args:
        images: paths or URIs of pictures of any size; their centre squares count.
        tokenizer: folder of the tokenizer's artifact or export.
        out: URI of the table; '' for lines alone.
        device: the tokenizer's device.
        max_pixels: larger pictures are refused.

    Raises:
        DataError: a picture or the tokenizer cannot be read.
        ConfigError: a picture is named twice.
    """
    import numpy as np

    from vim_core.data.code_files import CodeMeta, write_codes

    _refuse_duplicates(images)
    model = _load_tokenizer(tokenizer, device)
    tables = []
    for batch in _batches(images, model.encode_batch):
        codes = model.encode(model.read(*batch, max_pixels=max_pixels))  # [b, T]
        tables.append(codes.numpy())
        if not out:
            yield from (
                json.dumps({"image": name, "codes": row.tolist()}) for name, row in zip(batch, codes, strict=True)
            )
    if out:
        meta = CodeMeta("own", model.grid, model.vocabulary, model.digest)
        labels, views = np.full(len(images), -1), np.zeros(len(images), dtype=np.int64)
        write_codes(out, list(images), labels, views, np.concatenate(tables), meta)
        yield f"{out}: codes of {len(images)} pictures, {model.grid[0]} x {model.grid[1]} each"


def reconstruct_images(
    images: Sequence[str], tokenizer: str, out: str, beside: bool, device: str, max_pixels: int = MAX_PIXELS
) -> Iterator[str]:
    """Write a PNG file into `out` for each picture, named after it; returns a line of text for each.

    Args:
        images, tokenizer, device, max_pixels: as in `encode_images`.
        out: folder, path or URI.
        beside: put the original on the left.

    Raises:
        DataError: a picture or the tokenizer cannot be read.
        ConfigError: two pictures would have the same name.
    """
    import torch

    from vim_core.training.held_out_metrics import psnr_db

    names = [f"{PurePosixPath(image).stem}.png" for image in images]
    _refuse_duplicates(names)
    model = _load_tokenizer(tokenizer, device)
    targets = dict(zip(images, (io.join(out, name) for name in names), strict=True))
    for batch in _batches(images, model.encode_batch):
        originals = model.read(*batch, max_pixels=max_pixels)  # [b, 3, H, W]
        decoded = model.decode(model.encode(originals))
        white = torch.ones(len(originals), 3, originals.shape[2], GAP)
        pictures = torch.cat([originals, white, decoded], dim=3) if beside else decoded
        model.write(pictures, *(targets[name] for name in batch))
        quality = psnr_db(originals, decoded).tolist()
        yield from (f"{targets[name]}: PSNR {value:.1f} dB" for name, value in zip(batch, quality, strict=True))


def import_tokenizer(checkpoint: str, out: str, head_dim: int = 0) -> str:
    """Convert a stage-1 checkpoint of enhancing-transformers to an exported tokenizer in `out`; gives a line about it.

    Args:
        checkpoint: path or URI of the file.
        out: folder, path or URI.
        head_dim: width of an attention head; 0 for theirs.

    Raises:
        DataError: the file is missing or of another layout.
    """
    from vim_core import pretrained
    from vim_core.weights.enhancing_transformers import HEAD_DIM, load_enhancing

    model = load_enhancing(checkpoint, head_dim or HEAD_DIM)
    pretrained.Tokenizer(model).save_pretrained(out)
    config = model.config
    blocks = f"{config.encoder.blocks} and {config.decoder.blocks} blocks"
    return (
        f"{out}: tokenizer of {config.image_size} x {config.image_size} pixels, {blocks}, {config.codebook.codes} codes"
    )


def _load_tokenizer(folder: str, device: str) -> Tokenizer:
    import torch

    from vim_core.pretrained import Tokenizer

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no GPU here; leave it out to work on the CPU")
    return Tokenizer.from_pretrained(folder, device)


def _refuse_duplicates(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{twice[0]}: is the name of two pictures; name each once, or process folder by folder")


def _batches(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    if not names:
        raise DataError("no pictures were named")
    yield from (names[start : start + size] for start in range(0, len(names), size))
