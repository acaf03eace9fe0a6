"""Training images by position: pure, labelled, sliced over ranks; views: keyed noise, laws of the affine map, crops."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tests.support.tiny import VIEW, image_table, pixels
from vim_core.config import AugmentConfig
from vim_core.data import image_loader, image_tables, images
from vim_core.data.image_loader import ImageLoader, affine_transform, augment, augment_encoded, crop_box
from vim_core.data.images import center_crop, crop_resize, decode, encode_png

COUNT = 11
DIGITS = AugmentConfig(rotate_degrees=10.0, zoom=0.1, shift=0.06)
PHOTOS = AugmentConfig(min_scale=0.35, max_aspect=1.33, flip=0.5)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return image_table(tmp_path_factory.mktemp("table") / "train.parquet", COUNT)


def loader(table: str, augment: AugmentConfig = VIEW, seed: int = 0) -> ImageLoader:
    return ImageLoader([table], 8, augment, seed)


def batch(loader: ImageLoader, step: int, size: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
    images = loader.read(step, size, rank, world)
    return loader.views(images), loader.labels[images.rows]


def test_a_batch_is_a_function_of_its_step(table: str) -> None:
    used = loader(table)
    for step in (9, 0, 4):
        images, labels = batch(used, step, 4)
        again, same = batch(loader(table), step, 4)
        assert torch.equal(images, again)
        assert torch.equal(labels, same)
        assert images.shape == (4, 3, 8, 8)
        assert images.dtype == torch.uint8


def test_ranks_slice_one_batch(table: str) -> None:
    images, labels = batch(loader(table), 3, 6)
    parts = [batch(loader(table), 3, 6, rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat([part for part, _ in parts]), images)
    assert torch.equal(torch.cat([part for _, part in parts]), labels)


def test_labels_belong_to_their_images(table: str) -> None:
    originals = torch.from_numpy(pixels(COUNT, 8)).permute(0, 3, 1, 2)
    images, labels = batch(loader(table, AugmentConfig()), 0, COUNT)
    same = (images[:, None] == originals[None]).flatten(2).all(2)  # [images, originals]
    assert same.sum(0).tolist() == same.sum(1).tolist() == [1] * COUNT
    assert torch.equal(labels, same.int().argmax(1) % 3)


def test_the_same_image_looks_different_in_another_epoch_and_under_another_seed(table: str) -> None:
    one, other = (ImageLoader([table], 8, VIEW, seed) for seed in (0, 1))
    key = one.table.keys[5]
    views = [
        batch(source, step, COUNT)[0][source.keys(step, COUNT).index(key)].numpy().tobytes()
        for source, step in ((one, 0), (one, 1), (one, 2), (other, 0))
    ]
    assert len(set(views)) == 4


def test_decoded_images_are_kept_where_all_fit_into_every_process(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []

    def counting(data: bytes, limit: int) -> NDArray[np.uint8]:
        decoded.append(data)
        return decode(data, limit)

    monkeypatch.setattr(image_loader, "decode", counting)
    size = COUNT * 8 * 8 * 3
    for limit, kept in ((3 * size, True), (3 * size - 1, False)):
        monkeypatch.setattr(image_loader, "CACHE_BYTES", limit)
        used = loader(table)
        (note,) = used.share_host(COUNT, 1, 3)
        assert note.startswith("decoded images are kept" if kept else "decoded images are not kept")
        decoded.clear()
        batch(used, 0, COUNT)
        batch(used, 1, COUNT)
        assert len(decoded) == (COUNT if kept else 2 * COUNT)


def test_workers_that_share_lanes_are_told(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_tables, "ROW_GROUP", 1)
    many = ImageLoader([image_table(Path(table).with_name("many.parquet"), COUNT)], 8, VIEW, 0)
    assert [len(many.share_host(24, world, 1)) for world in (1, 2, 8, 3)] == [1, 1, 1, 2]
    assert "3 workers share 8 lanes" in many.share_host(24, 3, 1)[1]


def test_plain_rows_are_the_images_themselves(table: str) -> None:
    found = loader(table).plain(np.array([4, 1]))
    expected = torch.from_numpy(pixels(COUNT, 8)[[4, 1]]).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(found, expected)


def image(height: int = 32, width: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(height=st.integers(1, 50), width=st.integers(1, 50), size=st.sampled_from([8, 32]))
@settings(max_examples=25, deadline=None)
def test_defaults_are_exactly_the_square(height: int, width: int, size: int) -> None:
    picture = image(height, width)
    assert np.array_equal(augment(picture, size, AugmentConfig(), ("a", 1)), center_crop(picture, size))


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    config=st.builds(
        AugmentConfig,
        min_scale=st.floats(0.05, 1),
        max_aspect=st.floats(1, 3),
        flip=st.floats(0, 1),
        rotate_degrees=st.floats(0, 180),
        zoom=st.floats(0, 0.9),
        shift=st.floats(0, 0.9),
    ),
    key=st.tuples(st.integers(), st.text("abé", max_size=5)),
)
@settings(max_examples=60, deadline=None)
def test_a_view_is_a_pure_function_of_its_key(
    height: int, width: int, config: AugmentConfig, key: tuple[int, str]
) -> None:
    picture = image(height, width)
    before = picture.copy()
    view = augment(picture, 16, config, key)
    assert view.shape == (16, 16, 3)
    assert view.dtype == np.uint8
    assert np.array_equal(view, augment(picture, 16, config, key))
    assert np.array_equal(picture, before)


@given(
    colour=st.integers(0, 255),
    key=st.integers(),
    config=st.sampled_from([DIGITS, PHOTOS, AugmentConfig(rotate_degrees=180, zoom=0.8, shift=0.8)]),
)
@settings(max_examples=40, deadline=None)
def test_a_plain_surface_stays_plain(colour: int, key: int, config: AugmentConfig) -> None:
    """Nothing from outside (black, white) comes in: edge pixels continue."""
    surface = np.full((24, 24, 3), colour, np.uint8)
    assert (augment(surface, 24, config, (key,)) == colour).all()


def test_the_affine_map_of_nothing_changes_nothing() -> None:
    assert np.array_equal(affine_transform(image(), 0, 1, 0, 0), image())


@pytest.mark.parametrize(("degrees", "turns"), [(90, -1), (180, 2), (-90, 1)])
def test_quarter_turns_move_every_pixel_to_its_place(degrees: float, turns: int) -> None:
    """Pillow cuts fractions off, so a cosine of 1e-17 costs one level."""
    made = affine_transform(image(), degrees, 1, 0, 0).astype(int)
    assert np.abs(made - np.rot90(image(), turns)).max() <= 1


def test_a_shift_moves_by_whole_pixels_and_repeats_the_edge() -> None:
    made = affine_transform(image(), 0, 1, right=0.125, down=-0.25)
    assert np.array_equal(made[:24, 4:], image()[8:, :28])
    assert np.array_equal(made[24:, 4:], np.repeat(image()[31:, :28], 8, axis=0))
    assert np.array_equal(made[:24, :4], np.repeat(image()[8:, :1], 4, axis=1))


def test_zoom_enlarges_around_the_centre() -> None:
    spot = np.zeros((32, 32, 3), np.uint8)
    spot[12:20, 12:20] = 255
    bright = affine_transform(spot, 0, 2.0, 0, 0)[:, :, 0] > 127
    assert bright.sum() == 16 * 16
    assert bright[8:24, 8:24].all()


def test_flip_happens_in_its_share_of_cases() -> None:
    config = AugmentConfig(flip=0.25)
    views = [augment(image(), 32, config, ("f", i)) for i in range(400)]
    flips = sum(np.array_equal(view, image()[:, ::-1]) for view in views)
    assert flips + sum(np.array_equal(view, image()) for view in views) == 400
    assert 70 <= flips <= 130


def test_crops_keep_to_the_area_share() -> None:
    """On a ramp, the spread of the view's values tells the cropped width."""
    ramp = np.repeat(np.linspace(0, 255, 256).astype(np.uint8)[None, :, None], 256, axis=0).repeat(3, axis=2)
    config = AugmentConfig(min_scale=0.25)
    widths = [np.ptp(augment(ramp, 64, config, (i,))[:, :, 0].astype(int)) / 255 for i in range(60)]
    assert 0.45 < min(widths) < 0.62
    assert 0.9 < max(widths) <= 1


