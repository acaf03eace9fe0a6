"""Files that the preset names: weights by hash, lists, images; a run needs all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.doctor.checks import Result, Target, fail, ok, warn
from vim_core.config import PipelineConfig
from vim_core.errors import StorageError
from vim_core.storage import io

MAX_LOCAL_BYTES, MAX_REMOTE_BYTES = 4 * 2**30, 128 * 2**20
"""Larger files are not hashed here, but when they are loaded."""
BUILT_IN = "builtin:"


@dataclass(frozen=True)
class InputFile:
    """A file that a setting names; its SHA-256 has to begin with `sha256` ('' for any), `name` describes it."""

    setting: str
    uri: str
    name: str = "the file"
    sha256: str = ""


def check_files(target: Target) -> list[Result]:
    """Check that every weight file and list is given, exists and has the expected hash."""
    config = target.config
    results = [_check_file(file) for file in input_files(config)]
    loss, wanted = config.quantize.loss, config.components
    if "quantize" in wanted and loss.perceptual > 0 and not loss.perceptual_weights:
        key, text = "quantize.loss.perceptual_weights", f"empty, and quantize.loss.perceptual={loss.perceptual}"
        if loss.perceptual_optional:
            results.append(warn(key, text, "trains without the perceptual loss, which perceptual_optional allows"))
        else:
            advice = "give torchvision's vgg16-397923af.pth, or quantize.loss.perceptual=0"
            results.append(fail(key, text, advice))
    if "statistics" in wanted and config.statistics.network != "classifier" and not config.statistics.weights:
        text = f"empty, and statistics.network={config.statistics.network}"
        results.append(fail("statistics.weights", text, "give the path or URI of the network's weights"))
    return results


def check_source(target: Target) -> list[Result]:
    """Check that `ingest.source` exists and is not empty."""
    if "ingest" not in target.config.components:
        return []
    uri = target.config.ingest.source
    if uri.startswith(BUILT_IN):
        return [ok("ingest.source", uri)]
    try:
        there = io.exists(uri)
        empty = there and io.is_local(uri) and io.local_path(uri).is_dir() and not io.list_names(uri)
    except (StorageError, OSError) as error:
        return [fail("ingest.source", f"{uri}: {error}", "")]
    if not there or empty:
        what = "is empty" if empty else "there is nothing"
        advice = "put the images there or set ingest.source=…; the preset's header says what it expects"
        return [fail("ingest.source", f"{uri}: {what}", advice)]
    if target.cluster and io.is_local(uri):
        advice = "every node has to see this folder under this name; a bucket is seen by all"
        return [warn("ingest.source", f"{uri} is a folder of this machine", advice)]
    return [ok("ingest.source", f"{uri} is there")]


def input_files(config: PipelineConfig) -> Iterator[InputFile]:
    """All files that the preset's components will read, in flow order."""
    wanted = config.components
    if "ingest" in wanted:
        for name in ("train_list", "test_list", "class_list", "val_labels"):
            if uri := getattr(config.ingest, name):
                yield InputFile(f"ingest.{name}", uri, "a list")
    if "statistics" in wanted:
        yield from _statistics_files(config)
    if "quantize" in wanted:
        yield from _quantize_files(config)
    if "select" in wanted and config.select.network.weights:
        network = config.select.network
        yield InputFile("select.network.weights", network.weights, f"the weights of {network.name}", network.sha256)
        if network.classes:
            yield InputFile("select.network.classes", network.classes, "the list of the network's classes")
    if "score" in wanted:
        yield from _score_files(config)


def _statistics_files(config: PipelineConfig) -> Iterator[InputFile]:
    own = config.statistics
    if own.network == "inception" and own.weights:
        from vim_core.features.inception import PUBLISHED

        yield InputFile("statistics.weights", own.weights, PUBLISHED.name, own.weights_sha256 or PUBLISHED.sha256)
    elif own.weights:
        yield InputFile("statistics.weights", own.weights, f"the weights of {own.network}", own.weights_sha256)
    if own.reference:
        yield InputFile("statistics.reference", own.reference, "published statistics", own.reference_sha256)


def _quantize_files(config: PipelineConfig) -> Iterator[InputFile]:
    own = config.quantize
    if own.loss.perceptual > 0 and own.loss.perceptual_weights:
        from vim_core.weights.saving import VGG16

        yield InputFile("quantize.loss.perceptual_weights", own.loss.perceptual_weights, VGG16.name, VGG16.sha256)
    if own.init_from and not io.exists(io.join(own.init_from, "manifest.json")):
        for name in ("model.safetensors", "config.json"):
            yield InputFile("quantize.init_from", io.join(own.init_from, name), f"{name} of a tokenizer")


def _score_files(config: PipelineConfig) -> Iterator[InputFile]:
    own = config.score
    if own.lpips and own.lpips_weights:
        from vim_core.weights.saving import VGG16

        yield InputFile("score.lpips_weights", own.lpips_weights, VGG16.name, own.lpips_sha256 or VGG16.sha256)
    if own.samples_from:
        yield InputFile("score.samples_from", own.samples_from, "images to score")


def _check_file(file: InputFile) -> Result:
    digits = f" with a sha256 that begins with {file.sha256}" if file.sha256 else ""
    wanted = f"it should be {file.name}{digits}"
    try:
        if not io.exists(file.uri):
            return fail(file.setting, f"{file.uri}: no such file", f"{wanted}; download it, or set {file.setting}=…")
        if not file.sha256:
            return ok(file.setting, f"{file.uri} is there")
        fs, path = io.filesystem(file.uri)
        if int(fs.info(path)["size"]) > (MAX_LOCAL_BYTES if io.is_local(file.uri) else MAX_REMOTE_BYTES):
            return ok(file.setting, f"{file.uri} is there; its hash is checked when it is loaded, it is large")
        digest = io.checksum(file.uri)[1]
    except (StorageError, OSError) as error:
        return fail(file.setting, f"{file.uri}: {error}", wanted)
    if not digest.startswith(file.sha256):
        return fail(file.setting, f"{file.uri}: sha256 is {digest[:16]}…", wanted)
    return ok(file.setting, f"{file.uri} is {file.name}, sha256 {digest[:8]}…")
