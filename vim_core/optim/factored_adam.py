"""Adam with a factored second moment: what the paper trains its priors with (section 5.2).

Shazeer and Stern 2018, 'Adafactor', section 3 for the factorisation; the first moment and the absence of a relative
step size are the paper's. For a matrix W [R, C] with gradient G, at its t-th update:

    r  <- beta2 r + (1 - beta2) mean of G^2 over columns        [R]
    c  <- beta2 c + (1 - beta2) mean of G^2 over rows           [C]
    M  <- beta1 M + (1 - beta1) G                               [R, C], kept as fp32, bf16 or int8
    V   = r c / mean(r) / (1 - beta2^t)                         never stored
    U   = M / (1 - beta1^t) / (sqrt(V) + eps)
    W  <- (1 - lr decay) W - lr U

Tensors of more axes are matrices of their first axis by all others; vectors keep a plain second moment and an fp32
first one. Where G^2 has rank one, V is Adam's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from vim_core.errors import ConfigError
from vim_core.optim.int8_moments import TINY, block_length, dequantise, quantise
from vim_core.optim.masked_adamw import scalar

MOMENTS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


class StepNumbers(NamedTuple):
    """One group's numbers at one step; what changes from step to step is on the device."""

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


class FactoredAdam(Optimizer):
    """See the formulas above.

    Everything stays on the device: `lr` may be a tensor, and where `found_inf` (a tensor set by `guarded_step`) is
    not 0 the update is computed and thrown away, which leaves weights and state as they were to the last bit.

    Args:
        params: fp32 parameters, or groups of them with settings of their own.
        lr: number or scalar tensor.
        betas: of the first and the second moment.
        eps: added to the root of the second moment.
        weight_decay: decoupled.
        update_clip: where positive, U is scaled down to this root mean square (Adafactor's d; 0 is off).
        first_moment: fp32, bf16 (rounded to nearest) or int8 (see `optim_int8`), of matrices.

    Raises:
        ConfigError: the parameters are not fp32 or are sharded tensors.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.96),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        update_clip: float = 0.0,
        first_moment: str = "fp32",
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "update_clip": update_clip}
        super().__init__(params, defaults | {"first_moment": first_moment})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take parameters in; their state exists from then on, so that the first step is a step like any other.

        Raises:
            ConfigError: see the class.
        """
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.dtype is not torch.float32:
                raise ConfigError(f"optim.kind='factored': needs fp32 weights, found {p.dtype} {list(p.shape)}")
            if hasattr(p, "placements"):
                raise ConfigError(
                    "optim.kind='factored': the weights are sharded tensors (FSDP2), whose row and column means would "
                    "need collectives; use optim.kind=adamw there, or data parallelism without sharding"
                )
            self.state[p] = self._fresh(p)

    @property
    def moment(self) -> torch.dtype:
        """What the first moment of matrices is stored in."""
        return MOMENTS[self.defaults["first_moment"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter.

        Raises:
            ValueError: a parameter has no gradient; the group's parameters share one count of steps.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = group["params"]
            missing = [list(p.shape) for p in params if p.grad is None]
            if missing:
                raise ValueError(
                    f"{len(missing)} parameters have no gradient, such as {missing[0]}: freeze them instead"
                )
            rates = self._rates(group)
            for p in params:
                if p.ndim >= 2:
                    self._update_matrix(p, rates)
            self._update_vectors([p for p in params if p.ndim < 2], rates)
        return loss

    def _fresh(self, p: Tensor) -> dict[str, Tensor]:
        """State before the first update; names and dtypes are those of checkpoints."""

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=p.device)

        if p.ndim < 2:
            return {"step": zeros(), "exp_avg": zeros(*p.shape), "exp_avg_sq": zeros(*p.shape)}
        rows, columns = p.shape[0], math.prod(p.shape[1:])
        state = {"step": zeros(), "row": zeros(rows), "column": zeros(columns)}
        state["exp_avg"] = zeros(*p.shape, dtype=self.moment)
        if self.moment is torch.int8:
            state["exp_avg_scale"] = zeros(rows, columns // block_length(columns))
        return state

    def _rates(self, group: dict[str, Any]) -> StepNumbers:
        """Count the step (where it is not skipped) and give its numbers."""
        steps = [self.state[p]["step"] for p in group["params"]]
        device = steps[0].device
        found: Tensor = getattr(self, "found_inf", torch.zeros((), device=device))
        skip = found.to(device) != 0
        step = steps[0] + 1
        # A list, because with a single tensor torch's slow path would ask for its value.
        torch._foreach_add_(steps, [(~skip).to(step.dtype)] * len(steps))
        beta1, beta2 = group["betas"]
        return StepNumbers(
            # As data: a compiled program must not contain its value.
            lr.to(device) if isinstance(lr := group["lr"], Tensor) else scalar(lr, device),
            beta1,
            beta2,
            group["eps"],
            group["weight_decay"],
            group["update_clip"],
            step,
            _correction(beta1, step),
            _correction(beta2, step),
            skip,
        )

    def _update_matrix(self, p: Tensor, rates: StepNumbers) -> None:
        state = self.state[p]
        assert p.grad is not None
        gradient = p.grad.flatten(1)
        squares = gradient.square()
        row = torch.lerp(state["row"], squares.mean(1), 1 - rates.beta2)
        column = torch.lerp(state["column"], squares.mean(0), 1 - rates.beta2)
        del squares
        moment = torch.lerp(self._moment(state), gradient, 1 - rates.beta1)
        # The root of V is the outer product of two roots; dividing r by its mean first keeps tiny gradients in range.
        left = (row / row.mean().clamp_min(TINY)).sqrt()
        right = (column / rates.correction2).sqrt()
        update = (moment / rates.correction1).div_((left[:, None] * right).add_(rates.eps))
        _write_unless_skipped(rates, p, _updated(p, _clipped(update, rates.clip).view_as(p), rates))
        _write_unless_skipped(rates, state["row"], row)
        _write_unless_skipped(rates, state["column"], column)
        self._store(state, moment, rates)

    def _moment(self, state: dict[str, Tensor]) -> Tensor:
        """The first moment [R, C] in fp32."""
        stored = state["exp_avg"].flatten(1)
        return dequantise(stored, state["exp_avg_scale"]) if "exp_avg_scale" in state else stored.float()

    def _store(self, state: dict[str, Tensor], moment: Tensor, rates: StepNumbers) -> None:
        if "exp_avg_scale" in state:
            moment, scales = quantise(moment, rates.step)
            _write_unless_skipped(rates, state["exp_avg_scale"], scales)
        _write_unless_skipped(rates, state["exp_avg"], moment.to(self.moment).view_as(state["exp_avg"]))

    def _update_vectors(self, params: list[Tensor], rates: StepNumbers) -> None:
        """Plain Adam on all biases and norms end to end: hundreds of short vectors are one long one."""
        if not params:
            return
        states, sizes = [self.state[p] for p in params], [p.numel() for p in params]
        gradient = _concatenated([p.grad for p in params if p.grad is not None])
        moment = torch.lerp(_concatenated([s["exp_avg"] for s in states]), gradient, 1 - rates.beta1)
        second = torch.lerp(_concatenated([s["exp_avg_sq"] for s in states]), gradient.square(), 1 - rates.beta2)
        update = moment / rates.correction1 / ((second / rates.correction2).sqrt() + rates.eps)
        update = _concatenated([_clipped(part, rates.clip) for part in update.split(sizes)]) if rates.clip else update
        for old, new in (
            (params, _updated(_concatenated(params), update, rates)),
            ([s["exp_avg"] for s in states], moment),
            ([s["exp_avg_sq"] for s in states], second),
        ):
            kept = torch.where(rates.skip, _concatenated(old), new).split(sizes)
            torch._foreach_copy_(old, [part.view_as(p) for part, p in zip(kept, params, strict=True)])

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
                _copy_state(self.state[p], state_dict["state"][index], index)


def _correction(beta: float, step: Tensor) -> Tensor:
    """1 - beta^step, exact also for a beta near 1."""
    return -torch.expm1(step * math.log(beta)) if beta > 0 else torch.ones_like(step)


def _updated(p: Tensor, update: Tensor, rates: StepNumbers) -> Tensor:
    return p * (1 - rates.lr * rates.decay) - update * rates.lr


def _clipped(update: Tensor, limit: float) -> Tensor:
    return update / (update.square().mean().sqrt() / limit).clamp_min(1.0) if limit else update


def _write_unless_skipped(rates: StepNumbers, old: Tensor, new: Tensor) -> None:
    """Write the new value in place, unless the step is skipped."""
    old.copy_(torch.where(rates.skip, old, new))


def _concatenated(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _copy_state(fresh: dict[str, Tensor], saved: dict[str, Tensor], index: int) -> None:
    def described(state: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
        return {name: (value.shape, value.dtype) for name, value in state.items()}

    if described(fresh) != described(saved):
        raise ValueError(f"optimizer state {index}: saved {described(saved)}, expected {described(fresh)}")
    for name, value in fresh.items():
        value.copy_(saved[name])
