"""The training loop, its monitoring, evaluation and metrics spool, interruptions, FLOP counts."""
