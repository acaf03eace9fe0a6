"""Names that schedules go by in Dagster."""

from __future__ import annotations

TAG = "vim/schedule"
"""A run's tag with the name of its schedule."""
SENSOR = "sweep_schedules"
HERE, THERE = "scheduled_sweep", "submitted_sweep"
"""Jobs: on this machine, taking turns on its accelerator, and on a cluster."""
OPS = {HERE: "evaluate", THERE: "submit"}
"""The one op of each job."""
