"""Checkpoints: one safetensors file each, committed atomically, continued only on the same numeric class."""

from __future__ import annotations

import json
import logging
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from vim_core import io
from vim_core.errors import ResumeError

log = logging.getLogger(__name__)


def flatten(modules: dict[str, nn.Module], optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
    """Every tensor of the training state under a path-like name."""
    state = {f"module/{name}/{key}": value for name, m in modules.items() for key, value in m.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            state |= {f"optimizer/{name}/{index}/{slot}": value for slot, value in slots.items()}
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def restore(state: dict[str, Tensor], modules: dict[str, nn.Module], optimizers: dict[str, Optimizer]) -> None:
    """Put a flattened state back, strictly.

    Raises:
        RuntimeError: names or shapes do not match.
    """
    for name, module in modules.items():
        prefix = f"module/{name}/"
        module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    for name, optimizer in optimizers.items():
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith(f"optimizer/{name}/"):
                index, slot = key.removeprefix(f"optimizer/{name}/").split("/", 1)
                slots.setdefault(int(index), {})[slot] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


class Checkpoints:
    """The checkpoints of one training in one folder (local or remote); the newest `keep` are kept.

    Args:
        folder: below the component's leased work folder, one per numeric class.
        identity: what must match to continue, such as the fingerprint; a mismatch is refused.
    """

    def __init__(self, folder: str, identity: dict[str, Any], keep: int = 2) -> None:
        self.folder = folder
        self.identity = identity
        self.keep = keep

    def _names(self) -> list[str]:
        return [n for n in io.listing(self.folder) if n.startswith("step-") and n.endswith(".safetensors")]

    def save(self, step: int, state: dict[str, Tensor]) -> None:
        """Commit the state after `step` steps and drop the oldest beyond `keep`."""
        from safetensors.torch import save

        meta = {"step": str(step), "identity": json.dumps(self.identity, sort_keys=True)}
        io.write_bytes(io.join(self.folder, f"step-{step:08d}.safetensors"), save(state, metadata=meta))
        for name in self._names()[: -self.keep]:
            io.remove_tree(io.join(self.folder, name))

    def latest(self) -> tuple[int, dict[str, Tensor]] | None:
        """The newest whole checkpoint as (steps done, state), or None; a damaged one is passed over with a warning.

        Raises:
            ResumeError: it belongs to another training.
        """
        for name in reversed(self._names()):
            data = io.read_bytes(io.join(self.folder, name))
            found = _parse(data)
            if found is None:
                log.warning("%s/%s is damaged; trying the one before", self.folder, name)
                continue
            step, identity, state = found
            if identity != self.identity:
                raise ResumeError(f"{self.folder}/{name} belongs to {identity}, not to {self.identity}; remove it")
            return step, state
        return None


def _parse(data: bytes) -> tuple[int, dict[str, Any], dict[str, Tensor]] | None:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(data)
        length = int.from_bytes(data[:8], "little")
        meta = json.loads(data[8 : 8 + length])["__metadata__"]
        return int(meta["step"]), json.loads(meta["identity"]), state
    except (SafetensorError, KeyError, ValueError):
        return None
