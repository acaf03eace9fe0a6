"""Train a second classifier on the ingested images: it selects samples, and so never evaluates them.

The training is that of `classify`, with settings of its own.
"""

from __future__ import annotations

from components.classify import INPUTS, run

__all__ = ["INPUTS", "VERSION", "run"]

VERSION = 2
