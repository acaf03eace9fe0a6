"""Training under Ray Train."""
