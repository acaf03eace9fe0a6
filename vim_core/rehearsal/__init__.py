"""Measuring a training while it runs."""
