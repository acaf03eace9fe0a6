"""How to draw, and how strong guidance is at each code."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class Settings:
    """How to draw; `top_k=0` and `top_p=1` leave the distribution whole, `guidance=1` is plain conditioning.

    `guidance_schedule` and `guidance_power`: see `guidance_scales`.
    """

    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    guidance_schedule: str = "constant"
    guidance_power: float = 1.0

    @property
    def guided(self) -> bool:
        """Whether the null class has to be asked, too."""
        return self.guidance != 1.0


def guidance_scales(settings: Settings, tokens: int) -> Tensor:
    """Guidance fp64 [T] at every code.

    `constant`: the same everywhere. The others rise from little guidance to all of it, which keeps the first codes,
    and so the layout, diverse: with s the share of the image that is drawn and p the power,
    `linear` is 1 + (g - 1) s^p, where s counts the code itself (p = 1: Muse, arXiv 2301.00704; MAR, arXiv 2406.11838);
    `cosine` is 1 + (g - 1) (1 - cos(pi s^p)) / 2 over the codes before (MDT, arXiv 2303.14389; RAR, arXiv 2411.00776,
    with p around 1 to 3).

    Raises:
        ValueError: there is no such schedule.
    """
    place = torch.arange(tokens, dtype=torch.float64)
    if settings.guidance_schedule == "constant":
        return torch.full_like(place, settings.guidance)
    if settings.guidance_schedule == "linear":
        ramp = ((place + 1) / tokens) ** settings.guidance_power
    elif settings.guidance_schedule == "cosine":
        ramp = (1 - torch.cos(torch.pi * (place / tokens) ** settings.guidance_power)) / 2
    else:
        raise ValueError(f"guidance_schedule={settings.guidance_schedule!r}: must be one of {', '.join(SCHEDULES)}")
    return 1 + (settings.guidance - 1) * ramp
