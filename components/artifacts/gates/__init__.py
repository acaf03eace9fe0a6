"""Quality gates: what must hold of an artifact before anything is made from it."""
