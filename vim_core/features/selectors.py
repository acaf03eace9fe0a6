"""Classifiers that select samples: the pipeline's second one, torchvision's by name, or any other by its factory.

A network from outside is given as `<module>:<factory>`: the factory takes no arguments and returns an `nn.Module` whose
state dict the named weights fill, every tensor of it except the counters of batch norm. Called on images [B, 3, H, W]
in [0, 1] (RGB, float32) it returns logits [B, C]; it resizes and normalises them itself. Optional attributes are

- `size`: pixels a side of the centre square that images are brought to first (bicubic, antialiased). Without it they
  keep their sizes, and images of equal size form a batch;
- `class_names`: its classes in the order of the logits, written as in the image table (wnids, for ImageNet). Without
  it there must be a list of them, or as many classes as the table has, in the same order;
- `preprocessing`: its treatment of images, in words, for the protocol.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from vim_core.data.images import Pixels, center_crop, to_tensor
from vim_core.distributed.products import strict
from vim_core.errors import ConfigError, DataError
from vim_core.features.base import TORCHVISION, Features
from vim_core.features.classifiers import ClassifierExtractor, TorchvisionExtractor, check_torchvision
from vim_core.models.classifier import load_classifier
from vim_core.weights.saving import WeightFile, load_verified

SELECTOR = "selector"
"""Name of the pipeline's own network: the component of this name."""


@dataclass(frozen=True)
class SelectorSpec:
    """A classifier and its weight files; small, so that workers receive it and load the network themselves.

    Attributes:
        name: as in `NetworkConfig`.
        weights, config: path or URI of the network's files.
        sha256: hash that the weights must have; of the pipeline's own network, the artifact's digest.
        table_classes: classes of the image table.
        classes: classes of the network in the order of its logits; empty if the network names them itself.
        device: where the network runs.
    """

    name: str
    weights: str
    config: str = ""
    sha256: str = ""
    table_classes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    device: str = "cpu"


