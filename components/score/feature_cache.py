"""Features kept beside a shard's sums: float32 [images, D] in the work folder, 400 MB for 50,000 of Inception's."""

from __future__ import annotations

import io as memory
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from vim_core.storage import io

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vim_core.metrics.moments import Gaussian, Moments

SEED = 0


class Keeper:
    """Collects the features of one shard and writes them as `<result>-<name>.npy`; does nothing unless `wanted`."""

    def __init__(self, result: str, name: str, wanted: bool) -> None:
        self.uri, self.wanted = file_of(result, name), wanted
        self._parts: list[Any] = []

    def add(self, features: Any) -> None:
        """Take in a batch [N, D] of float32 on the CPU."""
        if self.wanted:
            self._parts.append(features.numpy())

    def close(self) -> None:
        """Write what came, if anything did."""
        import numpy as np

        if self._parts:
            write(self.uri, np.concatenate(self._parts))


def file_of(result: str, name: str) -> str:
    """Where a shard's features lie."""
    return f"{result}-{name}.npy"


def write(uri: str, features: NDArray[np.float32]) -> None:
    """One array as a file."""
    import numpy as np

    stream = memory.BytesIO()
    np.save(stream, features)
    io.write_bytes(uri, stream.getvalue())


def read(uri: str) -> NDArray[np.float32]:
    """What `write` wrote."""
    import numpy as np

    found: NDArray[np.float32] = np.load(memory.BytesIO(io.read_bytes(uri)), allow_pickle=False)
    return found


def gather(results: Iterable[str], name: str) -> NDArray[np.float32]:
    """The features of all shards in order [N, D]; shards without images have no file."""
    import numpy as np

    return np.concatenate([read(uri) for uri in (file_of(each, name) for each in results) if io.exists(uri)])


def without_groups(whole: Moments, features: NDArray[np.float32], groups: int) -> list[Moments]:
    """Moments of all images but those of one group each; groups are drawn by lot and alike in size."""
    import numpy as np

    from vim_core.metrics.moments import Moments

    member = np.random.default_rng(SEED).permutation(len(features)) % groups
    return [whole.without(Moments.from_batch(features[member == group])) for group in range(groups)]


def interval_of(
    value: float,
    sides: Sequence[tuple[Moments, NDArray[np.float32] | None]],
    groups: int,
    other: Moments | Gaussian | None = None,
) -> tuple[float, float] | None:
    """The jackknife's interval of a Fréchet distance between two sides, or between one and a fixed `other`.

    A group is left out of every side that has features; no distance is below 0, nor is the interval. None where images
    are too few, or no groups are asked for.
    """
    from vim_core.metrics.frechet import frechet_distance
    from vim_core.metrics.intervals import jackknife_interval

    fewest = min((len(features) for _, features in sides if features is not None), default=0)
    if not groups or fewest < 2 * groups:
        return None
    rows = [without_groups(whole, f, groups) if f is not None else [whole] * groups for whole, f in sides]
    pairs = zip(*rows, strict=True) if other is None else ((side, other) for side in rows[0])
    low, high = jackknife_interval(value, [frechet_distance(a, b, quick=True) for a, b in pairs])
    return max(low, 0.0), high
