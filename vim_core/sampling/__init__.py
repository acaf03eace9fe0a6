"""Drawing codes from the prior: static KV cache, fixed lanes, noise keyed by (seed, sample index) (contract 6)."""

from vim_core.sampling.drawing import draw, noise, restrict
from vim_core.sampling.sampler import Sampler
from vim_core.sampling.settings import SCHEDULES, Settings, guidance_scales

__all__ = ["SCHEDULES", "Sampler", "Settings", "draw", "guidance_scales", "noise", "restrict"]
