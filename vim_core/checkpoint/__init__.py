"""Sharded training checkpoints."""
