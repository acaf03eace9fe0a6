"""The reference file of `statistics`: its version, its content, and statistics written in its form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.contract.api import Context
from vim_core.config import StatisticsConfig
from vim_core.errors import DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.metrics.moments import Gaussian, Moments
    from vim_core.metrics.reference import Reference

KEY = "statistics.reference"


def file_version(uri: str) -> str:
    """Size and version of a file according to its store. Raises `DataError` where there is no file."""
    found = io.version(uri)
    if not found:
        raise DataError(f"{KEY}={uri!r}: no such file")
    return found


def read(config: StatisticsConfig) -> Reference | None:
    """The reference file, or None where none is set. Raises `DataError` for a missing, other or unusable one."""
    from vim_core.metrics.reference import read_reference

    if not config.reference:
        return None
    try:
        with io.local_copy(config.reference) as path:
            found = read_reference(path)
    except FileNotFoundError:
        raise DataError(f"{KEY}={config.reference!r}: no such file") from None
    if not found.sha256.startswith(config.reference_sha256):
        wanted = f"statistics.reference_sha256={config.reference_sha256}"
        raise DataError(f"{KEY}={config.reference!r}: sha256 is {found.sha256[:16]}…, not {wanted}")
    return found


def needs_measuring(config: StatisticsConfig, reference: Reference) -> bool:
    """True if the file's images must be measured: it lacks statistics, or precision and recall are configured."""
    lacking = reference.gaussian is None or (config.spatial and reference.spatial is None)
    return reference.images is not None and (lacking or config.features > 0)


def write(
    config: StatisticsConfig, ctx: Context, reference: Reference, measured: dict[str, Moments], dim: int
) -> dict[str, Any]:
    """Write `reference.npz`: the file's own statistics, or those measured on its images, by kind. Returns its record.

    Raises:
        DataError: the statistics are of another network.
    """
    gaussian = reference.gaussian
    if gaussian is None and "moments" in measured:
        gaussian = measured["moments"].gaussian()
    if gaussian is None:
        raise DataError(f"{KEY}={config.reference!r}: has neither statistics nor images")
    if gaussian.dim != dim:
        raise DataError(
            f"{KEY}={config.reference!r}: features of dimension {gaussian.dim}, {config.network} has {dim}: "
            "they come from another network; FID's references need statistics.network=inception"
        )
    spatial = reference.spatial
    if spatial is None and "spatial" in measured:
        spatial = measured["spatial"].gaussian()
    _write_file(ctx.path("reference.npz"), gaussian, spatial)
    origin = "its own mu and sigma" if reference.gaussian is not None else "measured on its images"
    images = reference.images[0] if reference.images else 0
    return {"uri": config.reference, "sha256": reference.sha256, "count": gaussian.count or 0, "statistics": origin,
            "images": images}  # fmt: skip


def export(uri: str, moments: Moments) -> None:
    """Write moments in the usual form, mu and sigma."""
    _write_file(uri, moments.gaussian())


def _write_file(uri: str, gaussian: Gaussian, spatial: Gaussian | None = None) -> None:
    from vim_core.metrics.reference import write_reference

    with io.staged(uri) as path:
        write_reference(str(path), gaussian, spatial)
