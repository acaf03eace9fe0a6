"""Reference statistics in the files that people exchange: mu and sigma, and guided-diffusion's batches.

Known forms: `mu` [D] and `sigma` [D, D] (pytorch-fid, torch-fidelity); guided-diffusion's batches, which hold images
`arr_0` [N, H, W, 3] and, for published references, `mu`, `sigma` and sFID's `mu_s`, `sigma_s`; this project's moments.
Nothing is ever unpickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from vim_core.errors import DataError
from vim_core.metrics.gaussian import Gaussian, checked_gaussian
from vim_core.storage import io

IMAGES = "arr_0"
BLOCK = 64
"""Images read or written at once."""


@dataclass(frozen=True)
class Reference:
    """What one file holds: statistics, sFID's statistics, and how many images of which shape; and its sha256."""

    sha256: str
    gaussian: Gaussian | None
    spatial: Gaussian | None
    images: tuple[int, ...] | None


def read_reference(path: str) -> Reference:
    """Read a reference file; its images stay on disk, see `images_of`.

    Raises:
        DataError: not an npz file, none of the known forms, or statistics that cannot be.
    """
    with _opened(path) as file:
        names = {name.removesuffix(".npy") for name in file.namelist()}
        if {"count", "mean", "m2"} <= names:
            gaussian: Gaussian | None = _own(path)
        else:
            gaussian = _pair(file, path, names, "mu", "sigma")
        spatial = _pair(file, path, names, "mu_s", "sigma_s")
        images = _shape(file, path) if IMAGES in names else None
    if gaussian is None and images is None:
        found = ", ".join(sorted(names)) or "nothing"
        raise DataError(f"{path}: no reference statistics: holds {found}; expected mu and sigma, or images as {IMAGES}")
    return Reference(io.checksum(path)[1], gaussian, spatial, images)


def read_images(path: str, block: int = BLOCK) -> Iterator[NDArray[np.uint8]]:
    """The images of a batch file, uint8 [up to `block`, H, W, 3], one block in memory at a time.

    Raises:
        DataError: there are none, in another form, or fewer than the file says.
    """
    with _opened(path) as file, _member(file, path) as stream:
        shape = _read_header(stream, path)
        size = int(np.prod(shape[1:]))
        for start in range(0, shape[0], block):
            count = min(block, shape[0] - start)
            data = stream.read(count * size)
            if len(data) != count * size:
                raise DataError(f"{path}: cut off after {start} of {shape[0]} images")
            yield np.frombuffer(data, np.uint8).reshape(count, *shape[1:])


def write_reference(path: str, gaussian: Gaussian, spatial: Gaussian | None = None) -> None:
    """Statistics as the usual npz of `mu` and `sigma` (sFID's `mu_s`, `sigma_s`), with `count` where it is known."""
    sides = _named(gaussian, "") | (_named(spatial, "_s") if spatial is not None else {})
    with open(path, "wb") as stream:
        np.savez(stream, **sides, **_counted(gaussian.count))


def write_batch(
    path: str,
    images: Iterable[NDArray[np.uint8]],
    shape: tuple[int, int, int, int],
    gaussian: Gaussian | None = None,
    spatial: Gaussian | None = None,
) -> None:
    """Images in blocks [n, H, W, 3], `shape` [N, H, W, 3] in all, as guided-diffusion's evaluator reads them.

    That evaluator wants both pairs of statistics or neither. Equal images give equal bytes.

    Raises:
        DataError: the blocks are not uint8 or do not make up `shape`, or one pair of statistics is missing.
    """
    if (gaussian is None) != (spatial is None):
        raise DataError("a batch for guided-diffusion's evaluator has mu and sigma of both networks' taps or of none")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as file:
        with file.open(_entry(IMAGES), "w", force_zip64=True) as stream:
            _write_images(stream, images, shape)
        for given, suffix in ((gaussian, ""), (spatial, "_s")):
            for name, values in _named(given, suffix).items() if given is not None else ():
                with file.open(_entry(name), "w", force_zip64=True) as stream:
                    npy.write_array(stream, values, allow_pickle=False)


def _write_images(stream: IO[bytes], images: Iterable[NDArray[np.uint8]], shape: tuple[int, int, int, int]) -> None:
    npy.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)})
    count = 0
    for block in images:
        if block.dtype != np.uint8 or block.shape[1:] != shape[1:]:
            raise DataError(f"images {block.dtype} of shape {block.shape[1:]}: all must be uint8 of shape {shape[1:]}")
        stream.write(np.ascontiguousarray(block).tobytes())
        count += len(block)
    if count != shape[0]:
        raise DataError(f"{count} images came for a batch of {shape[0]}")


def _entry(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))


def _named(gaussian: Gaussian, suffix: str) -> dict[str, Any]:
    return {f"mu{suffix}": gaussian.mean, f"sigma{suffix}": gaussian.covariance}


def _counted(count: int | None) -> Mapping[str, Any]:
    return {} if count is None else {"count": np.int64(count)}


def _opened(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path}: not an npz file ({error})") from None


def _own(path: str) -> Gaussian:
    from vim_core.metrics.moments import Moments

    with open(path, "rb") as stream:
        moments = Moments.from_bytes(stream.read())
    return Gaussian(moments.mean, moments.covariance, moments.count)


def _pair(file: zipfile.ZipFile, path: str, names: set[str], mu: str, sigma: str) -> Gaussian | None:
    """One pair of arrays, or None where neither is there."""
    if not names & {mu, sigma}:
        return None
    if not {mu, sigma} <= names:
        raise DataError(f"{path}: has only one of {mu} and {sigma}")
    mean, covariance = (_array(file, path, name) for name in (mu, sigma))
    count = int(_array(file, path, "count")) if mu == "mu" and "count" in names else None
    return checked_gaussian(mean, covariance, count, path)


def _array(file: zipfile.ZipFile, path: str, name: str) -> NDArray[Any]:
    try:
        with file.open(f"{name}.npy") as stream:
            array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: {name} cannot be read ({error})") from None
    return array


def _shape(file: zipfile.ZipFile, path: str) -> tuple[int, ...]:
    with _member(file, path) as stream:
        return _read_header(stream, path)


def _member(file: zipfile.ZipFile, path: str) -> IO[bytes]:
    try:
        return file.open(f"{IMAGES}.npy")
    except KeyError:
        raise DataError(f"{path}: holds no images ({IMAGES})") from None


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
