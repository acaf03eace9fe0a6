"""Decoding of every kind of image, refusals, square cut-outs against torchvision, tensors."""

from __future__ import annotations

import io as memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vim_core.data.images import (
    GAP,
    as_floats,
    center_crop,
    crop_resize,
    decode,
    encode_png,
    from_tensor,
    grid_png,
    image_size,
    to_tensor,
)
from vim_core.errors import DataError


def encoded(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    stream = memory.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def photo(height: int = 60, width: int = 80) -> Any:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 7) * np.cos(y / 9), np.sin((x + y) / 11), np.cos(x / 5)]
    return (np.stack(waves, axis=-1) * 127 + 128).astype(np.uint8)


def test_png_round_trip_is_exact_and_repeatable() -> None:
    pixels = photo()
    assert np.array_equal(decode(encode_png(pixels)), pixels)
    assert encode_png(pixels) == encode_png(pixels.copy())


@pytest.mark.parametrize("orientation", [1, 6])
def test_exif_orientation_is_ignored_as_torchvision_does(orientation: int, tmp_path: Path) -> None:
    from torchvision.datasets.folder import pil_loader

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(photo(40, 64)), "JPEG", quality=95, exif=exif)
    (tmp_path / "turned.jpg").write_bytes(data)
    assert np.array_equal(decode(data), np.array(pil_loader(str(tmp_path / "turned.jpg"))))
    assert image_size(data) == (40, 64)


def test_grey_palette_and_deep_images_become_rgb() -> None:
    grey = photo()[:, :, 0]
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    assert np.array_equal(decode(encoded(Image.fromarray(grey))), expected)
    assert np.array_equal(decode(encoded(Image.fromarray(grey.astype(np.uint16) * 257))), expected)
    palette = Image.fromarray(photo()).quantize(32)
    assert np.array_equal(decode(encoded(palette)), np.array(palette.convert("RGB")))


def test_cmyk_jpeg_keeps_its_colours() -> None:
    red = Image.new("RGB", (16, 16), (220, 30, 40))
    made = decode(encoded(red.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(made.astype(int) - (220, 30, 40)).max() < 12


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_over_white(mode: str) -> None:
    layer = Image.new(mode, (4, 4), (9, 9, 9, 0) if mode == "RGBA" else (9, 0))
    assert (decode(encoded(layer)) == 255).all()


def test_transparent_palette_colour_lies_over_white() -> None:
    image = Image.fromarray(np.zeros((4, 4), np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert (decode(encoded(image, transparency=0)) == 255).all()


def test_truncated_jpeg_is_refused() -> None:
    data = encoded(Image.fromarray(photo(200, 300)), "JPEG")
    decode(data)
    with pytest.raises(DataError, match="damaged image"):
        decode(data[: len(data) // 2])


@settings(deadline=None)
@given(st.data())
def test_measuring_takes_and_refuses_what_decoding_does(data: st.DataObject) -> None:
    """Also with bytes changed or cut off, though it makes a JPEG's pixels at an eighth of the size."""
    image = Image.fromarray(photo(data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))))
    mode = data.draw(st.sampled_from(["RGB", "L", "CMYK"]))
    kind = "JPEG" if mode == "CMYK" else data.draw(st.sampled_from(["JPEG", "PNG", "BMP"]))
    made = bytearray(encoded(image.convert(mode), kind, **({"progressive": True} if data.draw(st.booleans()) else {})))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(made) - 1), st.integers(0, 255)), max_size=3)):
        made[place] = value
    damaged = bytes(made[: data.draw(st.integers(0, len(made)))])
    assert outcome(image_size, damaged) == outcome(lambda given: decode(given).shape[:2], damaged)


def outcome(act: Any, data: bytes) -> object:
    try:
        return act(data)
    except DataError as error:
        return str(error)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5000), (20_000, 2), (65_500, 1)])
def test_tiny_and_long_sides(width: int, height: int) -> None:
    for kind in ("JPEG", "PNG"):
        assert image_size(encoded(Image.new("RGB", (width, height)), kind)) == (height, width)


