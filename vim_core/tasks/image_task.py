"""Tasks that train on augmented images of a table: their batches and how these are read."""

from __future__ import annotations

from collections.abc import Generator

from vim_core.data.image_loader import ImageLoader
from vim_core.data.step_reader import StepImages
from vim_core.tasks.base import Batch, Network, NetworkTask, floating


class ImageTask(NetworkTask[Network]):
    """A task whose batches are images of `train_images`, which its constructor makes."""

    train_images: ImageLoader

    def batch(self, step: int) -> Batch:
        """The batch of `prepare` for a step, with images in [0, 1]."""
        share = self.config.batch, self.runtime.rank, self.runtime.world
        return floating(self.prepare(self.train_images.read(step, *share)))

    def requests(self, start: int) -> Generator[StepImages, None, None]:
        """Encoded images of every step."""
        share = self.config.batch, self.runtime.rank, self.runtime.world
        return self.train_images.read_steps(range(start, self.config.steps), *share)

    def share_host(self, processes: int) -> list[str]:
        """Notes on the training images."""
        return self.train_images.share_host(self.config.batch, self.runtime.world, processes)

    def prepare(self, request: StepImages) -> Batch:
        """Augmented `images` uint8 [b, 3, S, S]."""
        return {"images": self.train_images.views(request)}

    def sample_ids(self, step: int) -> list[str]:
        """Keys of the step's images."""
        return self.train_images.keys(step, self.config.batch)
