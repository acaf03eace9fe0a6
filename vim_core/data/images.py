"""Image bytes to RGB pixels and back: checked decoding, crops, tensors, PNG, grids."""

from __future__ import annotations

import contextlib
import io as memory
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vim_core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of an image, in pixels."""

MAX_PIXELS = 100_000_000
UNLIMITED = sys.maxsize
"""For the images of a table: they were checked against `ingest.max_pixels` when it was written."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that are decoded; those whose readers start other programs (EPS) are left out."""

MODES_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
RESAMPLE = Image.Resampling.BICUBIC

# `decode` checks its own limit from the header; Pillow's fixed one would contradict a larger `max_pixels`.
Image.MAX_IMAGE_PIXELS = None

EXIF_RULE = "EXIF orientation is ignored: pixels are taken as they are stored"
"""torchvision and tf.image read images so, and published reference statistics are of such pixels: rotating the few
images with an orientation would make them differ."""

JPEG_SCALE = 8
"""The largest factor by which the JPEG reader can shrink an image while it decodes it."""

LIMITS = "ingest.max_pixels, or --max-pixels of a command,"
"""Where the limit comes from, for messages."""

GAP = 2
"""Pixels between the images of a grid."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Encoded bytes to RGB uint8 [H, W, 3]; EXIF orientation is ignored (`EXIF_RULE`).

    Grey, palette and CMYK images become RGB, 16-bit grey is scaled to 8 bits, transparent pixels are blended with
    white, of an animation the first frame is taken.

    Raises:
        DataError: not an image, damaged or cut off, or more than `max_pixels` pixels.
    """
    with _open(data, max_pixels) as image:
        return _pixels(image)


