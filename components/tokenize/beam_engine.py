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

from components.engines import devices
from components.engines.beam import same_code
from components.tokenize.plan import TokenizePlan, TokenizeShard
from components.tokenize.stages import Batch, decode_shard, encode_batch, finished, write_batches
from vim_core.errors import VimError
from vim_core.models.vit_vqgan import Tokenizer


class Decode(beam.DoFn):
    """A shard to its batches; nothing for one that an earlier attempt or another runner has finished."""

    def __init__(self, plan: TokenizePlan) -> None:
        self.plan = plan

    def process(self, shard: TokenizeShard) -> Iterator[Batch]:
        """Called by Beam."""
        if not finished(shard):
            yield from decode_shard(self.plan, shard)


class TokenizerHandler(ModelHandler[Any, Any, Tokenizer]):
    """The tokenizer for `RunInference`, which shares one among all threads of a process."""

    def __init__(self, plan: TokenizePlan) -> None:
        super().__init__()
        self.plan = plan

    def load_model(self) -> Tokenizer:
        """Once a process, from the tokenizer's artifact."""
        devices.set_threads(self.plan.threads)
        return devices.cached_tokenizer(self.plan.weights, self.plan.config, self.plan.device)

    def run_inference(
        self, batch: Sequence[Any], model: Tokenizer, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Batch]:
        """Encode one `Batch`."""
        assert isinstance(batch, Batch)
        devices.set_threads(self.plan.threads)
        return [encode_batch(batch, model)]

    def should_skip_batching(self) -> bool:
        """True: `Decode` makes the batches, all of one shape."""
        return True

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        """For Beam's metrics."""
        assert isinstance(batch, Batch)
        return batch.values.nbytes

    def get_metrics_namespace(self) -> str:
        """For Beam's metrics."""
        return "vim.tokenize"


class Write(beam.DoFn):
    """Code batches to files, in whatever order they come; some may come twice.

    Raises:
        VimError: the runner sent a shard's batches to several workers, so that none has them all.
    """

    def __init__(self, plan: TokenizePlan) -> None:
        self.plan = plan

    def start_bundle(self) -> None:
        """Called by Beam."""
        self.incomplete: dict[str, dict[int, Batch]] = {}

    def process(self, batch: Batch) -> Iterator[str]:
        """Called by Beam."""
        batches = self.incomplete.setdefault(batch.shard.name, {})
        batches[batch.index] = batch
        if len(batches) == batch.batches:
            yield write_batches(self.plan, self.incomplete.pop(batch.shard.name))

    def finish_bundle(self) -> None:
        """Called by Beam."""
        if self.incomplete:
            raise VimError(
                f"tokenize: batches of {min(self.incomplete)} reached different workers: this runner does not fuse "
                "transforms; set tokenize.engine=ray or another run.beam_runner"
            )


def build(pipeline: Any, plan: TokenizePlan, shards: Sequence[TokenizeShard]) -> Any:
    """The graph: shards, spread over the workers, through the three stages; its output is the written names."""
    return (
        pipeline
        | "shards" >> beam.Create(shards)
        | "spread" >> beam.Reshuffle()
        | same_code()
        | "decode" >> beam.ParDo(Decode(plan))
        | "encode" >> RunInference(TokenizerHandler(plan))
        | "write" >> beam.ParDo(Write(plan))
    )
