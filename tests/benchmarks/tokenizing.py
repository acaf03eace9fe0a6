"""Tokenizing through Beam beside a bare loop around the same decoder and encoder, and two processes beside one."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.harness import Bench, Row, installed, rounded
from vim_core.config import AugmentConfig, CodebookConfig, LossConfig, QuantizeConfig, StackConfig
from vim_core.data.code_files import CodeMeta
from vim_core.data.image_tables import ImageRow, ImageTable, write_images
from vim_core.data.images import Pixels, center_crop, decode, to_tensor
from vim_core.models.vit_vqgan import Tokenizer, ViTVQGAN, load_tokenizer, model_config
from vim_core.storage import io
from vim_core.weights.saving import to_bytes

PICTURES = 64
"""Different pictures; a table repeats them."""


@dataclass(frozen=True)
class Size:
    """Images of a table in how many shards, and the tokenizer's encoder."""

    images: int
    shards: int
    stack: StackConfig
    side: int = 64
    patch: int = 8
    batch: int = 32
    codes: int = 1024

    def __str__(self) -> str:
        stack = f"{self.stack.blocks} blocks of {self.stack.dim}"
        return f"{self.images} JPEGs {self.side}x{self.side}, {(self.side // self.patch) ** 2} tokens, {stack}"


TOY = Size(images=24, shards=6, stack=StackConfig(blocks=1, heads=2, dim=16, mlp=32), side=16)
FULL = Size(images=1024, shards=8, stack=StackConfig(blocks=4, heads=4, dim=256, mlp=1024))
LONG = Size(images=8192, shards=32, stack=StackConfig(blocks=4, heads=4, dim=256, mlp=1024))
"""Two processes first take seconds to import what they need; a run that is worth splitting is longer than that."""

PEER = "bare loop of the same decoder and encoder"
STARTING = "start of two processes"

CLOCK = 0.004
"""Seconds that a file system's clock may stand still."""

ROUNDS = 3
"""Of the long runs at most: one takes a minute and a half."""


def tokenize_beam(bench: Bench) -> list[Row]:
    """One process with one thread: Beam beside a loop, and beside the same stages with a shuffle behind decode."""
    size, peer, unit = (TOY if bench.toy else FULL), PEER, "images/s"
    if not installed("apache_beam"):
        return [bench.absent("tokenize through Beam", unit, peer, str(size), "Beam is not installed")]
    with one_thread():
        work = Work(bench, size)
        sides = {"beam": work.by_beam(1), "loop": work.by_loop, "split": work.by_beam(1, split=True)}
        seconds = bench.medians(sides)
        rates = {name: size.images / value for name, value in seconds.items()}
        split = "the same with a shuffle between decode and encode"
        rows = [
            bench.faster("tokenize through Beam", unit, (rates["beam"], rates["loop"]), peer, str(size)),
            bench.faster("tokenize, stages fused", unit, (rates["beam"], rates["split"]), split, str(size)),
        ]
        return [fp32(row) for row in rows]


def tokenize_processes(bench: Bench) -> list[Row]:
    """Two processes of one thread beside one: while both are at work, from start to end, and what the start takes."""
    size, peer, unit = (TOY if bench.toy else LONG), "one process", "images/s"
    name, shape = "tokenize in two processes", f"{size}, one thread each"
    if not installed("apache_beam"):
        return [bench.absent(name, unit, peer, str(size), "Beam is not installed")]
    bench = dataclasses.replace(bench, repeats=min(bench.repeats, ROUNDS))
    with one_thread():
        work = Work(bench, size)
        sides = {"two": work.by_beam(2), "one": work.by_beam(1)}
        seconds = bench.medians(sides, warmup=0)
    whole = size.images / seconds["two"], size.images / seconds["one"]
    steady = statistics.median(work.steady[2]), statistics.median(work.steady[1])
    start = max(0.0, seconds["two"] - size.images / steady[0])
    rows = [
        bench.faster(name, unit, steady, peer, f"{shape}, from the first shard of each process to the last of all"),
        bench.faster(f"{name}, start included", unit, whole, peer, shape),
        bench.absent(STARTING, "s", "none", shape, "a loop has no such start", rounded(start)),
    ]
    return [fp32(row) for row in rows]


