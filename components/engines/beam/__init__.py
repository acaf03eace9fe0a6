"""Beam runners, options and shard jobs."""
