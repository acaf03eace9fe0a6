"""The wiring: command line, Dagster definitions, presets, clusters and deployments."""