def fp32(row: Row) -> Row:
    """Codes are made in fp32 whatever trainings use (contract 7)."""
    return dataclasses.replace(row, dtype="fp32")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread in this process meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Work:
    """A table, a tokenizer, and ways to bring them together.

    `steady` has, by number of processes, the images a second of every run by Beam while all of them were at work.
    """

    def __init__(self, bench: Bench, size: Size, photos: Sequence[bytes] = ()) -> None:
        """`photos` are the encoded images that the table repeats; random pictures by default."""
        from components.tokenize.plan import TokenizePlan, TokenizeShard

        self.size, self.folder, self.device = size, bench.folder / "tokenize", bench.runtime.device.type
        self.steady: dict[int, list[float]] = {}
        config = quantize_config(size)
        torch.manual_seed(0)
        weights, settings = str(self.folder / "model.safetensors"), str(self.folder / "config.json")
        io.write_bytes(weights, to_bytes(ViTVQGAN(config)))
        io.write_bytes(settings, model_config(config))
        side = size.side // size.patch
        encoded = photos or [jpeg(picture) for picture in pictures(size.side)]
        meta = CodeMeta("train", (side, side), config.codebook.codes, "benchmark")
        self.plan = TokenizePlan(
            weights, settings, self.device, 1, size.side, size.batch, {"train": meta}, 0, AugmentConfig(), 1_000_000
        )
        self.shards = [
            TokenizeShard(
                f"{index}", "train", image_table(self._table(index), size, index, encoded), self._result(index)
            )
            for index in range(size.shards)
        ]

    def _table(self, index: int) -> Path:
        return self.folder / f"images-{index}"

    def _result(self, index: int) -> str:
        return str(self.folder / "codes" / str(index))

    def by_loop(self) -> None:
        """What anybody would write first."""
        tokenizer: Tokenizer = load_tokenizer(self.plan.weights, self.plan.config, self.device)
        for shard in self.shards:
            table = ImageTable([shard.images])
            for start in range(0, len(table), self.size.batch):
                data = table.images(start, start + self.size.batch)
                tokenizer.encode(to_tensor(np.stack([center_crop(decode(each), self.size.side) for each in data])))

    def by_beam(self, processes: int, split: bool = False) -> Callable[[], None]:
        """The component's pipeline, from its start to the last file."""
        from components.engines.beam import run_pipeline
        from components.tokenize.beam_engine import build
        from vim_core.config import RunConfig

        own: Any = build_split if split else build
        config = RunConfig(threads=processes, beam_processes=processes, device=self.device)

        def run() -> None:
            shutil.rmtree(self.folder / "codes", ignore_errors=True)
            run_pipeline(config, lambda pipeline: own(pipeline, self.plan, self.shards))
            written = sorted(path.stat().st_mtime for path in (self.folder / "codes").iterdir())
            if len(written) != len(self.shards):
                raise RuntimeError(f"{len(written)} of {len(self.shards)} shards were written")
            self.steady.setdefault(processes, []).append(self._steady(written, processes))

        return run

    def _steady(self, written: list[float], processes: int) -> float:
        """Images a second from when each process had written a shard: before that, processes start and import.

        What a process that began early did of its second shard by then, it has less to do at the end.
        """
        images = self.size.images // self.size.shards * (len(written) - processes)
        return images / max(written[-1] - written[processes - 1], CLOCK)


def build_split(pipeline: Any, plan: Any, shards: Any) -> Any:
    """The pipeline with its pixels through a shuffle, as a runner without fusion would have it."""
    import apache_beam as beam
    from apache_beam.ml.inference.base import RunInference

    from components.tokenize.beam_engine import Decode, TokenizerHandler, Write

    batches = pipeline | "shards" >> beam.Create(shards) | "decode" >> beam.ParDo(Decode(plan))
    spread = batches | "spread" >> beam.Reshuffle()
    return spread | "encode" >> RunInference(TokenizerHandler(plan)) | "write" >> beam.ParDo(Write(plan))


def quantize_config(size: Size) -> QuantizeConfig:
    """A tokenizer whose decoder does not matter."""
    return QuantizeConfig(
        image_size=size.side,
        patch=size.patch,
        encoder=size.stack,
        decoder=StackConfig(blocks=1, heads=2, dim=16, mlp=32),
        codebook=CodebookConfig(codes=size.codes, dim=32),
        loss=LossConfig(perceptual=0.0),
        encode_batch=size.batch,
    )


def image_table(path: Path, size: Size, index: int, encoded: Sequence[bytes]) -> str:
    """A shard of these images, each as often as it takes."""
    rows = [
        ImageRow(f"{index:02d}-{row:06d}", 0, encoded[row % len(encoded)], size.side, size.side, "random")
        for row in range(size.images // size.shards)
    ]
    write_images(str(path), rows)
    return str(path)


def pictures(side: int) -> list[Pixels]:
    """Random colours, four pixels a side, enlarged."""
    from PIL import Image

    coarse = np.random.default_rng(0).integers(0, 256, (PICTURES, 4, 4, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(each).resize((side, side))) for each in coarse]


def jpeg(picture: Pixels) -> bytes:
    """As a camera would keep it."""
    import io as memory

    from PIL import Image

    stream = memory.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=90)
    return stream.getvalue()
