"""Schedules: sweeps that the daemon runs at cron's ticks or at every new checkpoint of a training."""
