"""The `tokenize` step: plan, stages, the engines that run them, and reading code tables."""
