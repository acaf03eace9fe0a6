"""The `tokenize` step: plan, stages, and the engines that run them."""
