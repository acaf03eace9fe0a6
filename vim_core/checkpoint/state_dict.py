"""The state of a training as one flat state dict, whose names do not depend on how tensors are sharded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from vim_core.distributed.fsdp import like, local, rows_here
from vim_core.errors import ResumeError

State = Mapping[str, Tensor]


class StateReader(Protocol):
    """A state that `restore` reads, such as a saved checkpoint."""

    def names(self) -> set[str]:
        """Names of all tensors."""

    def describe(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and type of a whole tensor."""

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start … stop - 1` of a tensor, by default all of it."""


@dataclass(frozen=True)
class InMemoryState(StateReader):
    """A state in memory."""

    state: State

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self.state)

    def describe(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and type of a whole tensor."""
        return tuple(self.state[name].shape), self.state[name].dtype

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start … stop - 1` of a tensor, by default all of it."""
        value = self.state[name]
        return value[start:stop] if value.ndim else value


@dataclass(frozen=True)
class TensorShard:
    """Rows `start … stop - 1` of a tensor of this shape, as one worker writes them; (0, 0) for a scalar."""

    value: Tensor
    shape: tuple[int, ...]
    rows: tuple[int, int]


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


def restore(state: StateReader | State, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]) -> None:
    """Load a state in place and strictly, however it was sharded when it was saved.

    Raises:
        ResumeError: names, shapes or types do not match.
    """
    saved: StateReader = InMemoryState(state) if isinstance(state, Mapping) else state
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
        optimizer.state.clear()
        for path, parameter in _optimized(modules, name, optimizer):
            if path in slots:
                optimizer.state[parameter] = {
                    slot.rpartition("/")[2]: _optimizer_slot(saved, slot, parameter) for slot in slots.pop(path)
                }
    _check_names(set(), set(slots))


def shard_state_dict(state: State, rank: int, world: int) -> Iterator[tuple[str, TensorShard]]:
    """The shards that worker `rank` writes, copied to the CPU: its rows of sharded tensors, its share of the others.

    Raises:
        TypeError: a tensor is sharded in another way than by rows.
    """

    def copied(value: Tensor) -> Tensor:
        # A copy also on the CPU: training goes on while it is written.
        return value.detach().to("cpu", copy=True).contiguous()

    loads = [0] * world
    for name, value in state.items():
        shape = tuple(value.shape)
        if isinstance(value, DTensor):
            if not all(placement.is_shard(0) for placement in value.placements):
                raise TypeError(f"{name}: split as {value.placements}, checkpoints know tensors split by rows only")
            rows = rows_here(value)
            if rows[0] < rows[1]:
                yield name, TensorShard(copied(value.to_local()), shape, rows)
            continue
        owner = loads.index(min(loads))
        loads[owner] += value.numel() * value.element_size() + 1
        if owner == rank:
            yield name, TensorShard(copied(value), shape, (0, shape[0] if shape else 0))


def _optimized(modules: Mapping[str, nn.Module], name: str, optimizer: Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of an optimizer with the path of their state, which names the module that they belong to."""
    names = {id(p): f"{module}/{key}" for module, m in modules.items() for key, p in m.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield f"optimizer/{name}/{names[id(parameter)]}", parameter


def _own_rows(saved: StateReader, name: str, target: Tensor) -> Tensor:
    """This worker's rows of a tensor that is sharded as `target`."""
    return saved.rows(name, *rows_here(target)) if isinstance(target, DTensor) else saved.rows(name)


def _optimizer_slot(saved: StateReader, name: str, parameter: nn.Parameter) -> Tensor:
    """Optimizer state of a parameter, sharded as the parameter where it has its shape."""
    if isinstance(parameter, DTensor) and saved.describe(name)[0] == tuple(parameter.shape):
        return like(parameter, _own_rows(saved, name, parameter).to(parameter.device))
    return saved.rows(name).to(parameter.device, copy=True)


def _check_names(expected: set[str], found: set[str]) -> None:
    odd = sorted(expected ^ found)
    if odd:
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise ResumeError(f"{odd[0]}{more}: in the checkpoint or in this training, but not in both")
