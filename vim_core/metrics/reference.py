"""Reference statistics in the files that people exchange: mu and sigma, and guided-diffusion's batches.

Known forms: `mu` [D] and `sigma` [D, D] (pytorch-fid, torch-fidelity); guided-diffusion's batches, which hold images
`arr_0` [N, H, W, 3] and, for published references, `mu`, `sigma` and sFID's `mu_s`, `sigma_s`; this project's moments.
Nothing is ever unpickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from vim_core.errors import DataError
from vim_core.metrics.frechet import TOLERANCE, Gaussian, Moments
from vim_core.storage import io

IMAGES = "arr_0"
BLOCK = 64
"""Images read at once."""


@dataclass(frozen=True)
class Reference:
    """Content of a reference file: its sha256, statistics, those of sFID, and the shape [N, H, W, 3] of its images."""

    sha256: str
    gaussian: Gaussian | None
    spatial: Gaussian | None
    images: tuple[int, ...] | None


def read_reference(path: str) -> Reference:
    """Read a reference file; its images are not loaded, see `read_images`.

    Raises:
        DataError: not an npz file, none of the known forms, or statistics that no features can have.
    """
    with _open(path) as file:
        names = {name.removesuffix(".npy") for name in file.namelist()}
        if {"count", "mean", "m2"} <= names:
            with open(path, "rb") as stream:
                gaussian: Gaussian | None = Moments.from_bytes(stream.read()).gaussian()
        else:
            gaussian = _read_gaussian(file, path, names, "")
        spatial = _read_gaussian(file, path, names, "_s")
        images = None
        if IMAGES in names:
            with file.open(f"{IMAGES}.npy") as member:
                images = _read_header(member, path)
    if gaussian is None and images is None:
        found = ", ".join(sorted(names)) or "nothing"
        raise DataError(f"{path}: no reference statistics: holds {found}; expected mu and sigma, or images as {IMAGES}")
    return Reference(io.checksum(path)[1], gaussian, spatial, images)


def read_images(path: str, block: int = BLOCK) -> Iterator[NDArray[np.uint8]]:
    """The images of a batch file, uint8 [up to `block`, H, W, 3], one block in memory at a time.

    Raises:
        DataError: there are none, in another form, or fewer than the header says.
    """
    with _open(path) as file:
        if f"{IMAGES}.npy" not in file.namelist():
            raise DataError(f"{path}: holds no images ({IMAGES})")
        with file.open(f"{IMAGES}.npy") as stream:
            shape = _read_header(stream, path)
            size = int(np.prod(shape[1:]))
            for start in range(0, shape[0], block):
                count = min(block, shape[0] - start)
                data = stream.read(count * size)
                if len(data) != count * size:
                    raise DataError(f"{path}: cut off after {start} of {shape[0]} images")
                yield np.frombuffer(data, np.uint8).reshape(count, *shape[1:])


def write_reference(path: str, gaussian: Gaussian, spatial: Gaussian | None = None) -> None:
    """Write statistics as an npz of `mu` and `sigma` (sFID's: `mu_s`, `sigma_s`), with `count` where it is known."""
    arrays: dict[str, Any] = {"mu": gaussian.mean, "sigma": gaussian.covariance}
    if spatial is not None:
        arrays |= {"mu_s": spatial.mean, "sigma_s": spatial.covariance}
    if gaussian.count is not None:
        arrays["count"] = np.int64(gaussian.count)
    with open(path, "wb") as stream:
        np.savez(stream, **arrays)


def write_batch(path: str, images: Iterable[NDArray[np.uint8]], shape: tuple[int, ...]) -> None:
    """Write images as guided-diffusion's evaluator reads them; equal images give equal bytes.

    Args:
        path: the npz file.
        images: blocks [n, H, W, 3] of uint8.
        shape: [N, H, W, 3] of all blocks together.

    Raises:
        DataError: the blocks are not uint8 or do not make up `shape`.
    """
    entry = zipfile.ZipInfo(f"{IMAGES}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as file,
        file.open(entry, "w", force_zip64=True) as stream,
    ):
        npy.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)})
        count = 0
        for block in images:
            if block.dtype != np.uint8 or block.shape[1:] != shape[1:]:
                raise DataError(
                    f"images {block.dtype} of shape {block.shape[1:]}: all must be uint8 of shape {shape[1:]}"
                )
            stream.write(np.ascontiguousarray(block).tobytes())
            count += len(block)
        if count != shape[0]:
            raise DataError(f"{count} images for a batch of {shape[0]}")


def _open(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path}: not an npz file ({error})") from None


def _read_gaussian(file: zipfile.ZipFile, path: str, names: set[str], suffix: str) -> Gaussian | None:
    """`mu` and `sigma` with this suffix in float64, `sigma` exactly symmetric; None where neither is there.

    Raises `DataError` for shapes that do not fit, values that are not finite, and matrices that no features can have as
    their covariance.
    """
    mu, sigma = f"mu{suffix}", f"sigma{suffix}"
    if not names & {mu, sigma}:
        return None
    if not {mu, sigma} <= names:
        raise DataError(f"{path}: has only one of {mu} and {sigma}")
    mean, covariance = (_read_array(file, path, name) for name in (mu, sigma))
    count = int(_read_array(file, path, "count")) if not suffix and "count" in names else None
    floats = all(np.issubdtype(array.dtype, np.floating) for array in (mean, covariance))
    if not floats or mean.ndim != 1 or covariance.shape != (mean.size, mean.size) or not mean.size:
        shapes = f"{mean.dtype} {mean.shape} and {covariance.dtype} {covariance.shape}"
        raise DataError(f"{path}: mu and sigma are {shapes}: expected floats of shapes [D] and [D, D]")
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DataError(f"{path}: mu or sigma holds values that are not finite")
    scale, asymmetry = float(np.abs(covariance).max()), float(np.abs(covariance - covariance.T).max())
    if asymmetry > TOLERANCE * scale or float(np.diag(covariance).min()) < -TOLERANCE * scale:
        raise DataError(f"{path}: sigma is no covariance: it is not symmetric, or a variance is negative")
    if count is not None and count < 2:
        raise DataError(f"{path}: statistics of {count} images have no covariance: at least 2 are needed")
    return Gaussian(mean, (covariance + covariance.T) / 2, count)


def _read_array(file: zipfile.ZipFile, path: str, name: str) -> NDArray[Any]:
    try:
        with file.open(f"{name}.npy") as stream:
            array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: {name} cannot be read ({error})") from None
    return array


def _read_header(stream: IO[bytes], path: str) -> tuple[int, ...]:
    """Shape of the images; the stream is left at their first byte."""
    try:
        version = npy.read_magic(stream)
        reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = reader(stream)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: {IMAGES} cannot be read ({error})") from None
    if dtype != np.uint8 or fortran or len(shape) != 4 or shape[-1] != 3 or not all(shape):
        raise DataError(f"{path}: {IMAGES} is {dtype} of shape {shape}: expected uint8 images [N, H, W, 3]")
    return tuple(int(side) for side in shape)
