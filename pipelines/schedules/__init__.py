"""Sweeps that run by themselves: at cron's ticks, or at every new checkpoint of a training."""
