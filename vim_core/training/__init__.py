"""The training loop, its monitoring, evaluation and metrics spool, preemption, non-finite updates, FLOP counts."""
