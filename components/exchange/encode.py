"""One's own pictures through a tokenizer: to codes, to their reconstructions; and weights of others into our form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from vim_core.errors import ConfigError, DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.pretrained import Tokenizer

GAP = 4
"""White columns between a picture and its reconstruction."""


def encode(images: Sequence[str], place: str, out: str, device: str) -> Iterator[str]:
    """Codes of pictures, one JSON line each, or with `out` one code table of them all (keys are the addresses).

    Args:
        images: paths or URIs of pictures of any size; their centre squares count.
        place: folder of the tokenizer's artifact or export.
        out: where the table goes; '' for lines alone.
        device: where the tokenizer works.

    Raises:
        DataError: a picture or the tokenizer cannot be read.
        ConfigError: a picture is named twice.
    """
    import numpy as np

    from vim_core.data.code_files import CodeMeta, write_codes

    _refuse_doubles(images)
    tokenizer = _tokenizer(place, device)
    found = []
    for part in _batches(images, tokenizer.encode_batch):
        codes = tokenizer.encode(tokenizer.read(*part))
        found.append(codes.numpy())
        if not out:
            yield from (
                json.dumps({"image": name, "codes": row.tolist()}) for name, row in zip(part, codes, strict=True)
            )
    if out:
        meta = CodeMeta("own", tokenizer.grid, tokenizer.vocabulary, tokenizer.digest)
        nobody, plain = np.full(len(images), -1), np.zeros(len(images), dtype=np.int64)
        write_codes(out, list(images), nobody, plain, np.concatenate(found), meta)
        yield f"{out}: codes of {len(images)} pictures, {tokenizer.grid[0]} x {tokenizer.grid[1]} each"


def reconstruct(images: Sequence[str], place: str, out: str, beside: bool, device: str) -> Iterator[str]:
    """PNG files in the folder `out`, one for each picture, named after it; gives a line for each.

    Args:
        images: as in `encode`.
        place: as in `encode`.
        out: folder, path or URI.
        beside: put the picture as it went in on the left.
        device: where the tokenizer works.

    Raises:
        DataError: a picture or the tokenizer cannot be read.
        ConfigError: two pictures would have the same name.
    """
    import torch

    from vim_core.training.held_out_metrics import psnr_db

    names = [f"{PurePosixPath(image).stem}.png" for image in images]
    _refuse_doubles(names)
    tokenizer = _tokenizer(place, device)
    targets = dict(zip(images, (io.join(out, name) for name in names), strict=True))
    for part in _batches(images, tokenizer.encode_batch):
        given = tokenizer.read(*part)
        made = tokenizer.decode(tokenizer.encode(given))
        white = torch.ones(len(given), 3, given.shape[2], GAP)
        tokenizer.write(torch.cat([given, white, made], dim=3) if beside else made, *(targets[name] for name in part))
        quality = psnr_db(given, made).tolist()
        yield from (f"{targets[name]}: PSNR {value:.1f} dB" for name, value in zip(part, quality, strict=True))


def bring_in(checkpoint: str, out: str, head_dim: int = 0) -> str:
    """A stage-1 checkpoint of enhancing-transformers as an exported tokenizer in `out`; gives a line about it.

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
    side = f"{config.encoder.blocks} and {config.decoder.blocks} blocks"
    return (
        f"{out}: tokenizer of {config.image_size} x {config.image_size} pixels, {side}, {config.codebook.codes} codes"
    )


def _tokenizer(place: str, device: str) -> Tokenizer:
    import torch

    from vim_core.pretrained import Tokenizer

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no GPU here; leave it out to work on the CPU")
    return Tokenizer.from_pretrained(place, device)


def _refuse_doubles(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{twice[0]}: comes twice among the pictures; name each once, or go folder by folder")


def _batches(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    if not names:
        raise DataError("no pictures were named")
    yield from (names[start : start + size] for start in range(0, len(names), size))
