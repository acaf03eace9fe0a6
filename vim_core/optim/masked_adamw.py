"""AdamW as a constant graph, for devices without a fused one: no Python number in it changes with the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def scalar(value: float, device: torch.device) -> Tensor:
    """An fp32 scalar [] on the device that the host does not wait for.

    On XLA it arrives as data, so that a compiled program does not depend on its value, and as a vector of one:
    torch_xla writes scalars of 0 and 1 into the program as constants and merges equal ones, so that a weight reaching
    1, or two equal rates, would compile everything anew. Elsewhere the device fills it: a copy from ordinary memory to
    a GPU would wait for all that the GPU was given before.
    """
    if device.type == "xla":
        return torch.tensor([value], dtype=torch.float32).to(device).squeeze(0)
    return torch.full((), value, dtype=torch.float32, device=device)


def bias_correction(beta: float, step: Tensor) -> Tensor:
    """1 - beta^step without the cancellation that fp32 would suffer where beta^step is near 1."""
    return -torch.expm1(step * math.log(beta)) if beta > 0 else torch.ones_like(step)


class MaskedAdamW(Optimizer):
    """`torch.optim.AdamW` (Loshchilov & Hutter 2019) whose update a device flag can switch off.

    Set `found_inf` (0 or 1, a device scalar) before `step`, as with torch's fused form: where it is 1, weights,
    moments and step counters keep their values. Moments exist from the start, so that the first step runs the same
    program as the others and sharding can be laid on them.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32).to(parameter.device),
                    "exp_avg": torch.zeros(parameter.shape, dtype=parameter.dtype).to(parameter.device),
                    "exp_avg_sq": torch.zeros(parameter.shape, dtype=parameter.dtype).to(parameter.device),
                }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load saved state; torch would leave the step counters on the device that they were saved on."""
        super().load_state_dict(state_dict)
        for parameter, slots in self.state.items():
            slots["step"] = slots["step"].to(parameter.device)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient. Raises `ValueError` for a closure."""
        if closure is not None:
            raise ValueError("MaskedAdamW takes no closure")
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                rate = scalar(group["lr"], parameters[0].device)
                for parameter in parameters:
                    self._update(parameter, group, rate)

    def _update(self, parameter: Tensor, group: dict[str, Any], rate: Tensor) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        (beta1, beta2), decay = group["betas"], group["weight_decay"]
        count = state["step"] + 1
        average = beta1 * state["exp_avg"] + (1 - beta1) * gradient
        square = beta2 * state["exp_avg_sq"] + (1 - beta2) * gradient.square()
        correction1, correction2 = bias_correction(beta1, count), bias_correction(beta2, count)
        denominator = square.sqrt() / correction2.sqrt() + group["eps"]
        updated = parameter * (1 - rate * decay) - rate / correction1 * average / denominator
        self._write_unless_skipped(parameter, updated)
        self._write_unless_skipped(state["exp_avg"], average)
        self._write_unless_skipped(state["exp_avg_sq"], square)
        self._write_unless_skipped(state["step"], count)

    def _write_unless_skipped(self, target: Tensor, value: Tensor) -> None:
        """Copy `value` into `target`, unless the flag is set."""
        target.copy_(value if self.found_inf is None else torch.where(self.found_inf > 0, target, value))
