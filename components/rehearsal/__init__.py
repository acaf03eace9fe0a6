"""Rehearsals: presets made small, run and judged before they cost anything."""

RECORD = "rehearsal.json"
"""The file of a rehearsed training's artifact with the measurements of all workers."""