class Selector:
    """A classifier whose classes are matched to those of an image table.

    Attributes:
        digest: the artifact's digest, or the whole sha256 of a weight file from outside.
        preprocessing: from decoded pixels to the network's input, in words.
        columns: logit of each class of the table, int64 [classes].
    """

    def __init__(
        self, network: ClassifierExtractor | TorchvisionExtractor | _ModuleClassifier, digest: str, columns: list[int]
    ) -> None:
        self.network, self.digest, self.preprocessing = network, digest, network.preprocessing
        self.columns = torch.tensor(columns, dtype=torch.int64)

    def score(self, images: Sequence[Pixels], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Probability of each image's label, float64 [N], and whether no class is more likely, bool [N].

        Probabilities are over all classes of the network, including those that the table does not have.

        Args:
            images: decoded, uint8 [H, W, 3] each.
            labels: class of the table that each image was drawn for, int64 [N].

        Raises:
            DataError: the network returns no row of logits for each image, or fewer logits than classes.
        """
        prepared = [self.network.prepare(image) for image in images]
        parts = []
        # networks without a fixed size take batches of one shape
        for shape, group in groupby(prepared, key=lambda image: image.shape):
            batch = torch.stack(list(group))
            logits = self.network.extract(batch).logits
            if logits.ndim != 2 or len(logits) != len(batch) or logits.shape[1] <= int(self.columns.max()):
                found = f"{list(logits.shape)} for images {[len(batch), *shape]}"
                raise DataError(
                    f"the selector gives logits {found}: expected one row an image, {self.columns.max()} or more"
                )
            parts.append(logits)
        scores = torch.cat(parts)  # [N, C]
        columns = self.columns[labels]  # [N]
        probabilities = scores.double().softmax(dim=1).gather(1, columns[:, None])[:, 0]
        return probabilities, scores.argmax(dim=1) == columns


def load_selector(spec: SelectorSpec) -> Selector:
    """The network on its device, ready for inference, in the classes of the image table.

    Raises:
        ConfigError: there is no such network, or its classes cannot be matched to those of the table.
        DataError: the weights are missing, have another hash, or belong to another network.
    """
    if spec.name == SELECTOR:
        network = load_classifier(spec.weights, spec.config, spec.device)
        own = ClassifierExtractor(network, spec.sha256, spec.device)
        return Selector(own, spec.sha256, match_classes(spec, spec.classes, own.classes))
    file = WeightFile(f"the file with sha256 {spec.sha256}", spec.sha256, f"network {spec.name}")
    state, digest = load_verified(file, spec.weights, "network.weights")
    classifier: TorchvisionExtractor | _ModuleClassifier
    try:
        if spec.name.startswith(TORCHVISION):
            name = spec.name.removeprefix(TORCHVISION)
            check_torchvision(name, "network.name")
            classifier = TorchvisionExtractor(name, state, digest, device=spec.device)
            names, outputs = spec.classes, classifier.classes
        else:
            module = _create_module(spec.name)
            # many files leave out the counters of batch norm, which are no weights
            defaults = module.state_dict()
            counters = {name: defaults[name] for name in defaults if name.endswith("num_batches_tracked")}
            module.load_state_dict(counters | state, strict=True)
            names = spec.classes or tuple(getattr(module, "class_names", ()))
            classifier, outputs = _ModuleClassifier(module, spec.device), 0
    except RuntimeError as error:
        raise DataError(f"network.weights={spec.weights!r} does not fit {spec.name}: {error}") from None
    return Selector(classifier, digest, match_classes(spec, names, outputs))


def match_classes(spec: SelectorSpec, names: Sequence[str], outputs: int) -> list[int]:
    """The logit of each class of the table: by name where the network's classes are known, else in the same order.

    Args:
        spec: the network and the classes of the table.
        names: the network's classes in the order of its logits; empty where they are unknown.
        outputs: number of logits; 0 where it is unknown before the first image.

    Raises:
        ConfigError: a class of the table is not among the names, or numbers or names do not match.
    """
    remedy = f"name a list of the classes of {spec.name} in the order of its logits as network.classes"
    if names:
        index = {name: number for number, name in enumerate(names)}
        missing = [name for name in spec.table_classes if name not in index]
        if missing or len(index) != len(names) or (outputs and outputs != len(names)):
            odd = f"{len(missing)} classes of the images, first {missing[0]!r}, are" if missing else "its logits are"
            raise ConfigError(f"network.name={spec.name!r}: {odd} not among its {len(names)} classes; {remedy}")
        return [index[name] for name in spec.table_classes]
    if outputs and outputs != len(spec.table_classes):
        raise ConfigError(
            f"network.name={spec.name!r}: has {outputs} classes, the images have {len(spec.table_classes)}; {remedy}"
        )
    if spec.name.startswith(TORCHVISION) and list(spec.table_classes) != sorted(spec.table_classes):
        raise ConfigError(
            f"network.name={spec.name!r}: torchvision's classes are ordered by wnid, those of the images are not; "
            f"{remedy}"
        )
    return list(range(len(spec.table_classes)))


class _ModuleClassifier:
    """A network from outside, of the interface in this module's docstring, as an extractor without features."""

    def __init__(self, network: nn.Module, device: str) -> None:
        self.network, self.device = network.to(device).eval(), device
        self.size = int(getattr(network, "size", 0))
        crop = f"short side to {self.size} pixels (bicubic, antialiased), centre crop; " if self.size else ""
        self.preprocessing = crop + str(getattr(network, "preprocessing", "then its own"))

    def prepare(self, image: Pixels) -> Tensor:
        return to_tensor(center_crop(image, self.size) if self.size else image)

    @strict
    def extract(self, batch: Tensor) -> Features:
        with torch.inference_mode():
            logits: Tensor = self.network(batch.to(self.device))
        return Features(torch.empty(len(batch), 0), logits.float().cpu())


def _create_module(name: str) -> nn.Module:
    """The network that `<module>:<factory>` returns. Raises `ConfigError` where it cannot."""
    module, _, attribute = name.partition(":")
    try:
        factory: Callable[[], Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"network.name={name!r}: cannot be imported ({error}); it must be on the path") from None
    network = factory()
    if not isinstance(network, nn.Module):
        raise ConfigError(f"network.name={name!r}: returns a {type(network).__name__}, expected a torch.nn.Module")
    return network
