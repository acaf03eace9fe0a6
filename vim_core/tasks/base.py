"""The interface between the training loop and a training task."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.optim import Optimizer

from vim_core.config import TrainConfig
from vim_core.distributed.runtimes.base import Runtime
from vim_core.training.evaluation import Evaluation
from vim_core.training.flops import FlopsByPart
from vim_core.training.nonfinite import NonFiniteTracker

Batch = dict[str, Tensor]


class Task(ABC):
    """A training task: networks, data as a function of the step, the update of a step, exported files.

    With a sharded network all workers call `finish`, `export`, `evaluation` and `pictures`, because each has a part of
    it; only the first one gets the whole network, and with it figures and files. The others get empty results.
    """

    unit = "images"
    headline = ("loss", -1)
    """The metric of evaluations that says which weights are best; 1 if larger is better, else -1."""

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

    def pictures(self) -> dict[str, bytes]:
        """PNG pictures of the current state by name, drawn at checkpoints and at the end."""
        return {}
