"""Measurements that are run by hand; their figures lie in `results/`."""
