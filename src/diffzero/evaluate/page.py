"""Templates of pages and cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def template(name: str, folder: Path = Path(__file__).parent, *, escape: bool = True) -> Any:
    """A page's template; all text that it gets is escaped, unless it is no HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
