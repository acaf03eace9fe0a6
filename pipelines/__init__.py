"""What runs, in which order, where: command line, Dagster definitions, presets."""
