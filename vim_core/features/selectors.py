"""Networks that select samples: the pipeline's second classifier, torchvision's by name, or any other by its factory.

The interface of a network from outside, given as `<module>:<factory>`: the factory takes no arguments and gives an
`nn.Module` whose state dict the named weights fill, every tensor of it but the counters of batch norm. Called on images
[B, 3, H, W] in [0, 1] (RGB, float32) it returns logits [B, C]; resizing and normalising are its own affair. It may have

- `size`: pixels a side of the centre square that pictures are brought to first (bicubic, antialiased). Without it they
  come as they are, and those of equal size in one batch;
- `class_names`: its classes in the order of the logits, written as in the image table (wnids, for ImageNet). Without
  it there must be a list of them, or as many classes as the table has, in the same order;
- `preprocessing`: what it does to images, in words, for the protocol.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vim_core.data.images import Pixels, square, to_tensor
from vim_core.errors import ConfigError, DataError
from vim_core.features.base import TORCHVISION
from vim_core.features.classifier import ClassifierExtractor
from vim_core.features.torchvision_net import TorchvisionExtractor
from vim_core.models.classifier import load_classifier
from vim_core.weights.published import WeightFile, verified

SELECTOR = "selector"
"""Name of the pipeline's own: the component of this name."""


@dataclass(frozen=True)
class SelectorSpec:
    """Which network, from where; small, so that it travels to workers instead of the network.

    `name` as in `NetworkConfig`; `weights` and `config` are its files, `sha256` the hash that the weights must have (of
    the pipeline's own: the artifact's digest). `wanted` are the classes of the image table, `classes` those of the
    network in the order of its logits (empty: as the network says).
    """

    name: str
    weights: str
    config: str = ""
    sha256: str = ""
    wanted: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    device: str = "cpu"


class Looking(Protocol):
    """A network with its preprocessing, one picture at a time and then a batch."""

    preprocessing: str

    def prepare(self, image: Pixels) -> Tensor:
        """One decoded image uint8 [H, W, 3] as the network's input."""
        ...

    def logits(self, batch: Tensor) -> Tensor:
        """Logits [N, C], float32 on the CPU, of prepared images."""
        ...


