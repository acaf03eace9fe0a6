"""Figures of merit as pure functions, each with its protocol."""
