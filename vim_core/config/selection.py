"""Settings of rejection sampling: a second classifier, what it selects, and curves over guidance and temperature."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields

from vim_core.config.evaluation import ClassifyConfig
from vim_core.config.fields import (
    Amount,
    Count,
    InnerShare,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Ranged,
    Seed,
    execution,
    one_of,
    require,
)
from vim_core.config.training import STORED_PRECISION, TrainConfig


@dataclass
class SelectorConfig(ClassifyConfig):
    """A second classifier of the ingested images, which selects samples and so must not score them.

    It is trained like `classify` with its own settings; at least its seed must differ.

    `seed` as in every training.
    """

    seed: Seed = 1

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)  # not ClassifyConfig's, which names classify.accumulate
        rule = "must be 1, because batch norm looks at the whole batch"
        require(self.accumulate == 1, "selector.accumulate", self.accumulate, rule)
        super().__post_init__()


def same_training(classify: ClassifyConfig, selector: SelectorConfig) -> bool:
    """True if both trainings give the same network: all settings that change the result are equal."""
    first, second = asdict(classify), asdict(selector)
    return all(
        first[entry.name] == second[entry.name] for entry in fields(classify) if not entry.metadata.get("execution")
    )


@dataclass
class NetworkConfig:
    """The network that selects.

    `name` is 'selector' (the component), 'torchvision:<name>' such as torchvision:resnet101, or '<module>:<factory>',
    a function without arguments that returns a network with the interface of `vim_core.features.selectors`. The last
    two need `weights` (path or URI) whose sha256 begins with `sha256`. `classes` is a file with the network's classes
    in the order of its logits, in the form of `ingest.class_list` (`wnid name` per line); without it the network has
    its own list, or the classes of the images in their order. The content of the list enters the fingerprint.
    """

    name: str = "selector"
    weights: str = execution("")
    sha256: str = ""
    classes: str = execution("")

    def __post_init__(self) -> None:
        named = self.name == "selector" or ":" in self.name.strip(":")
        rule = "must be selector, torchvision:<name> or <module>:<factory>"
        require(named, "network.name", self.name, rule)
        if self.name == "selector":
            given = self.weights or self.sha256 or self.classes
            rule = "is for networks from outside; name one as network.name"
            require(not given, "network.weights, sha256 or classes", given, rule)
            return
        require(bool(self.weights), "network.weights", "", f"give the path or URI of the weights of {self.name}")
        rule = "must be the sha256 of network.weights, or at least its first 8 digits"
        digits = len(self.sha256) >= 8 and all(letter in "0123456789abcdef" for letter in self.sha256)
        require(digits, "network.sha256", self.sha256, rule)


@dataclass
class SelectConfig(Ranged):
    """Rejection sampling: a classifier keeps `count` of the samples of each class at each of `rates`.

    At rate r these are the best of the first count / r samples of the class, so that every rate is scored on equally
    many images; the smallest rate determines the number of samples needed.

    `batch` images are classified at once, in `shards` parts that can be resumed.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    count: PositiveInt = 50
    rates: list[PositiveShare] = field(default_factory=lambda: [1.0, 0.5, 0.25, 0.05])
    batch: PositiveInt = 64
    shards: PositiveInt = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rates("select.rates", self.rates)


@dataclass
class TradeoffConfig(Ranged):
    """Accuracy and Fréchet distance over a grid of temperatures, guidances and acceptance rates.

    Each point has `count` images of every class. All pairs of temperature and guidance use the same noise; the rates of
    a pair share its candidates. Intervals are those of `score`, at this `confidence`: that of the distance is a
    jackknife estimate over `groups` groups of images (0: none). The interval of the best guidance is where `bootstrap`
    draws of the distances from the jackknife's distribution are smallest (0: it spans all guidances).

    `temperatures`, `guidances` and `acceptances` are the axes of the grid. `seed`, `top_k`, `top_p`, `lanes` and
    `precision` are as in `sample`.
    """

    temperatures: list[PositiveFloat] = field(default_factory=lambda: [1.0])
    guidances: list[Amount] = field(default_factory=lambda: [1.0, 1.5, 2.0, 3.0])
    acceptances: list[PositiveShare] = field(default_factory=lambda: [1.0, 0.5, 0.25])
    count: PositiveInt = 50
    seed: Seed = 0
    top_k: Count = 0
    top_p: PositiveShare = 1.0
    lanes: PositiveInt = 64
    precision: str = "fp32"
    groups: Count = 20
    bootstrap: Count = 500
    confidence: InnerShare = 0.95
    network: NetworkConfig = field(default_factory=NetworkConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, values in (("temperatures", self.temperatures), ("guidances", self.guidances)):
            require(bool(values), f"tradeoff.{name}", values, "name at least one")
            require(len(set(values)) == len(values), f"tradeoff.{name}", values, "names a value twice")
        check_rates("tradeoff.acceptances", self.acceptances)
        one_of("tradeoff.precision", self.precision, ("highest", "bf16", "fp32"))
        self.precision = STORED_PRECISION.get(self.precision, self.precision)
        rule = "must be 0 (no intervals of distances) or 2 up"
        require(self.groups == 0 or self.groups >= 2, "tradeoff.groups", self.groups, rule)
        rule = "must be 0 (no interval of the best guidance) or at least 20, for an interval of draws to mean something"
        require(self.bootstrap == 0 or self.bootstrap >= 20, "tradeoff.bootstrap", self.bootstrap, rule)


def check_rates(key: str, rates: list[float]) -> None:
    """Raise `ConfigError` unless these are different shares above 0, at least one."""
    require(bool(rates), key, rates, "name at least one rate")
    require(len(set(rates)) == len(rates), key, rates, "names a rate twice")
    require(all(0 < rate <= 1 for rate in rates), key, rates, "acceptance rates lie in (0, 1]")
