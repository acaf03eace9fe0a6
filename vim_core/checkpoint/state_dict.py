"""The state of a training as one flat state dict, whose names do not depend on how tensors are sharded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from vim_core.checkpoint.shard_files import SavedCheckpoint
from vim_core.distributed.fsdp import like, local, rows_here
from vim_core.errors import ResumeError


def flat_state_dict(modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
    """Every tensor of the training state under a path-like name: not copied, sharded ones as `DTensor`.

    `module/<module>/<key>` and `optimizer/<optimizer>/<module>/<parameter>/<slot>`.

    Raises:
        TypeError: an optimizer's state has something that is not a tensor.
    """
    state = {f"module/{name}/{key}": value for name, m in modules.items() for key, value in m.state_dict().items()}
    for name, optimizer in optimizers.items():
        for path, parameter in _optimized(modules, name, optimizer):
            for slot, value in optimizer.state.get(parameter, {}).items():
                if not isinstance(value, Tensor):
                    raise TypeError(f"{path}/{slot}: an optimizer's state must be tensors, not {type(value).__name__}")
                state[f"{path}/{slot}"] = value
    return {name: value.detach() for name, value in state.items()}


def restore(saved: SavedCheckpoint, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]) -> None:
    """Load a state in place and strictly, however it was sharded when it was saved.

    Raises:
        ResumeError: names, shapes or types do not match.
    """
    targets = {f"module/{n}/{key}": value for n, m in modules.items() for key, value in m.state_dict().items()}
    _check_names(set(targets), {name for name in saved.names() if name.startswith("module/")})
    for name, target in targets.items():
        expected, found = (tuple(target.shape), target.dtype), saved.describe(name)
        if found != expected:
            here = f"{expected[1]} {list(expected[0])} here"
            raise ResumeError(f"{name}: {found[1]} {list(found[0])} in the checkpoint, {here}")
        with torch.no_grad():
            local(target).copy_(_own_rows(saved, name, target))
    slots: dict[str, list[str]] = {}
    for name in sorted(saved.names()):
        if name.startswith("optimizer/"):
            slots.setdefault(name.rpartition("/")[0], []).append(name)
    for name, optimizer in optimizers.items():
        fresh = dict(optimizer.state)
        optimizer.state.clear()
        for path, parameter in _optimized(modules, name, optimizer):
            if path in slots:
                for slot in slots.pop(path):
                    key = slot.rpartition("/")[2]
                    # Sharded as the optimizer made it, or if it makes no state before its first step, as the parameter
                    # where it has its shape.
                    same = saved.describe(slot)[0] == tuple(parameter.shape)
                    model = fresh.get(parameter, {}).get(key, parameter if same else None)
                    if isinstance(model, DTensor):
                        rows = _own_rows(saved, slot, model).to(parameter.device)
                        optimizer.state[parameter][key] = like(model, rows)
                    else:
                        optimizer.state[parameter][key] = saved.rows(slot).to(parameter.device, copy=True)
    _check_names(set(), set(slots))


def _optimized(modules: Mapping[str, nn.Module], name: str, optimizer: Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of an optimizer with the path of their state, which names the module that they belong to."""
    names = {id(p): f"{module}/{key}" for module, m in modules.items() for key, p in m.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield f"optimizer/{name}/{names[id(parameter)]}", parameter


def _own_rows(saved: SavedCheckpoint, name: str, target: Tensor) -> Tensor:
    """This worker's rows of a tensor that is sharded as `target`."""
    return saved.rows(name, *rows_here(target)) if isinstance(target, DTensor) else saved.rows(name)


def _check_names(expected: set[str], found: set[str]) -> None:
    odd = sorted(expected ^ found)
    if odd:
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise ResumeError(f"{odd[0]}{more}: in the checkpoint or in this training, but not in both")
