"""What a checkpoint holds: every tensor of a training under a name that does not depend on how it was split."""

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


class Source(Protocol):
    """Where `restore` takes tensors from: a saved checkpoint."""

    def names(self) -> set[str]:
        """Of all tensors."""

    def describe(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and type of a whole tensor."""

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Some rows of a tensor, or all of it."""


@dataclass(frozen=True)
class Held(Source):
    """A state in memory."""

    state: State

    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self.state)

    def describe(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and type of a whole tensor."""
        return tuple(self.state[name].shape), self.state[name].dtype

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Some rows of a tensor, or all of it."""
        value = self.state[name]
        return value[start:stop] if value.ndim else value


@dataclass(frozen=True)
class Piece:
    """The rows `start … stop - 1` that one worker writes of a tensor of this shape; (0, 0) for a scalar."""

    value: Tensor
    shape: tuple[int, ...]
    rows: tuple[int, int]


def flatten(modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
    """Every tensor of the training state under a path-like name: live, sharded ones as `DTensor`.

    `module/<module>/<key>` and `optimizer/<optimizer>/<module>/<parameter>/<slot>`.

    Raises:
        TypeError: an optimizer keeps something that is not a tensor.
    """
    state = {f"module/{name}/{key}": value for name, m in modules.items() for key, value in m.state_dict().items()}
    for name, optimizer in optimizers.items():
        for place, parameter in _places(modules, name, optimizer):
            for slot, value in optimizer.state.get(parameter, {}).items():
                if not isinstance(value, Tensor):
                    raise TypeError(f"{place}/{slot}: an optimizer's state must be tensors, not {type(value).__name__}")
                state[f"{place}/{slot}"] = value
    return {name: value.detach() for name, value in state.items()}


def restore(source: Source | State, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]) -> None:
    """Put a state back in place, strictly, whatever the split it was saved under.

    Raises:
        ResumeError: names, shapes or types do not match.
    """
    saved: Source = Held(source) if isinstance(source, Mapping) else source
    targets = {f"module/{n}/{key}": value for n, m in modules.items() for key, value in m.state_dict().items()}
    _same_names(set(targets), {name for name in saved.names() if name.startswith("module/")})
    for name, target in targets.items():
        _fits(saved, name, tuple(target.shape), target.dtype)
        with torch.no_grad():
            local(target).copy_(_rows(saved, name, target))
    slots: dict[str, list[str]] = {}
    for name in sorted(saved.names()):
        if name.startswith("optimizer/"):
            slots.setdefault(name.rpartition("/")[0], []).append(name)
    for name, optimizer in optimizers.items():
        optimizer.state.clear()
        for place, parameter in _places(modules, name, optimizer):
            if place in slots:
                optimizer.state[parameter] = {
                    s.rpartition("/")[2]: _slot(saved, s, parameter) for s in slots.pop(place)
                }
    _same_names(set(), set(slots))


def pieces(state: State, rank: int, world: int) -> Iterator[tuple[str, Piece]]:
    """What worker `rank` writes, as copies on the CPU: its rows of sharded tensors, its share of the others.

    Raises:
        TypeError: a tensor is sharded in another way than by rows.
    """
    loads = [0] * world
    for name, value in state.items():
        shape = tuple(value.shape)
        if isinstance(value, DTensor):
            if not all(placement.is_shard(0) for placement in value.placements):
                raise TypeError(f"{name}: split as {value.placements}, checkpoints know tensors split by rows only")
            rows = rows_here(value)
            if rows[0] < rows[1]:
                yield name, Piece(_copy(value.to_local()), shape, rows)
            continue
        owner = loads.index(min(loads))
        loads[owner] += value.numel() * value.element_size() + 1
        if owner == rank:
            yield name, Piece(_copy(value), shape, (0, shape[0] if shape else 0))


def _copy(value: Tensor) -> Tensor:
    # A copy also on the CPU: training goes on while it is written.
    return value.detach().to("cpu", copy=True).contiguous()


def _places(modules: Mapping[str, nn.Module], name: str, optimizer: Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of an optimizer, named after the module they belong to."""
    known = {id(p): f"{module}/{key}" for module, m in modules.items() for key, p in m.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield f"optimizer/{name}/{known[id(parameter)]}", parameter


def _rows(saved: Source, name: str, target: Tensor) -> Tensor:
    return saved.rows(name, *rows_here(target)) if isinstance(target, DTensor) else saved.rows(name)


def _slot(saved: Source, name: str, parameter: nn.Parameter) -> Tensor:
    if isinstance(parameter, DTensor) and saved.describe(name)[0] == tuple(parameter.shape):
        return like(parameter, _rows(saved, name, parameter).to(parameter.device))
    return saved.rows(name).to(parameter.device, copy=True)


def _same_names(expected: set[str], found: set[str]) -> None:
    odd = sorted(expected ^ found)
    if odd:
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise ResumeError(f"{odd[0]}{more}: in the checkpoint or in this training, but not in both")


def _fits(saved: Source, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    found = saved.describe(name)
    if found != (shape, dtype):
        raise ResumeError(f"{name}: {found[1]} {list(found[0])} in the checkpoint, {dtype} {list(shape)} here")
