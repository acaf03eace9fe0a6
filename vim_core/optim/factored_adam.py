"""Adam with a factored second moment, with which the paper trains its priors (section 5.2).

Shazeer and Stern 2018, 'Adafactor', section 3 for the factorisation; the first moment and the absence of a relative
step size are the paper's. For a matrix W [R, C] with gradient G, at its t-th update:

    r  <- beta2 r + (1 - beta2) mean of G^2 over columns        [R]
    c  <- beta2 c + (1 - beta2) mean of G^2 over rows           [C]
    M  <- beta1 M + (1 - beta1) G                               [R, C], kept as fp32, bf16 or int8
    V   = r c / mean(r) / (1 - beta2^t)                         never stored
    U   = M / (1 - beta1^t) / (sqrt(V) + eps)
    W  <- (1 - lr decay) W - lr U

Tensors of more axes are matrices of their first axis by all others; vectors keep a plain second moment and an fp32
first one. Where G^2 has rank one, V is Adam's. An int8 first moment is stored as blocks of levels, each with one fp32
scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from vim_core.distributed.fsdp import like, local, sum_over_shards
from vim_core.errors import ConfigError
from vim_core.optim.masked_adamw import bias_correction, scalar

LEVELS = 127
"""A block's largest magnitude is level 127; -128 is not used, so that signs are symmetric."""

BLOCK = 256
"""At most this many neighbouring elements of a row share a scale."""

SHORTEST = 16
"""Below this a block's scale would weigh more than what eight bits save; the whole row is one block then."""

TINY = torch.finfo(torch.float32).tiny


def block_length(columns: int) -> int:
    """Elements per block of rows of this length: the longest divisor up to 256, or the row if that is under 16.

    Blocks never cross rows, so a matrix that is split by rows over devices keeps its blocks.
    """
    divisor = next(length for length in range(min(BLOCK, columns), 0, -1) if columns % length == 0)
    return columns if divisor < SHORTEST else divisor


def thresholds(length: int, step: Tensor) -> Tensor:
    """Rounding thresholds in [0, 1) of `length` elements at step `step`: [length], a pure function of the step.

    Multiples of the golden ratio cover the interval evenly. Rounding to the nearest instead would never change some
    elements: 0.9 times 4 levels is nearer to 4 than to 3, so a moment without gradient would never decay.
    """
    index = torch.arange(length, device=step.device)
    # In 16-bit integers: exact on every device. 40503 / 65536 is the golden ratio, 25173 is any odd number.
    return ((index * 25_173 + step.to(torch.int64) * 40_503) & 0xFFFF).to(torch.float32) / 65_536


