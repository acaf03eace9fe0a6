"""Comparison of sampling settings: grid, candidate sets, ranking (also for sweeps), and the step `tradeoff`."""