class Selector:
    """What a network says of pictures, in the classes of an image table.

    Attributes:
        digest: the artifact's digest, or the whole sha256 of a weight file from outside.
        preprocessing: from decoded pixels to the network's input, in words.
        columns: logit of each class of the table, int64 [classes].
    """

    def __init__(self, network: Looking, digest: str, columns: Sequence[int]) -> None:
        self.network, self.digest, self.preprocessing = network, digest, network.preprocessing
        self.columns = torch.tensor(list(columns), dtype=torch.int64)

    def judge(self, images: Sequence[Pixels], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Probability of the class wanted, float64 [N], and whether no class is more likely, bool [N].

        Probabilities are over all classes of the network, also those that the table does not have.

        Args:
            images: decoded, uint8 [H, W, 3] each.
            labels: class wanted of each, int64 [N].

        Raises:
            DataError: the network gives no row of logits for each image, or fewer logits than classes.
        """
        prepared = [self.network.prepare(image) for image in images]
        # networks without a size of their own take batches of one shape
        batches = [torch.stack(list(group)) for _, group in groupby(prepared, key=lambda image: image.shape)]
        logits = torch.cat([self._logits(batch) for batch in batches])
        wanted = self.columns[labels]
        probabilities = logits.double().softmax(dim=1).gather(1, wanted[:, None])[:, 0]
        return probabilities, logits.argmax(dim=1) == wanted

    def _logits(self, batch: Tensor) -> Tensor:
        logits = self.network.logits(batch)
        if logits.ndim != 2 or len(logits) != len(batch) or logits.shape[1] <= int(self.columns.max()):
            found = f"{list(logits.shape)} for images {list(batch.shape)}"
            raise DataError(
                f"the selector gives logits {found}: expected one row an image, {self.columns.max()} or more"
            )
        return logits


def load_selector(spec: SelectorSpec) -> Selector:
    """The network on its device, ready for inference, in the classes of the image table.

    Raises:
        ConfigError: there is no such network, or its classes are not known to be those of the table.
        DataError: the weights are missing, have another hash, or belong to another network.
    """
    if spec.name == SELECTOR:
        tap = ClassifierExtractor(load_classifier(spec.weights, spec.config, spec.device), spec.sha256, spec.device)
        return Selector(_Tapped(tap), spec.sha256, columns_of(spec, spec.classes, tap.classes))
    network = WeightFile(f"the file with sha256 {spec.sha256}", spec.sha256, f"network {spec.name}")
    build = _torchvision if spec.name.startswith(TORCHVISION) else _from_factory
    state, digest = verified(network, spec.weights, "network.weights")
    try:
        looking, names, outputs = build(spec, state, digest)
    except RuntimeError as error:
        raise DataError(f"network.weights={spec.weights!r} does not fit {spec.name}: {error}") from None
    return Selector(looking, digest, columns_of(spec, spec.classes or names, outputs))


def columns_of(spec: SelectorSpec, names: Sequence[str], outputs: int) -> list[int]:
    """The logit of each class of the table: by name where the network's classes are known, else in the same order.

    Args:
        names: the network's classes in the order of its logits; empty where nobody says them.
        outputs: number of logits; 0 where it is not known before the first image.

    Raises:
        ConfigError: a class of the table is not among the names, or numbers or names do not match.
    """
    ask = f"name a list of the classes of {spec.name} in the order of its logits as network.classes"
    if names:
        place = {name: number for number, name in enumerate(names)}
        missing = [name for name in spec.wanted if name not in place]
        if missing or len(place) != len(names) or (outputs and outputs != len(names)):
            odd = f"{len(missing)} classes of the images, first {missing[0]!r}, are" if missing else "its logits are"
            raise ConfigError(f"network.name={spec.name!r}: {odd} not among its {len(names)} classes; {ask}")
        return [place[name] for name in spec.wanted]
    if outputs and outputs != len(spec.wanted):
        raise ConfigError(
            f"network.name={spec.name!r}: has {outputs} classes, the images have {len(spec.wanted)}; {ask}"
        )
    if spec.name.startswith(TORCHVISION) and list(spec.wanted) != sorted(spec.wanted):
        raise ConfigError(
            f"network.name={spec.name!r}: torchvision's classes are ordered by wnid, those of the images are not; {ask}"
        )
    return list(range(len(spec.wanted)))


class _Tapped:
    """A feature network of `vim_core.features` of which only the logits are wanted."""

    def __init__(self, tap: ClassifierExtractor | TorchvisionExtractor) -> None:
        self.tap, self.preprocessing = tap, tap.preprocessing

    def prepare(self, image: Pixels) -> Tensor:
        return self.tap.prepare(image)

    def logits(self, batch: Tensor) -> Tensor:
        return self.tap.extract(batch).logits


class _Module:
    """A network of the documented interface."""

    def __init__(self, network: nn.Module, device: str) -> None:
        self.network, self.device = network.to(device).eval(), device
        self.size = int(getattr(network, "size", 0))
        squared = f"short side to {self.size} pixels (bicubic, antialiased), centre crop; " if self.size else ""
        self.preprocessing = squared + str(getattr(network, "preprocessing", "then its own"))

    def prepare(self, image: Pixels) -> Tensor:
        return to_tensor(square(image, self.size) if self.size else image)

    def logits(self, batch: Tensor) -> Tensor:
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            logits: Tensor = self.network(batch.to(self.device))
        return logits.float().cpu()


Built = tuple[Looking, Sequence[str], int]
"""The network, its classes as it says them, the number of its logits."""


def _torchvision(spec: SelectorSpec, state: dict[str, Tensor], digest: str) -> Built:
    import torchvision

    name = spec.name.removeprefix(TORCHVISION)
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ConfigError(
            f"network.name={spec.name!r}: torchvision has no such classifier; there are {', '.join(known)}"
        )
    tap = TorchvisionExtractor(name, state, digest, device=spec.device)
    return _Tapped(tap), (), tap.classes


def _from_factory(spec: SelectorSpec, state: dict[str, Tensor], digest: str) -> Built:
    network = _factory(spec.name)()
    if not isinstance(network, nn.Module):
        raise ConfigError(f"network.name={spec.name!r}: gives a {type(network).__name__}, expected a torch.nn.Module")
    # the counters of batch norm are no weights, and many files leave them out
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    network.load_state_dict(counters | state, strict=True)
    return _Module(network, spec.device), list(getattr(network, "class_names", ())), 0


def _factory(name: str) -> Callable[[], Any]:
    module, _, attribute = name.partition(":")
    try:
        found: Callable[[], Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"network.name={name!r}: cannot be imported ({error}); it must be on the path") from None
    return found
