"""The stages as Beam transforms. Imports Beam: for use inside functions only.

Decode, encode and write are transforms of their own with no shuffle between them, so that every runner fuses them:
pixels go from one to the next in memory, batch by batch, and a shard is on the disk as soon as its last batch is
encoded. A shuffle behind decode would write every image's raw pixels out and read them back, and one behind encode
would hold all codes back until the last image was encoded: a killed run would have nothing to keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler, RunInference

from components.engines.beam import jobs
from components.tokenize.stages import Assembly, Batch, Piece, Plan, Shard, decoded, encoded, finished
from vim_core.errors import VimError
from vim_core.models.vit_vqgan import Tokenizer


class Decode(beam.DoFn):
    """A shard to its batches; nothing, where an earlier attempt or another runner has finished it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def process(self, shard: Shard) -> Iterator[Batch]:
        """Called by Beam."""
        if not finished(shard):
            yield from decoded(self.plan, shard)


class Encoder(ModelHandler[Any, Any, Tokenizer]):
    """The tokenizer for `RunInference`, which keeps one for all threads of a process; batches come made."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    def load_model(self) -> Tokenizer:
        """Once a process, from the tokenizer's artifact."""
        jobs.set_threads(self.plan.threads)
        return jobs.tokenizer(self.plan.weights, self.plan.config, self.plan.device)

    def run_inference(
        self, batch: Sequence[Any], model: Tokenizer, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Piece]:
        """A whole batch at once."""
        assert isinstance(batch, Batch)
        jobs.set_threads(self.plan.threads)
        return [encoded(self.plan, batch, model)]

    def should_skip_batching(self) -> bool:
        """Batches of fixed shape are made by `Decode`."""
        return True

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        """For Beam's metrics."""
        assert isinstance(batch, Batch)
        return batch.pixels.nbytes

    def get_metrics_namespace(self) -> str:
        """For Beam's metrics."""
        return "vim.tokenize"


class Write(beam.DoFn):
    """Pieces to files, in whatever order they come.

    Raises:
        VimError: the runner tore a shard's batches apart, so that no worker has them all.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def start_bundle(self) -> None:
        """Called by Beam."""
        self.waiting: dict[str, Assembly] = {}

    def process(self, piece: Piece) -> Iterator[str]:
        """Called by Beam."""
        name = piece.shard.name
        assembly = self.waiting.setdefault(name, Assembly(piece))
        if assembly.add(piece):
            del self.waiting[name]
            yield assembly.write(self.plan)

    def finish_bundle(self) -> None:
        """Called by Beam."""
        if self.waiting:
            raise VimError(
                f"tokenize: batches of {min(self.waiting)} reached different workers: this runner does not fuse "
                "transforms; set tokenize.engine=ray or another run.beam_runner"
            )


def build(pipeline: Any, plan: Plan, shards: Sequence[Shard]) -> Any:
    """The whole graph: shards, spread over the workers, through the three stages; names of the written ones."""
    return (
        pipeline
        | "shards" >> beam.Create(shards)
        | "spread" >> beam.Reshuffle()
        | "decode" >> beam.ParDo(Decode(plan))
        | "encode" >> RunInference(Encoder(plan))
        | "write" >> beam.ParDo(Write(plan))
    )