@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    noise=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    config=st.builds(AugmentConfig, min_scale=st.floats(0.01, 1), max_aspect=st.floats(1, 4)),
)
def test_a_crop_lies_inside_and_has_its_area(
    height: int, width: int, noise: list[float], config: AugmentConfig
) -> None:
    left, top, right, bottom = crop_box(height, width, config, noise)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    wanted = height * width * (config.min_scale + (1 - config.min_scale) * noise[0])
    fits = right - left < width and bottom - top < height
    if fits and config != AugmentConfig():
        # Each side is rounded to whole pixels.
        assert abs((right - left) * (bottom - top) - wanted) <= height + width


SCALED = AugmentConfig(min_scale=0.5, max_aspect=1.2, flip=0.5)


@pytest.mark.parametrize("config", [SCALED, AugmentConfig()])
def test_scaled_decoding_gives_nearly_the_same_view_of_fewer_decoded_pixels(
    config: AugmentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crop of 480 pixels or so at 48: the reader may decode at 1/8."""
    rough = Image.fromarray(image(4, 6)).resize((900, 600), Image.Resampling.BICUBIC)
    stream = BytesIO()
    rough.save(stream, "JPEG", quality=95)
    data = stream.getvalue()
    shapes: list[tuple[int, ...]] = []

    def seen(picture: NDArray[np.uint8], *crop: Any) -> NDArray[np.uint8]:
        shapes.append(picture.shape[:2])
        return crop_resize(picture, *crop)

    monkeypatch.setattr(images, "crop_resize", seen)
    for key in range(5):
        view = augment_encoded(data, 48, config, ("v", key), scaled=True)
        full = augment(decode(data), 48, config, ("v", key))
        assert view.shape == (48, 48, 3)
        assert np.abs(view.astype(int) - full.astype(int)).mean() < 4  # half a pixel of the smaller image
        assert np.array_equal(view, augment_encoded(data, 48, config, ("v", key), scaled=True))
        assert shapes[-2:] == [(75, 113)] * 2
    # No larger than needed, but never smaller than the view.
    for size, shape in ((76, (150, 225)), (151, (300, 450)), (301, (600, 900)), (48, (75, 113))):
        augment_encoded(data, size, AugmentConfig(), ("v",), scaled=True)
        assert shapes[-1] == shape
    png = encode_png(decode(data))
    expected = augment(decode(png), 48, SCALED, ("v",))
    for scaled in (False, True):
        assert np.array_equal(augment_encoded(png, 48, SCALED, ("v",), scaled=scaled), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
@pytest.mark.parametrize("config", [PHOTOS, DIGITS])
def test_views_are_the_same_of_images_that_are_kept_and_that_are_not(mode: str, config: AugmentConfig) -> None:
    stream = BytesIO()
    Image.fromarray(image(50, 70)).convert(mode).save(stream, "PNG")
    for key in range(4):
        kept = augment(decode(stream.getvalue()), 24, config, ("v", key))
        assert np.array_equal(augment_encoded(stream.getvalue(), 24, config, ("v", key)), kept)


def test_an_image_that_pillow_does_not_share_gives_the_same_view(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_png(image(50, 70))
    shared = augment_encoded(data, 24, PHOTOS, ("v",))
    monkeypatch.setattr(images, "_shared_pixels", lambda picture: None)
    assert np.array_equal(augment_encoded(data, 24, PHOTOS, ("v",)), shared)


def test_a_loader_that_scales_keeps_no_image(table: str) -> None:
    used = ImageLoader([table], 8, VIEW, 0, "scaled")
    assert "image_decoding=scaled" in used.share_host(COUNT, 1, 1)[0]
    images, _ = batch(used, 0, COUNT)
    assert torch.equal(images, batch(loader(table), 0, COUNT)[0])  # the table holds PNGs
    assert used._cache == {}


def test_one_setting_leaves_the_noise_of_the_others() -> None:
    with_flip = augment(image(), 32, AugmentConfig(shift=0.1, flip=1.0), ("n",))
    assert np.array_equal(with_flip[:, ::-1], augment(image(), 32, AugmentConfig(shift=0.1), ("n",)))
