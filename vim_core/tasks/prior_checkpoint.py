"""Export of a prior from a checkpoint of its training, as the training itself would export it."""

from __future__ import annotations

from typing import Any

from vim_core.checkpoint.shard_files import DamagedCheckpoint, open_checkpoint
from vim_core.errors import ResumeError
from vim_core.models.prior import ImagePrior, PriorShape, model_config
from vim_core.weights.saving import to_bytes

AVERAGE, CURRENT = "module/ema/", "module/model/"
"""Name prefixes of the averaged and the current weights in a checkpoint."""


def export_checkpoint(folder: str, identity: dict[str, Any], shape: PriorShape) -> dict[str, bytes]:
    """`model.safetensors` and `config.json`, with the averaged weights if the training keeps an average.

    Args:
        folder: of the checkpoint; the training may write and remove checkpoints meanwhile, also this one.
        identity: that the checkpoint must carry.
        shape: of the network.

    Raises:
        DamagedCheckpoint: it is gone, not whole, or was removed while it was read.
        ResumeError: it belongs to another training or network.
    """
    try:
        saved = open_checkpoint(folder, identity)
        model = ImagePrior(shape)
        prefix = AVERAGE if any(name.startswith(AVERAGE) for name in saved.names()) else CURRENT
        names = {name.removeprefix(prefix) for name in saved.names() if name.startswith(prefix)}
        unmatched = sorted(names ^ set(model.state_dict()))
        if unmatched:
            raise ResumeError(f"{folder}: {unmatched[0]} is in the checkpoint or in the network, but not in both")
        try:
            model.load_state_dict({name: saved.rows(f"{prefix}{name}") for name in names}, strict=True)
        except RuntimeError as error:
            raise ResumeError(f"{folder}: the checkpoint is of another network: {error}") from error
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{error.filename or error} is gone") from error
    return {"model.safetensors": to_bytes(model), "config.json": model_config(shape)}
