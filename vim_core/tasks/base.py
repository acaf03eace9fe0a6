"""What the training loop needs of a task."""

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
    """One kind of training: its networks, its data as a function of the step, its step, its exported files.

    Where workers share a network, each calls `finish`, `export`, `evaluation` and `pictures`, because all of them put
    it together; only the first one gets it, and with it the figures and files, the others get nothing.
    """

    unit = "images"
    headline = ("loss", -1)
    """The evaluation's figure that says which weights are best, and 1 where larger is better, else -1."""

    def __init__(self, config: TrainConfig, runtime: Runtime) -> None:
        self.config = config
        self.runtime = runtime
        self.nonfinite = NonFiniteTracker()

    @property
    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """Everything with tensors to checkpoint."""

    @property
    @abstractmethod
    def optimizers(self) -> dict[str, Optimizer]:
        """By name, for checkpoints."""

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """This rank's slice of the global batch of step `step`, on the CPU; a pure function of the step."""

    @abstractmethod
    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Train on one batch (on the device); returns figures as device scalars, always with 'loss' and 'skipped'.

        Figures whose name ends in 'skipped' are summed between log lines. What was not finite goes to `faults`.
        """

    def sample_ids(self, step: int) -> list[str]:
        """Keys of the global batch of a step, to find what broke it; a pure function of the step."""
        return []

    @abstractmethod
    def finish(self) -> dict[str, float]:
        """Final figures on held-out data."""

    @abstractmethod
    def export(self) -> dict[str, bytes]:
        """The artifact's files by logical name."""

    def evaluation(self) -> Evaluation | None:
        """A copy of the present weights, ready to be scored on held-out data in another thread; None for no score."""
        return None

    def flops(self) -> FlopsByPart:
        """Counted operations of one step over the global batch, by part; empty where nobody counted them."""
        return {}

    def pictures(self) -> dict[str, bytes]:
        """PNG pictures of the present state, drawn at checkpoints and at the end."""
        return {}
