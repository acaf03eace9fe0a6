"""Reference files: what others write is read, what we write others read, nothing is unpickled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vim_core.errors import DataError
from vim_core.metrics.frechet import Gaussian, Moments
from vim_core.metrics.reference import read_images, read_reference, write_batch, write_reference


def moments(dim: int = 4, seed: int = 0) -> Moments:
    return Moments.from_batch(np.random.default_rng(seed).normal(size=(20, dim)))


def gaussian(dim: int = 4, seed: int = 0) -> Gaussian:
    made = moments(dim, seed)
    return Gaussian(made.mean, made.covariance)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, size=(count, 6, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize(("save", "dtype"), [(np.savez, np.float32), (np.savez_compressed, np.float64)])
def test_mu_and_sigma_of_others_are_read(tmp_path: Path, save: object, dtype: type) -> None:
    made = gaussian()
    path = str(tmp_path / "fid.npz")
    save(path, mu=made.mean.astype(dtype), sigma=made.covariance.astype(dtype))  # type: ignore[operator]
    found = read_reference(path)
    assert found.gaussian is not None
    np.testing.assert_allclose(found.gaussian.mean, made.mean, rtol=1e-6)
    np.testing.assert_allclose(found.gaussian.covariance, made.covariance, rtol=1e-5)
    assert (found.gaussian.count, found.spatial, found.images) == (None, None, None)
    assert len(found.sha256) == 64


def test_ours_are_read_by_others_and_by_us(tmp_path: Path) -> None:
    made = moments()
    path = str(tmp_path / "ours.npz")
    write_reference(path, Gaussian(made.mean, made.covariance, made.count))
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["mu"], made.mean)
        np.testing.assert_array_equal(file["sigma"], made.covariance)
    found = read_reference(path).gaussian
    assert found is not None
    assert found.count == 20
    np.testing.assert_array_equal(found.covariance, made.covariance)


def test_moments_files_are_references_too(tmp_path: Path) -> None:
    path = tmp_path / "moments.npz"
    path.write_bytes(moments().to_bytes())
    found = read_reference(str(path)).gaussian
    assert found is not None
    assert found.count == 20
    np.testing.assert_array_equal(found.covariance, moments().covariance)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_batch_of_guided_diffusion_is_read(tmp_path: Path, save: object) -> None:
    images, pool, spatial = pictures(7), gaussian(), gaussian(3, 1)
    path = str(tmp_path / "VIRTUAL_x.npz")
    save(path, arr_0=images, mu=pool.mean, sigma=pool.covariance, mu_s=spatial.mean, sigma_s=spatial.covariance)  # type: ignore[operator]
    found = read_reference(path)
    assert found.gaussian is not None
    assert found.spatial is not None
    assert (found.gaussian.dim, found.spatial.dim, found.images) == (4, 3, (7, 6, 5, 3))
    blocks = list(read_images(path, 3))
    assert [len(block) for block in blocks] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), images)


def test_samples_with_labels_are_read_as_images_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "samples.npz")
    np.savez(path, pictures(3), np.arange(3))
    found = read_reference(path)
    assert (found.gaussian, found.images) == (None, (3, 6, 5, 3))


def blocks(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (images[start : start + size] for start in range(0, len(images), size))


def test_our_batches_are_numpys(tmp_path: Path) -> None:
    images = pictures(7)
    paths = [str(tmp_path / name) for name in ("a.npz", "b.npz")]
    for path, size in zip(paths, (2, 4), strict=True):
        write_batch(path, blocks(images, size), images.shape)
    with np.load(paths[0], allow_pickle=False) as file:
        np.testing.assert_array_equal(file["arr_0"], images)
        assert file.files == ["arr_0"]
    assert Path(paths[0]).read_bytes() == Path(paths[1]).read_bytes()
    assert read_reference(paths[0]).images == (7, 6, 5, 3)


def test_batches_that_others_could_not_use_are_not_written(tmp_path: Path) -> None:
    path, images = str(tmp_path / "a.npz"), pictures(4)
    with pytest.raises(DataError, match="4 images for a batch of 5"):
        write_batch(path, [images], (5, 6, 5, 3))
    with pytest.raises(DataError, match="all must be uint8"):
        write_batch(path, [images / 255], images.shape)  # type: ignore[list-item]


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"

    def refuse(message: str, **arrays: np.ndarray) -> None:
        np.savez(path, **arrays)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=rf"x\.npz: .*{message}"):
            read_reference(str(path))

    refuse("holds weights; expected mu and sigma", weights=np.zeros(3))
    refuse("only one of mu and sigma", mu=np.zeros(3))
    refuse("expected floats of shapes", mu=np.zeros(3), sigma=np.zeros((2, 2)))
    refuse("expected floats", mu=np.zeros(2), sigma=np.eye(2, dtype=int))
    refuse("not finite", mu=np.array([np.nan]), sigma=np.eye(1))
    refuse("not finite", mu=np.zeros(1), sigma=np.array([[np.nan]]))
    refuse("not symmetric", mu=np.zeros(2), sigma=np.array([[1.0, 0.5], [0.0, 1.0]]))
    refuse("a variance is negative", mu=np.zeros(2), sigma=np.diag([1.0, -1.0]))
    refuse("statistics of 1 images", mu=np.zeros(2), sigma=np.eye(2), count=np.array(1))
    refuse("float64 of shape", arr_0=np.zeros((2, 3, 3, 3)))
    refuse("cannot be read", mu=np.array([print], dtype=object), sigma=np.eye(1))
    path.write_bytes(b"text")
    with pytest.raises(DataError, match="not an npz file"):
        read_reference(str(path))
    np.savez(path, mu=np.zeros(2), sigma=np.eye(2))
    with pytest.raises(DataError, match="holds no images"):
        next(read_images(str(path)))
