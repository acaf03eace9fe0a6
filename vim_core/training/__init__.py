"""The training loop and what runs beside it: metrics spool, monitoring, evaluation, preemption, non-finite updates."""