def decode_crop(
    data: bytes, choose: Callable[[int, int], Box], size: int, max_pixels: int = MAX_PIXELS, *, scaled: bool = False
) -> Pixels:
    """The crop that `choose` makes of an image's height and width, as RGB uint8 [size, size, 3]; see `crop_resize`.

    With `scaled` the JPEG reader makes no more pixels than it needs: the image is decoded at 1/2, 1/4 or 1/8 of its
    size where the crop still has `size` pixels each way. Other formats are decoded in full.

    Raises:
        DataError: as `decode`.
    """
    with _open(data, max_pixels) as image:
        width, height = image.size
        left, top, right, bottom = box = choose(height, width)
        if scaled:
            shrink = JPEG_SCALE
            while shrink > 1 and min(right - left, bottom - top) < shrink * size:
                shrink //= 2
            image.draft(None, (max(1, width // shrink), max(1, height // shrink)))
            x, y = image.width / width, image.height / height
            box = (round(left * x), round(top * y), round(right * x), round(bottom * y))
        image.load()
        pixels = _shared_pixels(image)
        return crop_resize(_pixels(image) if pixels is None else pixels, box, size)


def _shared_pixels(image: Any) -> Pixels | None:
    """A loaded image's own memory [H, W, 4], without a copy; None where Pillow shares none (old, or over 16 MB)."""
    if image.mode != "RGB" or not hasattr(image, "__arrow_c_array__"):
        return None
    import pyarrow as pa

    try:
        flat = pa.array(image).values
    except (ValueError, MemoryError):
        return None
    shared: Pixels = flat.to_numpy(zero_copy_only=True).reshape(image.height, image.width, 4)
    return shared


def _pixels(image: Any) -> Pixels:
    image.load()
    if image.mode in MODES_16_BIT:
        deep = np.asarray(image).astype(np.float32)  # [H, W]
        return np.array(Image.fromarray((deep / 257).round().astype(np.uint8)).convert("RGB"))
    _check_mode(image.mode)
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        return np.array(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def image_size(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of an image; refuses exactly what `decode` refuses, at less cost for JPEG.

    A JPEG is read to its end, but its pixels are made at an eighth of the size.

    Raises:
        DataError: as `decode`.
    """
    with _open(data, max_pixels) as image:
        width, height = image.size
        image.draft(None, (max(1, width // JPEG_SCALE), max(1, height // JPEG_SCALE)))
        image.load()
        _check_mode(image.mode)
        return height, width


@contextlib.contextmanager
def _open(data: bytes, max_pixels: int) -> Iterator[Any]:
    try:
        with Image.open(memory.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DataError(f"{width}x{height} is more than the {max_pixels} pixels allowed ({LIMITS} raises that)")
            # In one piece: a decoder that waits for more bytes does a part of its work again.
            image.decodermaxblock = max(len(data), image.decodermaxblock)
            yield image
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"not an image: {len(data)} bytes beginning with {data[:12]!r}") from None
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error and more
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"damaged image of {len(data)} bytes: {reason}") from error


def _check_mode(mode: str) -> None:
    if mode in ("I", "F"):
        raise DataError(f"pixels of mode {mode} have no fixed range: convert the image to 8 or 16 bits")


def center_crop(image: Pixels, size: int) -> Pixels:
    """The central square of an image [H, W, 3] as [size, size, 3], bicubic with antialias.

    Equal to resizing the short side to `size` and cropping the centre; without a resize where the short side fits.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    if short == size:
        return np.ascontiguousarray(image[top : top + size, left : left + size])
    square = (left, top, left + short, top + short)
    return np.array(Image.fromarray(image).resize((size, size), RESAMPLE, box=square))


def crop_resize(image: Pixels, box: Box, size: int) -> Pixels:
    """The part of an image [H, W, 3] in `box` as [size, size, 3], bicubic with antialias, by torch's vector kernel.

    It is four times as fast as Pillow's, from which single values differ by a level. A fourth channel is left out; the
    result is a view of what may have one.
    """
    import torch

    left, top, right, bottom = box
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and nothing writes
        part = torch.from_numpy(image[top:bottom, left:right]).permute(2, 0, 1)[None]  # [1, 3 or 4, h, w]
    part = part.contiguous(memory_format=torch.channels_last)
    resized = torch.nn.functional.interpolate(part, (size, size), mode="bicubic", antialias=True)
    return resized[0, :3].permute(1, 2, 0).numpy()  # [size, size, 3]


def encode_png(image: Pixels) -> bytes:
    """RGB uint8 [H, W, 3] as PNG; equal pixels give equal bytes."""
    stream = memory.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=6)
    return stream.getvalue()


def pixel_tensor(image: Pixels) -> Tensor:
    """Pixels uint8 [..., H, W, 3] as a tensor uint8 [..., 3, H, W]."""
    import torch

    # A copy: decoded images are cached, and torch must not write into them.
    return torch.from_numpy(np.array(np.moveaxis(image, -1, -3), order="C"))


def pixel_batch(images: Sequence[Pixels]) -> Tensor:
    """Images [H, W, 3] of one size, in any memory layout, as a tensor uint8 [n, 3, H, W]."""
    import torch

    batch = np.empty((len(images), 3, *images[0].shape[:2]), np.uint8)
    for planes, image in zip(batch, images, strict=True):
        # Plane by plane is five times as fast as numpy's copy of the whole.
        for channel in range(3):
            planes[channel] = image[..., channel]
    return torch.from_numpy(batch)


def as_floats(pixels: Tensor) -> Tensor:
    """Pixels uint8 as float32 in [0, 1], on their device; other tensors as they are."""
    import torch

    if pixels.dtype is not torch.uint8:
        return pixels
    # By a tensor: by a number, CUDA multiplies with 1/255, which gives other bits for 126 of the 256 values.
    return pixels.to(torch.float32).div_(torch.full((), 255.0, device=pixels.device))


def to_tensor(image: Pixels) -> Tensor:
    """Pixels uint8 [..., H, W, 3] to float32 [..., 3, H, W] in [0, 1]."""
    return as_floats(pixel_tensor(image))


def from_tensor(images: Tensor) -> Pixels:
    """Images [N, 3, H, W] to uint8 [N, H, W, 3]; values outside [0, 1] are clamped, then rounded.

    Raises:
        DataError: a value is not finite.
    """
    import torch

    values = images.detach().float()
    if not bool(torch.isfinite(values).all()):
        raise DataError("an image holds values that are not finite: the model that made it diverged")
    pixels: Pixels = values.clamp(0, 1).mul(255).round().to(torch.uint8).movedim(-3, -1).cpu().contiguous().numpy()
    return pixels


def grid_png(images: Tensor, columns: int) -> bytes:
    """Images [N, 3, S, S] in [0, 1] in rows of `columns` with white gaps, as PNG; those below 64 pixels are doubled."""
    import torch

    _, channels, height, width = images.shape
    rows = -(-len(images) // columns)
    sheet = torch.ones(channels, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP)
    for index, image in enumerate(images.float().cpu()):
        top, left = divmod(index, columns)
        y, x = GAP + top * (height + GAP), GAP + left * (width + GAP)
        sheet[:, y : y + height, x : x + width] = image
    if width < 64:
        sheet = sheet.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    return encode_png(from_tensor(sheet[None])[0])
