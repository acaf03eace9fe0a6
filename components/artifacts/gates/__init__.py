"""Quality gates: conditions that an artifact must meet before others are made from it."""
