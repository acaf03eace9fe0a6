"""Rejection sampling as a component: which network selects, its scores by shard, tables, pictures and curves."""
