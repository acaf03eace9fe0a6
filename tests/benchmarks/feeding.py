"""The image feed beside bare loops of torchvision, on one core: decode, random crop, bicubic resize to 256.

Images are the original ones of `VIM_TEST_DATA` where it is set, cut to 500x375, else made up. Needs no engine.
"""

from __future__ import annotations

import io as memory
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tests.benchmarks.harness import Bench, Row, installed, rounded
from tests.benchmarks.ingesting import made_photos, real_photos
from vim_core.config import AugmentConfig
from vim_core.data.image_loader import ImageLoader
from vim_core.data.image_tables import ImageRow, write_images

AUGMENT = AugmentConfig(min_scale=0.35, max_aspect=1.33, flip=0.5)
"""That of the ImageNet presets."""

SIZE, BATCH = 256, 32
COUNT, TOY = 4096, 64
LARGE = (2000, 1500)
PEERS = {
    "tensors": "torchvision: decode_jpeg, RandomResizedCrop of tensors",
    "Pillow": "torchvision's transforms of Pillow's images",
}
BUS = "the same as float32, unpinned"


def feed_images(bench: Bench) -> list[Row]:
    """Images a second and core through reading, decoding, augmentation and batching, and the copy to the device."""
    photos = {"500x375": photos_of(bench, 500, 375), "2000x1500": photos_of(bench, *LARGE)}
    rows = []
    for shape, jpegs in photos.items():
        count = TOY if bench.toy else COUNT if shape == "500x375" else COUNT // 16
        uri = table_of(bench.folder / f"{shape}.parquet", jpegs, count)
        feeds = {decoding: feed(uri, decoding) for decoding in ("full", "scaled")}
        peers = bare_loops(jpegs) if installed("torchvision") else {}
        # An epoch, so that each row group is read once.
        rates = processor_rates({**feeds, **peers}, count // BATCH)
        for decoding in feeds:
            name, words = f"feed, {decoding} decoding", f"JPEGs {shape}, {count} of them in Parquet, views of {SIZE}"
            for peer, text in PEERS.items():
                if peer in rates:
                    rows.append(bench.faster(name, "images/s a core", (rates[decoding], rates[peer]), text, words))
                else:
                    rows.append(bench.absent(name, "images/s a core", text, words, "torchvision is not installed",
                                             rounded(rates[decoding])))  # fmt: skip
    return [*rows, pinned_copies(bench)]


def photos_of(bench: Bench, width: int, height: int) -> list[bytes]:
    """JPEGs of this size, of quality 95 as most of ImageNet's are."""
    sources = real_photos() if os.environ.get("VIM_TEST_DATA") and not bench.toy else made_photos(8)
    jpegs = []
    for data in sources:
        with Image.open(memory.BytesIO(data)) as image:
            photo = image.convert("RGB")
        scale = max(width / photo.width, height / photo.height)
        side = round(photo.width * scale), round(photo.height * scale)
        stream = memory.BytesIO()
        photo.resize(side, Image.Resampling.BICUBIC).crop((0, 0, width, height)).save(stream, "JPEG", quality=95)
        jpegs.append(stream.getvalue())
    return jpegs


def table_of(path: Path, jpegs: list[bytes], count: int) -> str:
    """An image table of so many rows."""
    rows = [ImageRow(f"{index:06d}", 0, jpegs[index % len(jpegs)], 1, 1, "") for index in range(count)]
    write_images(str(path), rows)
    return str(path)


def feed(uri: str, decoding: str) -> Callable[[], int]:
    """Feeds the next batch of the table; returns its number of images."""
    loader = ImageLoader([uri], SIZE, AUGMENT, 0, decoding)
    loader.share_host(BATCH, 1, 10**9)  # nothing is kept, as of a large table
    steps = iter(range(1_000_000))

    def batch() -> int:
        return len(loader.views(loader.read(next(steps), BATCH, 0, 1)))

    return batch


def bare_loops(jpegs: list[bytes]) -> dict[str, Callable[[], int]]:
    """Plain torchvision loops over JPEGs in memory, one a way to resize, by name; each call returns the images made."""
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import InterpolationMode, v2

    def loop(view: Callable[[bytes], Any]) -> Callable[[], int]:
        turn: Iterator[int] = iter(range(1_000_000_000))

        def batch() -> int:
            return len(torch.stack([view(jpegs[next(turn) % len(jpegs)]) for _ in range(BATCH)]))

        return batch

    crop = v2.RandomResizedCrop(
        SIZE, scale=(AUGMENT.min_scale, 1.0), ratio=(1 / AUGMENT.max_aspect, AUGMENT.max_aspect), antialias=True,
        interpolation=InterpolationMode.BICUBIC,
    )  # fmt: skip
    tensors = v2.Compose([crop, v2.RandomHorizontalFlip(AUGMENT.flip)])
    pillow = v2.Compose([tensors, v2.PILToTensor()])

    def of_tensors(data: bytes) -> Any:
        return tensors(decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB))

    def of_pillow(data: bytes) -> Any:
        return pillow(Image.open(memory.BytesIO(data)).convert("RGB"))

    return {"tensors": loop(of_tensors), "Pillow": loop(of_pillow)}


def processor_rates(sides: dict[str, Callable[[], int]], batches: int) -> dict[str, float]:
    """Images by second of processor time, on one thread.

    Sides take turns batch by batch, so that whatever slows the machine slows all of them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds, images = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0)
    try:
        for side in sides.values():
            side()
        for _ in range(batches):
            for name, side in sides.items():
                start = time.process_time()
                images[name] += side()
                seconds[name] += time.process_time() - start
    finally:
        torch.set_num_threads(threads)
    return {name: images[name] / seconds[name] for name in sides}


def pinned_copies(bench: Bench) -> Row:
    """Batches uint8 through `to_device_ahead` beside float32 batches copied as they are; on a GPU alone."""
    shape = f"{BATCH} images of {SIZE}x{SIZE} a batch, beside steps of products"
    if not bench.gpu:
        # Shows that the path runs; figures of a copy from memory to memory would say nothing.
        batch = {"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}
        assert [each["images"].dtype for each in bench.runtime.to_device_ahead([batch])] == [torch.float32]
        return bench.absent("pinned uint8 feed", "images/s", BUS, shape, "no GPU: not measured")
    device = bench.runtime.device
    weight = torch.randn(2048, 2048, device=device)
    pixels = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    pinned, floats = {"images": pixels.pin_memory()}, pixels.float() / 255

    def step(images: torch.Tensor) -> None:
        (images.flatten(1)[:, :2048] @ weight).sum()
        for _ in range(8):
            weight @ weight

    def ours() -> None:
        for batch in bench.runtime.to_device_ahead([pinned] * 8):
            step(batch["images"])

    def theirs() -> None:
        for _ in range(8):
            step(floats.to(device))

    return bench.compare("pinned uint8 feed", "images/s", 8 * BATCH, ours, theirs, BUS, shape)
