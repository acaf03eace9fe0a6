"""Dagster assets, checks and history; pipeline sessions; the user interfaces."""
