"""Trained models loaded from a folder: a pipeline's artifact or an exported model.

    from vim_core.pretrained import Tokenizer

    tokenizer = Tokenizer.from_pretrained("gs://bucket/models/tokenizer")
    image = tokenizer.read("cat.jpg")            # any size; its centre square, [1, 3, S, S]
    codes = tokenizer.encode(image)              # [1, T]
    tokenizer.write(tokenizer.decode(codes), "cat-again.png")

An exported model is a folder of `model.safetensors`, `config.json` and a model card. Its config records the weights'
sha256 and the lineage; an artifact's manifest has both. Weights with another hash are refused.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vim_core.data.images import MAX_PIXELS, center_crop, decode, encode_png, from_tensor, to_tensor
from vim_core.errors import DataError, LineageError
from vim_core.models import prior as priors
from vim_core.models import vit_vqgan
from vim_core.sampling.logits import SamplingSettings
from vim_core.sampling.sampler import Sampler
from vim_core.storage import io
from vim_core.weights.saving import to_bytes

WEIGHTS, CONFIG, CARD, MANIFEST = "model.safetensors", "config.json", "README.md", "manifest.json"
PUBLISHED = "published"
"""Key of `config.json` for the weights' hash and the lineage of an exported model."""
LANES = 64
"""Most images that a prior samples or describes at once."""
RESOLVER = "components.artifacts.resolve"
"""Module whose `model_folder` finds artifacts by name; loaded by name, because it lies in a layer above."""
LINEAGE = ("images", "codes", "tokenizer", "encoder")
"""Digests that artifacts of tokenizers and priors record among their properties."""


@dataclass(frozen=True)
class Origin:
    """Addresses of a model's files, the recorded sha256 of the weights ('' where there is none), and its lineage.

    `lineage` holds digests by name: `digest` of the artifact, and those of its inputs that artifacts record, such as
    `tokenizer` or `encoder`.
    """

    weights: str
    config: str
    sha256: str = ""
    lineage: dict[str, str] = field(default_factory=dict)


def locate(folder: str, component: str) -> Origin:
    """The files of a model that `component` (`quantize` or `prior`) makes.

    `folder` is its path or URI; or, as everywhere in VIM, `quantize/f2b778b8`, a unique prefix, `quantize` where the
    root (`VIM_ROOT`, else `artifacts`) has one, or `models:/NAME/VERSION` of MLflow's registry.

    Raises:
        DataError: there is no model, or it is the artifact of another component.
    """
    if not any(io.exists(io.join(folder, name)) for name in (MANIFEST, WEIGHTS, CONFIG)):
        folder = _resolve(folder, component)
    if io.exists(io.join(folder, MANIFEST)):
        manifest = _read_json(io.join(folder, MANIFEST))
        if manifest.get("component") != component:
            raise DataError(f"{folder}: is an artifact of {manifest.get('component')}, expected one of {component}")
        files = {entry["name"]: entry for entry in manifest["files"]}
        lineage = {"digest": str(manifest["digest"])}
        lineage |= {name: str(manifest["properties"][name]) for name in LINEAGE if name in manifest["properties"]}
        weights, config = (io.join(folder, files[name]["path"]) for name in (WEIGHTS, CONFIG))
        return Origin(weights, config, str(files[WEIGHTS]["sha256"]), lineage)
    for name in (WEIGHTS, CONFIG):
        if not io.exists(io.join(folder, name)):
            rule = f"neither {MANIFEST} nor {name} lies there; give the folder of an artifact or of an exported model"
            raise DataError(f"{folder}: {rule}")
    weights, config = io.join(folder, WEIGHTS), io.join(folder, CONFIG)
    record = _read_json(config).get(PUBLISHED, {})
    return Origin(weights, config, str(record.get("sha256", "")), dict(record.get("lineage", {})))


def _resolve(name: str, component: str) -> str:
    """The folder of a model by another name than its folder. Raises `DataError` where there is none."""
    try:
        resolver = importlib.import_module(RESOLVER)
    except ModuleNotFoundError:
        rule = "no model lies there, and other names than folders need VIM's package `components`, which is missing"
        raise DataError(f"{name}: {rule}") from None
    return str(resolver.model_folder(name, component))


