"""Train the ViT-VQGAN tokenizer on an image table (stage 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.artifacts import store
from components.contract import fingerprint
from components.contract.api import Artifact, Context, Inputs, Outcome
from vim_core.config import QuantizeConfig
from vim_core.errors import ConfigError, DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.tasks.warm_start import PretrainedTokenizer

VERSION = 1
INPUTS = {"images": "ingest"}
WEIGHTS, SETTINGS = "model.safetensors", "config.json"


def source_state(config: QuantizeConfig) -> str:
    """Digest of the tokenizer that training starts from: part of the fingerprint, wherever that tokenizer lies.

    Raises:
        DataError: `quantize.init_from` holds no tokenizer.
        ConfigError: it is the artifact of another component.
    """
    return _digest(_files(config.init_from)) if config.init_from else ""


def run(config: QuantizeConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Weights `model.safetensors`, settings `config.json`, curves and pictures of held-out reconstructions.

    Raises:
        VimError: the training failed; the message is the worker's reason.
    """
    from components.training.driver import train
    from vim_core.models.identity import encoder_digest
    from vim_core.tasks.quantizer import QuantizerData

    images = inputs["images"]
    source, classifier = _source(config), _classifier(images, ctx)
    data = QuantizerData(images.uris("images/train-"), images.uris("images/test-"), source, classifier)
    outcome = train("vim_core.tasks.quantizer:QuantizerTask", config, data, ctx)
    grid = config.image_size // config.patch
    outcome.properties |= {
        "images": images.digest,
        "image_size": config.image_size,
        "grid": [grid, grid],
        "vocabulary": config.codebook.codes,
        "encode": {"dtype": "fp32", "mode": "eager", "batch": config.encode_batch},
        "perceptual": config.loss.perceptual > 0 and bool(config.loss.perceptual_weights),
        "encoder": encoder_digest(ctx.path(WEIGHTS), ctx.path(SETTINGS)),
    }
    if source is not None:
        outcome.properties["started_from"] = _lineage(config, source)
    return outcome


def _lineage(config: QuantizeConfig, source: PretrainedTokenizer) -> dict[str, Any]:
    """What was taken over from another tokenizer; with `frozen`, codes are that one's, bit for bit."""
    return {
        "tokenizer": source.digest,
        "decoder": config.init_decoder == "load",
        "frozen": config.freeze_encoder,
    }


def _source(config: QuantizeConfig) -> PretrainedTokenizer | None:
    from vim_core.tasks.warm_start import PretrainedTokenizer

    if not config.init_from:
        return None
    files = _files(config.init_from)
    weights, settings = files[WEIGHTS], files[SETTINGS]
    return PretrainedTokenizer(weights[0], weights[1], settings[0], settings[1], _digest(files))


def _digest(files: dict[str, tuple[str, str]]) -> str:
    """The digest that a quantize artifact of these two files has."""
    return fingerprint.merkle((name, sha256) for name, (_, sha256) in files.items())


def _files(folder: str) -> dict[str, tuple[str, str]]:
    """Address and sha256 of the tokenizer's two files: an artifact's by its manifest, else those in the folder."""
    place = f"quantize.init_from={folder!r}"
    # Absolute where it is local: workers may run in another folder.
    folder = io.absolute(folder)
    artifact = store.read(folder)
    if artifact is not None:
        if artifact.manifest.component != "quantize":
            raise ConfigError(f"{place}: is an artifact of {artifact.manifest.component}, not of quantize")
        hashes = {entry.name: entry.sha256 for entry in artifact.manifest.files}
        return {name: (artifact.uri(name), hashes[name]) for name in (WEIGHTS, SETTINGS)}
    found = {}
    for name in (WEIGHTS, SETTINGS):
        uri = io.join(folder, name)
        try:
            found[name] = (uri, io.checksum(uri)[1])
        except FileNotFoundError:
            rule = f"neither {store.MANIFEST} nor {name} lies there; give the folder of a quantize artifact"
            raise DataError(f"{place}: {rule}") from None
    return found


def _classifier(images: Artifact, ctx: Context) -> tuple[str, str] | None:
    """Weights and config of the preset's classifier, if it has been made; curves alone use it, so it is no input."""
    from components.artifacts.execute import find

    if "classify" not in ctx.pipeline.components:
        return None
    found = find("classify", ctx.pipeline, {"ingest": images})
    return (found.uri("model.safetensors"), found.uri("config.json")) if found is not None else None
