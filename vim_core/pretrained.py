"""Trained models by the folder they lie in: a pipeline's artifact, or an exported model.

    from vim_core.pretrained import Tokenizer

    tokenizer = Tokenizer.from_pretrained("gs://bucket/models/tokenizer")
    image = tokenizer.read("cat.jpg")            # any size; its centre square, [1, 3, S, S]
    codes = tokenizer.encode(image)              # [1, T]
    tokenizer.write(tokenizer.decode(codes), "cat-again.png")

An exported model is a folder of `model.safetensors`, `config.json` and a model card. Its config says how its weights
hash and where it comes from; an artifact's manifest says both. Weights whose hash is another one are refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vim_core.config import QuantizeConfig
from vim_core.data.images import MAX_PIXELS, center_crop, decode, encode_png, from_tensor, to_tensor
from vim_core.errors import DataError, LineageError
from vim_core.models import prior as priors
from vim_core.models import vit_vqgan
from vim_core.sampling.logits import SamplingSettings
from vim_core.sampling.sampler import Sampler
from vim_core.storage import io
from vim_core.weights.saving import allocate_and_load, read_config, to_bytes

WEIGHTS, CONFIG, CARD, MANIFEST = "model.safetensors", "config.json", "README.md", "manifest.json"
PUBLISHED = "published"
"""Key of `config.json` under which an exported model says what it is."""


@dataclass(frozen=True)
class Origin:
    """Where a model's files lie, the weights' sha256 where it is known, and what is said of it.

    `lineage` holds digests by name: `digest` of the artifact; of what it was made with, such as `tokenizer` or
    `encoder`, the digests that artifacts record.
    """

    weights: str
    config: str
    sha256: str = ""
    lineage: dict[str, str] = field(default_factory=dict)


def locate(folder: str, component: str) -> Origin:
    """The files of a model. `component` is what makes such artifacts: `quantize` or `prior`.

    Raises:
        DataError: nothing lies there, or it is the artifact of another component.
    """
    place = io.join(folder, MANIFEST)
    if io.exists(place):
        return _of_artifact(folder, _json(place), component)
    for name in (WEIGHTS, CONFIG):
        if not io.exists(io.join(folder, name)):
            rule = f"neither {MANIFEST} nor {name} lies there; give the folder of an artifact or of an exported model"
            raise DataError(f"{folder}: {rule}")
    said = _json(io.join(folder, CONFIG)).get(PUBLISHED, {})
    return Origin(
        io.join(folder, WEIGHTS), io.join(folder, CONFIG), str(said.get("sha256", "")), dict(said.get("lineage", {}))
    )


def _of_artifact(folder: str, manifest: dict[str, Any], component: str) -> Origin:
    if manifest.get("component") != component:
        raise DataError(f"{folder}: is an artifact of {manifest.get('component')}, expected one of {component}")
    files = {entry["name"]: entry for entry in manifest["files"]}
    lineage = {"digest": str(manifest["digest"])}
    lineage |= {name: str(manifest["properties"][name]) for name in LINEAGE if name in manifest["properties"]}
    weights, config = (io.join(folder, files[name]["path"]) for name in (WEIGHTS, CONFIG))
    return Origin(weights, config, str(files[WEIGHTS]["sha256"]), lineage)


LINEAGE = ("images", "codes", "tokenizer", "encoder")
"""Digests that artifacts of tokenizers and priors record among their properties."""


def _json(uri: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(io.read_bytes(uri))
    except ValueError as error:
        raise DataError(f"{uri}: not JSON ({error})") from None
    return found


def _verify(origin: Origin, folder: str, wanted: str) -> str:
    """The weights' sha256. Raises `DataError` where it is not the one said, or asked for (maybe by its beginning)."""
    with io.local_copy(origin.weights) as path:
        found = io.checksum(path)[1]
    for expected, who in ((origin.sha256, f"{folder} says"), (wanted, "was asked for")):
        if expected and not found.startswith(expected):
            raise DataError(
                f"{origin.weights}: sha256 is {found[:16]}…, {who} {expected[:16]}…: it was changed or cut off"
            )
    return found


def config_bytes(config: bytes, sha256: str, lineage: dict[str, str]) -> bytes:
    """An exported model's `config.json`: the model's own, the weights' hash and the lineage."""
    record = {**json.loads(config), PUBLISHED: {"sha256": sha256, "lineage": lineage}}
    return json.dumps(record, indent=1, sort_keys=True).encode()


def _save(folder: str, weights: bytes, config: bytes, lineage: dict[str, str]) -> None:
    io.write_bytes(io.join(folder, WEIGHTS), weights)
    io.write_bytes(io.join(folder, CONFIG), config_bytes(config, hashlib.sha256(weights).hexdigest(), lineage))


