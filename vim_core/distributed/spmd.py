"""Sharding rules for XLA: from patterns of parameter names to partition specs, as pure functions without a device.

A spec has one entry per dimension of the tensor: the mesh axis it is sharded over, or None. The rules are FSDP's: every
matrix is sharded over one axis, `fsdp`, and gathered where it is used; vectors are small and replicated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from vim_core.errors import ConfigError

Spec = tuple[str | None, ...]
DATA, FSDP = "data", "fsdp"
AXES = (DATA, FSDP)
"""Axes of the device mesh. The batch is sharded over both: a device that holds a shard of the weights also takes a part
of the batch (FSDP, Zhao et al. 2023)."""

ROWS: Spec = (FSDP, None)
COLUMNS: Spec = (None, FSDP)
OUTPUTS: Spec = (FSDP, None, None, None)


class Rule(NamedTuple):
    """Parameters whose whole name matches `pattern` and that have as many dimensions as `spec`."""

    pattern: str
    spec: Spec


TOKENIZER = (
    Rule(r"(encoder|decoder)\.blocks\.\d+\..+\.weight", ROWS),
    Rule(r"(embed|from_code|(encoder|decoder)_head\.up)\.weight", ROWS),
    Rule(r"(to_code|(encoder|decoder)_head\.down)\.weight", COLUMNS),
    Rule(r"codebook\.weight", ROWS),
)
PRIOR = (
    Rule(r"blocks\.\d+\..+\.weight", ROWS),
    Rule(r"(code|class)_embedding\.weight", COLUMNS),
    Rule(r"head\.weight", ROWS),
)
DISCRIMINATOR = (
    Rule(r"(from_rgb|conv|blocks\.\d+\.(conv1|conv2|skip))\.weight", OUTPUTS),
    Rule(r"hidden\.weight", ROWS),
)
RULES = {"ViTVQGAN": TOKENIZER, "ImagePrior": PRIOR, "StyleGANDiscriminator": DISCRIMINATOR}
"""Rules by the network's class; one without rules (the small classifier) is replicated."""

BLOCK = re.compile(r"(.+\.)?blocks\.\d+")
"""Submodules whose output stays sharded along the batch, so that weights are moved and not activations."""


def resolve(shapes: Mapping[str, Sequence[int]], rules: Iterable[Rule]) -> dict[str, Spec]:
    """The spec of every parameter by name; one that no rule matches is replicated. The order of rules has no effect.

    Raises:
        ConfigError: a rule matches no parameter, or a parameter has two different specs.
    """
    specs: dict[str, Spec] = {name: (None,) * len(shape) for name, shape in shapes.items()}
    chosen: dict[str, Rule] = {}
    for rule in rules:
        pattern, spec = rule
        names = [n for n, shape in shapes.items() if len(shape) == len(spec) and re.fullmatch(pattern, n)]
        if not names:
            present = ", ".join([f"{name} {list(shape)}" for name, shape in shapes.items()][:5])
            more = f" and {len(shapes) - 5} more" if len(shapes) > 5 else ""
            raise ConfigError(
                f"sharding pattern {pattern!r} with {len(spec)} dimensions matches no parameter; "
                f"there are {present}{more}"
            )
        for name in names:
            other = chosen.setdefault(name, rule)
            if other.spec != spec:
                raise ConfigError(
                    f"parameter {name!r} is matched by {other.pattern!r} as {other.spec} and by {pattern!r} as {spec}; "
                    "let one pattern match it"
                )
            specs[name] = spec
    return specs


def check_divisible(shapes: Mapping[str, Sequence[int]], specs: Mapping[str, Spec], sizes: Mapping[str, int]) -> None:
    """Refuse uneven shards, which would be padded on every device; `sizes` are the devices along each axis of the mesh.

    Raises:
        ConfigError: a dimension is not divisible by the size of its axis.
    """
    for name, spec in specs.items():
        for dimension, axis in enumerate(spec):
            if axis is not None and shapes[name][dimension] % sizes[axis]:
                raise ConfigError(
                    f"run.fsdp={sizes[axis]}: does not divide dimension {dimension} of {name} {list(shapes[name])}; "
                    "choose a number that divides the model's widths"
                )


def specs_of(module: nn.Module) -> dict[str, Spec]:
    """The specs of a network's parameters by the rules of its class. Raises `ConfigError` as `resolve` does."""
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    return resolve(shapes, RULES.get(type(module).__name__, ()))


def slot_spec(name: str, slot: Tensor, parameter: Tensor, spec: Spec, sizes: Mapping[str, int]) -> Spec:
    """The spec of one optimizer slot: its parameter's where it has the same shape.

    Slots of the factored Adam lack the axis that they are means over: `row` [R] and `column` [C] of a parameter [R, …],
    C its other axes flattened. Scales of int8 blocks follow both, unless a block would lie on two devices. All others
    are replicated.
    """
    if slot.shape == parameter.shape:
        return spec
    if name not in ("row", "column", "exp_avg_scale"):
        return (None,) * slot.ndim
    # When axes are flattened, only the first is contiguous on each device.
    row, column = spec[0], spec[1] if set(spec[2:]) <= {None} else None
    if name == "exp_avg_scale":
        return row, column if column is None or slot.shape[1] % sizes[column] == 0 else None
    return (row,) if name == "row" else (column,)


def optimizer_specs(
    optimizer: Optimizer, specs: Mapping[Tensor, Spec], sizes: Mapping[str, int]
) -> list[tuple[Tensor, Spec]]:
    """The slots of an optimizer whose state is made, with their specs; `specs` are those of the parameters."""
    return [
        (slot, slot_spec(name, slot, parameter, specs.get(parameter, (None,) * parameter.ndim), sizes))
        for parameter, slots in optimizer.state.items()
        for name, slot in slots.items()
        if isinstance(slot, Tensor)
    ]
