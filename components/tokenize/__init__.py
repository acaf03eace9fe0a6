"""The `tokenize` step: jobs, stages, the engines that run them, and reading code tables."""
