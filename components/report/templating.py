"""HTML from the templates beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vim_core.text import duration


def render(template: str, **values: Any) -> str:
    """A template with these values; all text is escaped, and a missing value is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    return environment.get_template(template).render(**values)
