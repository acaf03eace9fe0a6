"""The files of a prior from one checkpoint of its training, as the end of the training would have left them."""

from __future__ import annotations

from typing import Any

from torch import nn

from vim_core.checkpoint.shard_files import DamagedCheckpoint, SavedCheckpoint, open_checkpoint
from vim_core.errors import ResumeError
from vim_core.models.prior import ImagePrior, PriorShape, model_config
from vim_core.weights.saving import to_bytes

AVERAGE, PLAIN = "module/ema/", "module/model/"


def export_checkpoint(folder: str, identity: dict[str, Any], shape: PriorShape) -> dict[str, bytes]:
    """`model.safetensors` and `config.json`: the averaged weights where the training keeps an average.

    Args:
        folder: of the checkpoint; other processes may write and remove checkpoints beside it, and this one.
        identity: what the training calls itself.
        shape: of the network.

    Raises:
        DamagedCheckpoint: it is gone, not whole, or was removed while it was read.
        ResumeError: it belongs to another training or network.
    """
    try:
        saved = open_checkpoint(folder, identity)
        model = ImagePrior(shape)
        _fill(model, saved)
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{error.filename or error} is gone") from error
    return {"model.safetensors": to_bytes(model), "config.json": model_config(shape)}


def _fill(model: nn.Module, saved: SavedCheckpoint) -> None:
    start = AVERAGE if any(name.startswith(AVERAGE) for name in saved.names()) else PLAIN
    found = {name.removeprefix(start) for name in saved.names() if name.startswith(start)}
    odd = sorted(found ^ set(model.state_dict()))
    if odd:
        raise ResumeError(f"{saved.folder}: {odd[0]} is in the checkpoint or in the network, but not in both")
    try:
        model.load_state_dict({name: saved.rows(f"{start}{name}") for name in found}, strict=True)
    except RuntimeError as error:
        raise ResumeError(f"{saved.folder}: the checkpoint is of another network: {error}") from error
