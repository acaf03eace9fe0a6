"""Files that the preset names: weights by hash, lists, images; each has to be there before a run is begun."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.doctor.findings import Finding, Subject, fail, ok, warn
from vim_core.config import PipelineConfig
from vim_core.errors import StorageError
from vim_core.storage import io

LOCAL_MOST, REMOTE_MOST = 4 * 2**30, 128 * 2**20
"""Larger files are not read through to hash them here, but when they are loaded."""
BUILT_IN = "builtin:"


@dataclass(frozen=True)
class Named:
    """A file that a setting names; `sha256` is how its hash has to begin ('' for any), `name` what it is known as."""

    setting: str
    uri: str
    name: str = "the file"
    sha256: str = ""


def files(subject: Subject) -> list[Finding]:
    """Whether every weight file and list is there and is the one that is meant."""
    found = [_looked_at(each) for each in named(subject.config)]
    return found + _missing(subject.config)


def source(subject: Subject) -> list[Finding]:
    """Whether there is something to read at `ingest.source`."""
    if "ingest" not in subject.config.components:
        return []
    place = subject.config.ingest.source
    if place.startswith(BUILT_IN):
        return [ok("ingest.source", place)]
    try:
        there = io.exists(place)
        empty = there and io.is_local(place) and io.local_path(place).is_dir() and not io.list_names(place)
    except (StorageError, OSError) as error:
        return [fail("ingest.source", f"{place}: {error}", "")]
    if not there or empty:
        what = "is empty" if empty else "there is nothing"
        advice = "put the images there or set ingest.source=…; the preset's header says what it expects"
        return [fail("ingest.source", f"{place}: {what}", advice)]
    if subject.cluster and io.is_local(place):
        advice = "every node has to see this folder under this name; a bucket is seen by all"
        return [warn("ingest.source", f"{place} is a folder of this machine", advice)]
    return [ok("ingest.source", f"{place} is there")]


def named(config: PipelineConfig) -> Iterator[Named]:
    """All files that the preset's components will read, in flow order."""
    wanted = config.components
    if "ingest" in wanted:
        for name in ("train_list", "test_list", "class_list", "val_labels"):
            if uri := getattr(config.ingest, name):
                yield Named(f"ingest.{name}", uri, "a list")
    if "statistics" in wanted:
        yield from _of_statistics(config)
    if "quantize" in wanted:
        yield from _of_quantize(config)
    if "select" in wanted and config.select.network.weights:
        network = config.select.network
        yield Named("select.network.weights", network.weights, f"the weights of {network.name}", network.sha256)
        if network.classes:
            yield Named("select.network.classes", network.classes, "the list of the network's classes")
    if "score" in wanted:
        yield from _of_score(config)


def _of_statistics(config: PipelineConfig) -> Iterator[Named]:
    own = config.statistics
    if own.network == "inception" and own.weights:
        from vim_core.features.inception import PUBLISHED

        yield Named("statistics.weights", own.weights, PUBLISHED.name, own.weights_sha256 or PUBLISHED.sha256)
    elif own.weights:
        yield Named("statistics.weights", own.weights, f"the weights of {own.network}", own.weights_sha256)
    if own.reference:
        yield Named("statistics.reference", own.reference, "published statistics", own.reference_sha256)


def _of_quantize(config: PipelineConfig) -> Iterator[Named]:
    own = config.quantize
    if own.loss.perceptual > 0 and own.loss.perceptual_weights:
        from vim_core.weights.published import VGG16

        yield Named("quantize.loss.perceptual_weights", own.loss.perceptual_weights, VGG16.name, VGG16.sha256)
    if own.init_from and not io.exists(io.join(own.init_from, "manifest.json")):
        for name in ("model.safetensors", "config.json"):
            yield Named("quantize.init_from", io.join(own.init_from, name), f"{name} of a tokenizer")


def _of_score(config: PipelineConfig) -> Iterator[Named]:
    own = config.score
    if own.lpips and own.lpips_weights:
        from vim_core.weights.published import VGG16

        yield Named("score.lpips_weights", own.lpips_weights, VGG16.name, own.lpips_sha256 or VGG16.sha256)
    if own.samples_from:
        yield Named("score.samples_from", own.samples_from, "images to score")


def _missing(config: PipelineConfig) -> list[Finding]:
    """Settings that are empty although what they name is needed."""
    found = []
    loss, wanted = config.quantize.loss, config.components
    if "quantize" in wanted and loss.perceptual > 0 and not loss.perceptual_weights:
        key, text = "quantize.loss.perceptual_weights", f"empty, and quantize.loss.perceptual={loss.perceptual}"
        if loss.perceptual_optional:
            found.append(warn(key, text, "trains without the perceptual loss, which perceptual_optional allows"))
        else:
            advice = "give torchvision's vgg16-397923af.pth, or quantize.loss.perceptual=0"
            found.append(fail(key, text, advice))
    if "statistics" in wanted and config.statistics.network != "classifier" and not config.statistics.weights:
        text = f"empty, and statistics.network={config.statistics.network}"
        found.append(fail("statistics.weights", text, "give the path or URI of the network's weights"))
    return found


def _looked_at(each: Named) -> Finding:
    digits = f" with a sha256 that begins with {each.sha256}" if each.sha256 else ""
    wanted = f"it should be {each.name}{digits}"
    try:
        if not io.exists(each.uri):
            return fail(each.setting, f"{each.uri}: no such file", f"{wanted}; download it, or set {each.setting}=…")
        if not each.sha256:
            return ok(each.setting, f"{each.uri} is there")
        found = _hash(each.uri)
    except (StorageError, OSError) as error:
        return fail(each.setting, f"{each.uri}: {error}", wanted)
    if not found:
        return ok(each.setting, f"{each.uri} is there; its hash is looked at when it is loaded, it is large")
    if not found.startswith(each.sha256):
        return fail(each.setting, f"{each.uri}: sha256 is {found[:16]}…", wanted)
    return ok(each.setting, f"{each.uri} is {each.name}, sha256 {found[:8]}…")


def _hash(uri: str) -> str:
    """The file's sha256, '' of one that is too large to read for this."""
    fs, path = io.filesystem(uri)
    if int(fs.info(path)["size"]) > (LOCAL_MOST if io.is_local(uri) else REMOTE_MOST):
        return ""
    return io.checksum(uri)[1]
