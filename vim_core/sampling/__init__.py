"""Sampling codes from the prior: static KV cache, fixed lanes, noise keyed by (seed, sample index) (contract 6)."""