def quantise(x: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix [R, C] to int8 levels [R, C] and scales [R, C / block].

    The error of an element is less than one level, its block's largest magnitude / 127, and over the steps it is
    rounded up in proportion to its fraction, so that errors do not add up in one direction. A moment that decays by
    beta and is stored at each step lies within 1 / (1 - beta) levels of the exact one. See `thresholds` for the step.
    """
    length = block_length(x.shape[1])
    blocks = x.reshape(len(x), x.shape[1] // length, length)  # [R, C / block, block]
    scales = blocks.abs().amax(2) / LEVELS  # [R, C / block]
    levels = torch.floor(blocks / scales.clamp_min(TINY)[:, :, None] + thresholds(length, step))
    return levels.clamp(-LEVELS, LEVELS).to(torch.int8).flatten(1), scales


def dequantise(levels: Tensor, scales: Tensor) -> Tensor:
    """The fp32 matrix [R, C] of int8 levels [R, C] and scales [R, C / block]."""
    # Not by -1: a worker may have no rows.
    blocks = levels.reshape(*scales.shape, levels.shape[1] // scales.shape[1]).to(scales.dtype)  # [R, C / block, block]
    return (blocks * scales[:, :, None]).flatten(1)


MOMENTS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


class Coefficients(NamedTuple):
    """Coefficients of one parameter group at one step; those that change with the step are on the device."""

    lr: Tensor
    beta1: float
    beta2: float
    eps: float
    decay: float
    clip: float
    step: Tensor
    correction1: Tensor
    correction2: Tensor
    skip: Tensor


class Means(NamedTuple):
    """New second moments of a matrix: r [R] of this worker's rows, c [C], and the mean of r over all rows."""

    row: Tensor
    column: Tensor
    row_mean: Tensor


class FactoredAdam(Optimizer):
    """Adam with a factored second moment, by the formulas above.

    Of a parameter that FSDP2 has sharded, each worker has its rows of M and r, and all have c.

    Everything stays on the device: where `found_inf` (a tensor set by `guarded_step`) is
    not 0 the update is computed and discarded, which leaves weights and state as they were to the last bit.

    Args:
        params: fp32 parameters, or groups of them with settings of their own.
        lr: may change between steps.
        betas: of the first and the second moment.
        eps: added to the root of the second moment.
        weight_decay: decoupled.
        update_clip: where positive, U is scaled down to this root mean square (Adafactor's d; 0 is off).
        first_moment: fp32, bf16 (rounded to nearest) or int8 (see `quantise`), of matrices.

    Raises:
        ConfigError: the parameters are not fp32.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.96),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        update_clip: float = 0.0,
        first_moment: str = "fp32",
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "update_clip": update_clip}
        super().__init__(params, defaults | {"first_moment": first_moment})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters and create their state, so that the first step runs the same program as the others.

        Raises:
            ConfigError: see the class.
        """
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.dtype is not torch.float32:
                raise ConfigError(f"optim.kind='factored': needs fp32 weights, found {p.dtype} {list(p.shape)}")
            self.state[p] = self._fresh(p)

    @property
    def moment(self) -> torch.dtype:
        """Type of the stored first moment of matrices."""
        return MOMENTS[self.defaults["first_moment"]]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter.

        Raises:
            ValueError: a closure is given, or a parameter has no gradient: a group's parameters share a count of steps.
        """
        if closure is not None:
            raise ValueError("FactoredAdam takes no closure")
        for group in self.param_groups:
            params: list[Tensor] = group["params"]
            missing = [list(p.shape) for p in params if p.grad is None]
            if missing:
                raise ValueError(
                    f"{len(missing)} parameters have no gradient, such as {missing[0]}: freeze them instead"
                )
            c = self._coefficients(group)
            self._update_matrices([p for p in params if p.ndim >= 2], c)
            self._update_vectors([p for p in params if p.ndim < 2], c)

    def _fresh(self, p: Tensor) -> dict[str, Tensor]:
        """State before the first update; names and dtypes are those of checkpoints."""

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=p.device)

        if p.ndim < 2:
            return {"step": zeros(), "exp_avg": zeros(*p.shape), "exp_avg_sq": zeros(*p.shape)}
        rows, columns = len(local(p)), math.prod(p.shape[1:])
        state = {"row": zeros(rows), "exp_avg": zeros(rows, *p.shape[1:], dtype=self.moment)}
        if self.moment is torch.int8:
            state["exp_avg_scale"] = zeros(rows, columns // block_length(columns))
        if isinstance(p, DTensor):
            state = {name: like(p, value) for name, value in state.items()}
        return {"step": zeros(), "column": zeros(columns), **state}

    def _coefficients(self, group: dict[str, Any]) -> Coefficients:
        """Count the step (where it is not skipped); returns its coefficients."""
        steps = [self.state[p]["step"] for p in group["params"]]
        device = steps[0].device
        found_inf: Tensor = getattr(self, "found_inf", torch.zeros((), device=device))
        skip = found_inf.to(device) != 0
        step = steps[0] + 1
        # A list: for a single tensor torch's slow path would read its value.
        torch._foreach_add_(steps, [(~skip).to(step.dtype)] * len(steps))
        beta1, beta2 = group["betas"]
        return Coefficients(
            # As data: a compiled program must not contain its value.
            scalar(group["lr"], device),
            beta1,
            beta2,
            group["eps"],
            group["weight_decay"],
            group["update_clip"],
            step,
            bias_correction(beta1, step),
            bias_correction(beta2, step),
            skip,
        )

    def _update_matrices(self, params: list[Tensor], c: Coefficients) -> None:
        """Update all matrices, each worker its rows of sharded ones.

        Sharded matrices cost one collective of C + 1 values each, and with a clip one more of one value, all batched.
        """
        means = self._new_means(params, c)
        sizes: dict[Tensor, Tensor] = {}
        if c.clip:
            # Updates are computed twice rather than kept: together they are as large as the network.
            split = [p for p in params if isinstance(p, DTensor)]
            own = [self._direction(p, means[p], c)[1].square().sum() for p in split]
            totals = sum_over_shards(own, split[0]) if split else []
            sizes = {p: total / p.numel() for p, total in zip(split, totals, strict=True)}
        for p in params:
            state, weights = self._rows_of_state(p), local(p)
            moment, update = self._direction(p, means[p], c)
            update = _clipped(update, c.clip, sizes.get(p)).view_as(weights)
            _write_unless_skipped(c, weights, _step_weights(weights, update, c))
            _write_unless_skipped(c, state["row"], means[p].row)
            _write_unless_skipped(c, state["column"], means[p].column)
            if "exp_avg_scale" in state:
                moment, scales = quantise(moment, c.step)
                _write_unless_skipped(c, state["exp_avg_scale"], scales)
            _write_unless_skipped(c, state["exp_avg"], moment.to(self.moment).view_as(state["exp_avg"]))

    def _new_means(self, params: list[Tensor], c: Coefficients) -> dict[Tensor, Means]:
        """The second moments after this step."""
        rows: dict[Tensor, Tensor] = {}
        over_rows: dict[Tensor, tuple[Tensor, Tensor]] = {}
        for p in params:
            squares = _gradient(p).square()  # [R, C]
            row = rows[p] = torch.lerp(local(self.state[p]["row"]), squares.mean(1), 1 - c.beta2)  # [R]
            if isinstance(p, DTensor):
                over_rows[p] = squares.sum(0) / p.shape[0], row.sum() / p.shape[0]
            else:
                over_rows[p] = squares.mean(0), row.mean()
        split = [p for p in params if isinstance(p, DTensor)]
        if split:
            sums = sum_over_shards([part for p in split for part in over_rows[p]], split[0])
            over_rows |= dict(zip(split, zip(sums[::2], sums[1::2], strict=True), strict=True))
        return {
            p: Means(rows[p], torch.lerp(self.state[p]["column"], column, 1 - c.beta2), mean)
            for p, (column, mean) in over_rows.items()
        }

    def _direction(self, p: Tensor, means: Means, c: Coefficients) -> tuple[Tensor, Tensor]:
        """The first moment after this step and U, both [R, C], of this worker's rows."""
        state = self._rows_of_state(p)
        stored = state["exp_avg"].flatten(1)
        # Not bound to a name: in fp32 it is as large as the parameter.
        moment = torch.lerp(
            dequantise(stored, state["exp_avg_scale"]) if "exp_avg_scale" in state else stored.float(),
            _gradient(p),
            1 - c.beta1,
        )
        # The root of V is the outer product of two roots; dividing r by its mean first keeps tiny gradients in range.
        left = (means.row / means.row_mean.clamp_min(TINY)).sqrt()
        right = (means.column / c.correction2).sqrt()
        return moment, (moment / c.correction1).div_((left[:, None] * right).add_(c.eps))

    def _rows_of_state(self, p: Tensor) -> dict[str, Tensor]:
        """The parameter's state, of sharded tensors this worker's rows."""
        return {name: local(value) for name, value in self.state[p].items()}

    def _update_vectors(self, params: list[Tensor], c: Coefficients) -> None:
        """Plain Adam on all biases and norms concatenated, instead of hundreds of short vectors."""
        if not params:
            return
        states, sizes = [self.state[p] for p in params], [p.numel() for p in params]
        gradient = _concatenated([p.grad for p in params if p.grad is not None])  # [all elements], as all below
        moment = torch.lerp(_concatenated([s["exp_avg"] for s in states]), gradient, 1 - c.beta1)
        second = torch.lerp(_concatenated([s["exp_avg_sq"] for s in states]), gradient.square(), 1 - c.beta2)
        update = moment / c.correction1 / ((second / c.correction2).sqrt() + c.eps)
        update = _concatenated([_clipped(part, c.clip) for part in update.split(sizes)]) if c.clip else update
        for targets, new in (
            (params, _step_weights(_concatenated(params), update, c)),
            ([s["exp_avg"] for s in states], moment),
            ([s["exp_avg_sq"] for s in states], second),
        ):
            values = torch.where(c.skip, _concatenated(targets), new).split(sizes)
            torch._foreach_copy_(targets, [value.view_as(p) for value, p in zip(values, params, strict=True)])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state strictly; unlike torch's own, tensors keep their dtype (int8 levels stay int8).

        Raises:
            ValueError: a parameter's state has other names, shapes or dtypes, such as another `first_moment`.
        """
        super().load_state_dict({**state_dict, "state": {}})
        indices = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        for index, p in zip(indices, params, strict=True):
            self.state[p] = self._fresh(p)
            if index in state_dict["state"]:
                saved, fresh = state_dict["state"][index], self.state[p]
                found, expected = ({k: (v.shape, v.dtype) for k, v in state.items()} for state in (saved, fresh))
                if found != expected:
                    raise ValueError(f"optimizer state {index}: saved {found}, expected {expected}")
                for name, value in fresh.items():
                    value.copy_(saved[name])


def _step_weights(p: Tensor, update: Tensor, c: Coefficients) -> Tensor:
    return p * (1 - c.lr * c.decay) - update * c.lr


def _clipped(update: Tensor, limit: float, size: Tensor | None = None) -> Tensor:
    """U scaled down to the limit; `size` is the mean of its squares where it is a part of a larger one."""
    if not limit:
        return update
    size = update.square().mean() if size is None else size
    return update / (size.sqrt() / limit).clamp_min(1.0)


def _gradient(p: Tensor) -> Tensor:
    """This worker's rows of the gradient, as a matrix."""
    assert p.grad is not None
    return local(p.grad).flatten(1)


def _write_unless_skipped(c: Coefficients, old: Tensor, new: Tensor) -> None:
    """Write the new value in place, unless the step is skipped."""
    old.copy_(torch.where(c.skip, old, new))


def _concatenated(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
