"""Train the ViT-VQGAN tokenizer on an image table (stage 1)."""

from __future__ import annotations

from components.artifacts import store
from components.contract import fingerprint
from components.contract.api import Context, Inputs, Outcome
from vim_core.config import QuantizeConfig
from vim_core.errors import ConfigError, DataError
from vim_core.storage import io

VERSION = 2
INPUTS = {"images": "ingest"}
WEIGHTS, SETTINGS = "model.safetensors", "config.json"


def source_state(config: QuantizeConfig) -> str:
    """Return the digest of the tokenizer that training starts from: part of the fingerprint, whatever its address.

    The hash of a backbone that is not torchvision's comes after it.

    Raises:
        DataError: `quantize.init_from` holds no tokenizer.
        ConfigError: it is the artifact of another component.
    """
    digest = _files_digest(_pretrained_files(config.init_from)) if config.init_from else ""
    return f"{digest} {sha256}" if (sha256 := config.loss.perceptual_sha256) else digest


def run(config: QuantizeConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Weights `model.safetensors`, settings `config.json`, curves and pictures of held-out reconstructions.

    Raises:
        VimError: the training failed; the message is the worker's reason.
    """
    from components.artifacts.execute import find
    from components.training.driver import train
    from vim_core.tasks.quantizer import QuantizerData
    from vim_core.tasks.warm_start import PretrainedTokenizer, encoder_digest

    images = inputs["images"]
    pretrained = None
    if config.init_from:
        files = _pretrained_files(config.init_from)
        pretrained = PretrainedTokenizer(*files[WEIGHTS], *files[SETTINGS], _files_digest(files))
    # The preset's classifier, if it exists; only curves use it, so it is not an input.
    found = find("classify", ctx.pipeline, {"ingest": images}) if "classify" in ctx.pipeline.components else None
    classifier = (found.uri(WEIGHTS), found.uri(SETTINGS)) if found is not None else None
    data = QuantizerData(images.uris("images/train-"), images.uris("images/test-"), pretrained, classifier)
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
    if pretrained is not None:
        # With `frozen`, codes are the other tokenizer's, bit for bit.
        outcome.properties["started_from"] = {
            "tokenizer": pretrained.digest,
            "decoder": config.init_decoder == "load",
            "frozen": config.freeze_encoder,
        }
    return outcome


def _pretrained_files(folder: str) -> dict[str, tuple[str, str]]:
    """URI and sha256 of the tokenizer's two files: an artifact's by its manifest, else those in the folder."""
    setting = f"quantize.init_from={folder!r}"
    # Absolute where it is local: workers may run in another folder.
    folder = io.absolute(folder)
    artifact = store.read(folder)
    if artifact is not None:
        if artifact.manifest.component != "quantize":
            raise ConfigError(f"{setting}: is an artifact of {artifact.manifest.component}, not of quantize")
        hashes = {entry.name: entry.sha256 for entry in artifact.manifest.files}
        return {name: (artifact.uri(name), hashes[name]) for name in (WEIGHTS, SETTINGS)}
    files = {}
    for name in (WEIGHTS, SETTINGS):
        uri = io.join(folder, name)
        try:
            files[name] = (uri, io.checksum(uri)[1])
        except FileNotFoundError:
            rule = f"neither {store.MANIFEST} nor {name} lies there; give the folder of a quantize artifact"
            raise DataError(f"{setting}: {rule}") from None
    return files


def _files_digest(files: dict[str, tuple[str, str]]) -> str:
    """The digest that a quantize artifact of these two files has."""
    return fingerprint.merkle((name, sha256) for name, (_, sha256) in files.items())