def _read_json(uri: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(io.read_bytes(uri))
    except ValueError as error:
        raise DataError(f"{uri}: not JSON ({error})") from None
    return record


def _verify(origin: Origin, folder: str, required: str) -> str:
    """The weights' sha256. Raises `DataError` unless it is the recorded one and begins with `required`."""
    with io.local_copy(origin.weights) as path:
        sha256 = io.checksum(path)[1]
    for expected, who in ((origin.sha256, f"{folder} says"), (required, "was asked for")):
        if expected and not sha256.startswith(expected):
            raise DataError(
                f"{origin.weights}: sha256 is {sha256[:16]}…, {who} {expected[:16]}…: it was changed or cut off"
            )
    return sha256


def config_bytes(config: bytes, sha256: str, lineage: dict[str, str]) -> bytes:
    """`config.json` of an exported model: the model's config with the weights' hash and the lineage."""
    record = {**json.loads(config), PUBLISHED: {"sha256": sha256, "lineage": lineage}}
    return json.dumps(record, indent=1, sort_keys=True).encode()


def _save(folder: str, weights: bytes, config: bytes, lineage: dict[str, str]) -> None:
    io.write_bytes(io.join(folder, WEIGHTS), weights)
    io.write_bytes(io.join(folder, CONFIG), config_bytes(config, hashlib.sha256(weights).hexdigest(), lineage))


class Tokenizer(vit_vqgan.Tokenizer):
    """A tokenizer with its lineage: images in [0, 1] to codes and back, by the pipeline's own encode (contract 7).

    `lineage` is that of `Origin`; `digest` is the artifact's, or the weights' sha256 where there is no artifact.
    """

    def __init__(self, model: vit_vqgan.ViTVQGAN, device: str = "cpu", lineage: dict[str, str] | None = None) -> None:
        super().__init__(model, device)
        self.lineage = lineage or {}

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu", sha256: str = "") -> Tokenizer:
        """A tokenizer from its folder (path or URI) or by another name of it, see `locate`, loaded strictly.

        Args:
            folder: of a quantize artifact or of an exported tokenizer, or its name.
            device: of the network.
            sha256: of the weights, or its first digits; '' for any.

        Raises:
            DataError: there is no tokenizer, its weights have another hash, or the files do not fit each other.
        """
        origin = locate(str(folder), "quantize")
        digest = _verify(origin, str(folder), sha256)
        model = vit_vqgan.load_network(origin.weights, origin.config, device)
        return cls(model, device, {"digest": digest} | origin.lineage)

    @property
    def digest(self) -> str:
        """The digest that code tables of this tokenizer record."""
        return self.lineage.get("digest", "")

    def read(self, *files: str | Path, max_pixels: int = MAX_PIXELS) -> Tensor:
        """Image files (paths or URIs, any size and format) as [N, 3, S, S] in [0, 1]: their centre squares.

        Raises:
            DataError: a file is missing or not a readable image.
        """
        pictures = []
        for file in map(str, files):
            try:
                pictures.append(to_tensor(center_crop(decode(io.read_input(file), max_pixels), self.image_size)))
            except FileNotFoundError:
                raise DataError(f"{file}: no such file") from None
            except IsADirectoryError:
                raise DataError(f"{file}: is a folder, expected an image") from None
            except OSError as error:
                raise DataError(f"{file}: cannot be read ({error.strerror or type(error).__name__})") from error
            except DataError as error:
                raise DataError(f"{file}: {error}") from None
        return torch.stack(pictures) if pictures else torch.empty(0, 3, self.image_size, self.image_size)

    def encode(self, images: Tensor) -> Tensor:
        """Images [N, 3, S, S] in [0, 1] to codes int64 [N, T] on the CPU.

        Raises:
            DataError: not such images: another type, shape or range.
        """
        side, rule = self.image_size, "`Tokenizer.read` makes such images of files"
        _check_shape("images", images, f"N 3 {side} {side}", rule)
        if not images.is_floating_point():
            raise DataError(f"images: {images.dtype}, expected floating point in [0, 1]: divide 8-bit values by 255")
        low, high = (float(images.min()), float(images.max())) if images.numel() else (0.0, 1.0)
        if not (low >= 0 and high <= 1):  # also where a value is not a number
            raise DataError(f"images: values from {low:.4g} to {high:.4g}, expected [0, 1]; {rule}")
        return super().encode(images)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [N, T] to images [N, 3, S, S] in [0, 1] on the CPU.

        Raises:
            DataError: not such codes: another type, shape or range.
        """
        _check_codes("codes", codes, self.grid[0] * self.grid[1], self.vocabulary)
        return super().decode(codes)

    def write(self, images: Tensor, *files: str | Path) -> None:
        """Images [N, 3, H, W] in [0, 1] as N PNG files.

        Raises:
            DataError: the number of names is not N, the images have another shape, or a value is not finite.
        """
        _check_shape("images", images, "N 3 H W", "index one image as images[:1]")
        if len(images) != len(files):
            raise DataError(f"{len(images)} images and {len(files)} file names: give one name for each image")
        for picture, file in zip(from_tensor(images), map(str, files), strict=True):
            io.write_bytes(file, encode_png(picture))

    def save_pretrained(self, folder: str | Path) -> None:
        """Weights and config for `from_pretrained`; `vimctl export` adds a model card."""
        _save(str(folder), to_bytes(self.model), vit_vqgan.model_config(self.model.config), self.lineage)


class Prior:
    """A prior with its lineage; `model` is the network, in evaluation mode."""

    def __init__(self, model: priors.ImagePrior, lineage: dict[str, str] | None = None) -> None:
        self.model = model.eval()
        self.shape = model.shape
        self.lineage = lineage or {}

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu", sha256: str = "") -> Prior:
        """A prior from its folder (path or URI), loaded strictly; see `Tokenizer.from_pretrained`."""
        origin = locate(str(folder), "prior")
        digest = _verify(origin, str(folder), sha256)
        return cls(priors.load_prior(origin.weights, origin.config, device), {"digest": digest} | origin.lineage)

    def check(self, tokenizer: Tokenizer) -> None:
        """Raise `LineageError` unless the tokenizer makes the codes that this prior learned.

        It is the same one, or has the same encoder digest.
        """
        encoder = self.lineage.get("encoder")
        if self.shape.tokenizer == tokenizer.digest or (encoder and encoder == tokenizer.lineage.get("encoder")):
            return
        raise LineageError(
            f"the prior was trained with tokenizer {self.shape.tokenizer[:12]}, this one is {tokenizer.digest[:12]}"
        )

    def sample(
        self, labels: Sequence[int], settings: SamplingSettings | None = None, prefix: Tensor | None = None
    ) -> Tensor:
        """Codes [N, T] of one image for each label; an unconditional prior takes zeros.

        Args:
            labels: class of each image.
            settings: temperature, top-k, top-p, guidance, seed.
            prefix: the first codes [N, P] of each image in raster order, which are kept; the others are sampled.

        Raises:
            DataError: there is no such class, or the prefix does not fit.
            ConfigError: guidance for a prior without classes.
        """
        classes, count = max(1, self.shape.classes), len(labels)
        if count and not 0 <= min(labels) <= max(labels) < classes:
            raise DataError(f"labels {min(labels)} to {max(labels)}: the prior has classes 0 to {classes - 1}")
        if prefix is not None:
            _check_codes("prefix", prefix, None, self.shape.vocabulary)
            if len(prefix) != count or prefix.shape[1] > self.shape.tokens:
                limit = f"[{count}, at most {self.shape.tokens}]: a row for each label"
                raise DataError(f"prefix: {list(prefix.shape)}, expected {limit}")
        if not count:
            return torch.empty(0, self.shape.tokens, dtype=torch.int64)
        lanes = min(count, LANES)
        sampler = Sampler(self.model, settings or SamplingSettings(), lanes)
        groups = []
        for start in range(0, count, lanes):
            # The last group is filled up: its other lanes are drawn and left out.
            rows = [min(row, count - 1) for row in range(start, start + lanes)]
            chosen = torch.tensor([labels[row] for row in rows])
            groups.append(sampler.group(start // lanes, chosen, None if prefix is None else prefix[rows]))
        return torch.cat(groups)[:count]

    @torch.no_grad()
    def features(self, codes: Tensor, block: int) -> Tensor:
        """Mean-pooled output [N, D] of one block, counted from 0, of codes [N, T]: what the linear probe reads.

        Raises:
            DataError: not such codes: another type, shape or range.
            ConfigError: there is no such block.
        """
        _check_codes("codes", codes, self.shape.tokens, self.shape.vocabulary)
        parts = [self.model.features(part.long().to(self.model.device), block).cpu() for part in codes.split(LANES)]
        return torch.cat(parts)

    def save_pretrained(self, folder: str | Path) -> None:
        """Weights and config for `from_pretrained`."""
        _save(str(folder), to_bytes(self.model), priors.model_config(self.shape), self.lineage)


def _check_shape(name: str, tensor: object, shape: str, remedy: str) -> None:
    """Raise `DataError` unless this is a tensor of this shape, such as 'N 3 32 32'; letters stand for any length."""
    axes = shape.split()
    wanted = f"[{', '.join(axes)}]"
    if not isinstance(tensor, Tensor):
        raise DataError(f"{name}: a {type(tensor).__name__}, expected a torch.Tensor {wanted}; {remedy}")
    fits = tensor.ndim == len(axes)
    if not fits or any(axis.isdigit() and int(axis) != size for axis, size in zip(axes, tensor.shape, strict=True)):
        raise DataError(f"{name}: {list(tensor.shape)}, expected {wanted}; {remedy}")


def _check_codes(name: str, codes: object, tokens: int | None, vocabulary: int) -> None:
    """Raise `DataError` unless these are codes [N, tokens] of the vocabulary."""
    _check_shape(name, codes, f"N {tokens or 'P'}", "a row for each image, codes in raster order")
    assert isinstance(codes, Tensor)
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise DataError(f"{name}: {codes.dtype}, expected whole numbers")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < vocabulary:
        low, high = int(codes.min()), int(codes.max())
        raise DataError(f"{name}: values from {low} to {high}: the vocabulary has 0 to {vocabulary - 1}")
