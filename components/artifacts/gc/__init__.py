"""Garbage collection of an artifact root: reachability, the plan, and the removal."""
