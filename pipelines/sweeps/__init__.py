"""Sweeps: a grid of sampling and scoring settings, evaluated on what a preset has trained and compared."""
