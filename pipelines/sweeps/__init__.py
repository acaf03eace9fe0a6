"""Sweeps: a grid of sampling and scoring settings, evaluated on a preset's trained models and compared."""
