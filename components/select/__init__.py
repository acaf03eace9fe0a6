"""The `select` step (rejection sampling): the selecting network, its scores, and tables of accepted images."""
