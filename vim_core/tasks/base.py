"""Training tasks: their interface to the training loop, skipped updates, construction of networks and averages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vim_core.config import OptimConfig, TrainConfig
from vim_core.data.images import as_floats
from vim_core.distributed.runtimes.base import Runtime
from vim_core.models.meta import allocate, materialise
from vim_core.optim.optimizers import Ema, Update, update
from vim_core.training.evaluation import Drawing, Evaluation
from vim_core.training.flops import FlopsByPart
from vim_core.training.usage_watch import UsageWatch

Batch = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)

CONSEQUENCES = ("loss", "gradient")
"""Last in every list of names: they are named only where no single term was to blame."""


def floating(batch: Mapping[str, Tensor]) -> Batch:
    """The batch with pixels as floats, as steps take it."""
    return {name: as_floats(value) for name, value in batch.items()}


class NonFiniteTracker:
    """Collects the flags of updates that were skipped because a value was not finite, until the host reads them.

    One small tensor an update stays alive until `drain`: code that steps a task without the loop must call it, too.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[int, tuple[str, ...], Tensor]] = []

    def record(self, step: int, names: Sequence[str], flags: Tensor) -> None:
        """Keep one update's flags [len(names)], positive where a value was not finite; nothing is read yet.

        Flags must be the same on every worker, so that all of them halt at once.
        """
        # One by one: a running maximum would make an interval's first step a different program from the rest (XLA).
        self._pending.append((step, tuple(names), flags))

    def drain(self) -> dict[int, tuple[str, ...]]:
        """Steps with skipped updates since the last call, in order, with the terms not finite; waits for the device."""
        pending, self._pending = self._pending, []
        terms: dict[int, list[str]] = {}
        for step, names, flags in pending:
            broken = [name for name, flag in zip(names, flags.tolist(), strict=True) if flag > 0]
            causes = [name for name in broken if name.rsplit(".", 1)[-1] not in CONSEQUENCES]
            if broken:
                terms.setdefault(step, []).extend(causes or broken)
        return {step: tuple(names) for step, names in sorted(terms.items())}


class Task(ABC):
    """A training task: networks, data as a function of the step, the update of a step, exported files.

    With a sharded network all workers call `finish`, `export`, `evaluation` and `pictures`, because each has a part of
    it; only the first one gets the whole network, and with it figures and files. The others get empty results.
    """

    headline = ("loss", -1)
    """The metric of evaluations that says which weights are best; 1 if larger is better, else -1."""
    watch: UsageWatch | None = None
    """Judges the evaluations' usage of a codebook."""

    def __init__(self, config: TrainConfig, runtime: Runtime) -> None:
        self.config = config
        self.runtime = runtime
        self.nonfinite = NonFiniteTracker()

    @property
    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """All modules to checkpoint, by name."""

    @property
    @abstractmethod
    def optimizers(self) -> dict[str, Optimizer]:
        """All optimizers to checkpoint, by name."""

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """This rank's slice of the global batch of step `step`, on the CPU; a pure function of the step."""

    def requests(self, start: int) -> Generator[Any, None, None]:
        """The input of `prepare` for each step from `start` to the last; read in the training's own process.

        Close it to end what it began. It may read ahead, in a thread that starts with the first request, after the data
        workers were forked.
        """
        yield from range(start, self.config.steps)

    def share_host(self, processes: int) -> list[str]:
        """Divide the host's memory among its processes that prepare batches; returns notes on that for the log.

        Called before they are forked.
        """
        return []

    def prepare(self, request: Any) -> Batch:
        """The batch of a request, in any process; pixels may be uint8, which `Runtime.to_device` makes floats."""
        return self.batch(request)

    @abstractmethod
    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Train on one batch (on the device); returns metrics as device scalars, always with 'loss' and 'skipped'.

        Metrics whose name ends in 'skipped' are summed between log lines. Terms that are not finite are recorded in
        `nonfinite`.
        """

    def sample_ids(self, step: int) -> list[str]:
        """Keys of the images in the global batch of a step, for error messages; a pure function of the step."""
        return []

    @abstractmethod
    def finish(self) -> dict[str, float]:
        """Final metrics on held-out data."""

    @abstractmethod
    def export(self) -> dict[str, bytes]:
        """The artifact's files by logical name."""

    def evaluation(self) -> Evaluation | None:
        """An evaluation of a copy of the current weights, to run in another thread; None if there is none."""
        return None

    def flops(self) -> FlopsByPart:
        """Operations of one step over the global batch by part; empty if not counted."""
        return {}

    def drawing(self, beside: bool = False) -> Drawing | None:
        """A function that draws pictures of the current weights, which are due at checkpoints; None without any.

        Args:
            beside: it is called in another thread, so it needs a copy of the weights.
        """
        return None

    def drawn_parameters(self) -> list[nn.Parameter]:
        """The parameters that a drawing beside the training copies."""
        return []

    def pictures(self) -> dict[str, bytes]:
        """PNG pictures of the current weights by name, drawn at once."""
        drawing = self.drawing()
        return {} if drawing is None else drawing(lambda: None)