@pytest.mark.parametrize("data", [b"", b"just some text\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="not an image"):
        decode(data)


def test_too_many_pixels_are_refused_by_the_header_alone() -> None:
    data = encoded(Image.fromarray(photo(60, 80)))
    assert decode(data, 4800).shape == (60, 80, 3)
    for refuse in (decode, image_size):
        with pytest.raises(DataError, match="80x60 is more than the 4799"):
            refuse(data, 4799)
    header = data[:16] + (60_000).to_bytes(4, "big") * 2 + data[24:]
    with pytest.raises(DataError):
        decode(header)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 128), (192, 96), (100, 100), (16, 48)])
def test_square_equals_resize_and_centre_crop(height: int, width: int) -> None:
    from torchvision.transforms import v2

    image = photo(height, width)
    steps = v2.Compose([v2.Resize(32, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(32)])
    expected = np.array(steps(Image.fromarray(image))).astype(int)
    made = center_crop(image, 32)
    assert made.shape == (32, 32, 3)
    assert np.abs(made - expected).max() <= 1


def test_square_leaves_an_image_of_that_size_and_cuts_without_resampling() -> None:
    image = photo(32, 32)
    assert np.array_equal(center_crop(image, 32), image)
    wide = photo(32, 45)
    assert np.array_equal(center_crop(wide, 32), wide[:, 6:38])


def test_square_of_an_extreme_shape_stays_small() -> None:
    assert center_crop(np.zeros((1, 200_000, 3), np.uint8), 64).shape == (64, 64, 3)


@pytest.mark.parametrize(("box", "size"), [((0, 0, 80, 60), 32), ((10, 5, 70, 50), 64), ((3, 1, 11, 59), 24)])
def test_crops_are_pillows_but_for_single_levels(box: tuple[int, int, int, int], size: int) -> None:
    expected = np.array(Image.fromarray(photo()).crop(box).resize((size, size), Image.Resampling.BICUBIC)).astype(int)
    difference = np.abs(crop_resize(photo(), box, size) - expected)
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.05


def test_bytes_become_the_floats_that_a_division_gives() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    expected = torch.from_numpy(np.arange(256, dtype=np.float32) / np.float32(255))
    assert torch.equal(as_floats(every), expected)
    assert torch.equal(as_floats(every.view(4, 64).repeat(64, 7)), expected.view(4, 64).repeat(64, 7))  # vectorised
    labels = torch.arange(3)
    assert as_floats(labels) is labels


def test_tensors_have_range_and_layout() -> None:
    pixels = np.stack([photo(), photo()[::-1]])
    tensor = to_tensor(pixels)
    assert tensor.shape == (2, 3, 60, 80)
    assert tensor.dtype is torch.float32
    assert float(tensor.min()) >= 0
    assert float(tensor.max()) <= 1
    assert float(tensor[1, 2, 0, 5]) == pytest.approx(pixels[1, 0, 5, 2] / 255)
    assert np.array_equal(from_tensor(tensor), pixels)
    assert to_tensor(pixels[0]).shape == (3, 60, 80)


def test_from_tensor_clamps_rounds_and_refuses_nan() -> None:
    values = torch.tensor([-0.2, 0.0, 0.501 / 255, 0.499 / 255, 1.0, 1.7]).repeat(3, 1).reshape(1, 3, 1, 6)
    assert from_tensor(values)[0, 0, :, 0].tolist() == [0, 0, 1, 0, 255, 255]
    with pytest.raises(DataError, match="not finite"):
        from_tensor(torch.full((1, 3, 2, 2), float("nan")))


def test_a_grid_has_images_in_rows_with_white_between() -> None:
    images = torch.randint(0, 255, (5, 3, 64, 64)) / 255
    sheet = to_tensor(decode(grid_png(images, columns=3)))
    pitch = 64 + GAP
    assert sheet.shape == (3, 2 * pitch + GAP, 3 * pitch + GAP)
    covered = torch.zeros(sheet.shape[1:], dtype=torch.bool)
    for index, image in enumerate(images):
        y, x = GAP + index // 3 * pitch, GAP + index % 3 * pitch
        assert torch.equal(sheet[:, y : y + 64, x : x + 64], image)
        covered[y : y + 64, x : x + 64] = True
    assert (sheet[:, ~covered] == 1).all()


def test_small_images_are_doubled_in_a_grid() -> None:
    small = decode(grid_png(torch.zeros(2, 3, 8, 8), columns=2))
    assert small.shape == (2 * (8 + 2 * GAP), 2 * (16 + 3 * GAP), 3)
    assert (small[GAP * 2 : GAP * 2 + 16, GAP * 2 : GAP * 2 + 16] == 0).all()