class Tokenizer(vit_vqgan.Tokenizer):
    """A tokenizer with its origin: images in [0, 1] to codes and back, by the pipeline's own encode (contract 7).

    `lineage` is that of `Origin`, `digest` the artifact's, or that of the weights where there is no artifact.
    """

    def __init__(self, model: vit_vqgan.ViTVQGAN, device: str = "cpu", lineage: dict[str, str] | None = None) -> None:
        super().__init__(model, device)
        self.lineage = lineage or {}

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu", sha256: str = "") -> Tokenizer:
        """A tokenizer from its folder (path or URI), loaded strictly.

        Args:
            folder: of a quantize artifact or of an exported tokenizer.
            device: where it is to work.
            sha256: which weights it must be, or the first digits of that.

        Raises:
            DataError: there is none, its weights are not those said or asked for, or the files do not fit each other.
        """
        origin = locate(str(folder), "quantize")
        config = read_config(origin.config, "vit_vqgan", "quantize", QuantizeConfig)
        found = _verify(origin, str(folder), sha256)
        with torch.device("meta"):
            model = vit_vqgan.ViTVQGAN(config)
        allocate_and_load(model, origin.weights, device)
        return cls(model, device, {"digest": found} | origin.lineage)

    @property
    def digest(self) -> str:
        """What codes of this tokenizer are recorded under."""
        return self.lineage.get("digest", "")

    def read(self, *files: str | Path, max_pixels: int = MAX_PIXELS) -> Tensor:
        """Image files (paths or URIs, any size and format) as [N, 3, S, S] in [0, 1]: their centre squares.

        Raises:
            DataError: a file is missing or not a readable image.
        """
        pictures = []
        for file in map(str, files):
            try:
                pictures.append(to_tensor(center_crop(decode(io.read_bytes(file), max_pixels), self.image_size)))
            except FileNotFoundError:
                raise DataError(f"{file}: no such file") from None
            except IsADirectoryError:
                raise DataError(f"{file}: is a folder, expected an image") from None
            except DataError as error:
                raise DataError(f"{file}: {error}") from None
        return torch.stack(pictures) if pictures else torch.empty(0, 3, self.image_size, self.image_size)

    def write(self, images: Tensor, *files: str | Path) -> None:
        """Images [N, 3, H, W] in [0, 1] as PNG files. Raises `ValueError` unless there are N names."""
        for picture, file in zip(from_tensor(images), map(str, files), strict=True):
            io.write_bytes(file, encode_png(picture))

    def save_pretrained(self, folder: str | Path) -> None:
        """Weights and config for `from_pretrained`; `vimctl export` adds a model card."""
        _save(str(folder), to_bytes(self.model), vit_vqgan.model_config(self.model.config), self.lineage)


class Prior:
    """A prior with its origin; `model` is the network, in evaluation mode."""

    def __init__(self, model: priors.ImagePrior, lineage: dict[str, str] | None = None) -> None:
        self.model = model.eval()
        self.shape = model.shape
        self.lineage = lineage or {}

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu", sha256: str = "") -> Prior:
        """A prior from its folder (path or URI), loaded strictly; see `Tokenizer.from_pretrained`."""
        origin = locate(str(folder), "prior")
        found = _verify(origin, str(folder), sha256)
        return cls(priors.load_prior(origin.weights, origin.config, device), {"digest": found} | origin.lineage)

    def check(self, tokenizer: Tokenizer) -> None:
        """Raise `LineageError` unless the tokenizer makes the codes that this prior learned.

        It is the same one, or has the same encoder and codebook by both sides' word.
        """
        encoder = self.lineage.get("encoder")
        if self.shape.tokenizer == tokenizer.digest or (encoder and encoder == tokenizer.lineage.get("encoder")):
            return
        raise LineageError(
            f"the prior learned codes of tokenizer {self.shape.tokenizer[:12]}, this one is {tokenizer.digest[:12]}"
        )

    def sample(self, labels: list[int], settings: SamplingSettings | None = None) -> Tensor:
        """Codes [N, T] of one image for each label; an unconditional prior takes zeros.

        Raises:
            DataError: there is no such class.
        """
        classes = max(1, self.shape.classes)
        if labels and not 0 <= min(labels) <= max(labels) < classes:
            raise DataError(f"labels {min(labels)} to {max(labels)}: the prior has classes 0 to {classes - 1}")
        return Sampler(self.model, settings or SamplingSettings(), len(labels)).group(0, torch.tensor(labels))

    def save_pretrained(self, folder: str | Path) -> None:
        """Weights and config for `from_pretrained`."""
        _save(str(folder), to_bytes(self.model), priors.model_config(self.shape), self.lineage)