class NetworkTask(Task, Generic[Network]):
    """A task that trains a network with an optimizer and exports its average, if it keeps one."""

    model: Network
    ema: Ema | None
    optimizer: Optimizer

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The network and its average."""
        return {"model": self.model} | ({"ema": self.ema.shadow} if self.ema else {})

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """The network's optimizer."""
        return {"model": self.optimizer}

    def drawn_parameters(self) -> list[nn.Parameter]:
        """Those of the network to export."""
        return list(self.result.parameters())

    @property
    def result(self) -> Network:
        """The network to export: the average if there is one; sharded if the network is."""
        return self.ema.shadow if self.ema else self.model  # type: ignore[return-value]

    def update(
        self,
        step: int,
        module: nn.Module,
        optimizer: Optimizer,
        config: OptimConfig,
        loss: Tensor,
        terms: dict[str, Tensor],
        prefix: str = "",
    ) -> Update:
        """Update a network by `optimizers.update`; names, with `prefix`, which values were not finite on any worker."""
        result = update(module, optimizer, config, self.runtime, step, self.config.steps, loss, [*terms.values()])
        self.nonfinite.record(step, [prefix + name for name in (*terms, "loss", "gradient")], result.nonfinite)
        return result


def build_network(
    make: Callable[[], Network],
    runtime: Runtime,
    decay: float = 0.0,
    *,
    keep: Callable[[Network], Collection[nn.Parameter]] = lambda network: (),
    load: Callable[[Network], None] = lambda network: None,
) -> tuple[Network, Ema | None]:
    """A network on the runtime's device and, with a decay, its average; seed torch's generator before.

    With a sharding runtime it is made on the meta device, sharded, and then initialised: each worker draws the same
    values as by ordinary construction, tensor by tensor, and keeps its rows. So no worker ever holds more than its
    shard and one tensor. Build the optimizer afterwards.

    Args:
        make: constructs the network, of modules that `meta.materialise` can initialise.
        decay: of the average; 0 for none.
        keep: parameters that every worker holds whole.
        load: overwrites initial weights with given ones, in place and by rows.

    Raises:
        ConfigError: the device shards networks in another way; errors of `make` and `load`.
    """
    with torch.device("meta") if runtime.sharded else nullcontext():
        network = make()
    if not runtime.sharded:
        load(network)
        network.to(runtime.device)
    ema = Ema(network, decay) if decay else None
    for part in (network, ema.shadow) if ema else (network,):
        runtime.apply_fsdp(part, keep(part))  # type: ignore[arg-type]
    if runtime.sharded:
        materialise(network, runtime.device)
        load(network)
        if ema is not None:
            allocate(ema.shadow, runtime.device)
            ema.copy_weights()
    return network, ema


def build_replicated(make: Callable[[], Network], runtime: Runtime) -> Network:
    """A network, made as in `build_network`, that every worker holds whole, even if others are sharded."""
    if not runtime.sharded:
        return make().to(runtime.device)
    with torch.device("meta"):
        network = make()
    materialise(network, runtime.device)
    return network
