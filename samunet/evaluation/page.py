"""HTML pages in one file: no network, no script; styles are inlined and pictures are base64 PNG."""

from __future__ import annotations

import base64
import math
from typing import Any

import jinja2


def render(package: str, template: str, **values: Any) -> str:
    """Fill a template of `samunet.<package>`; it may extend page.html.j2 of samunet.evaluation."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("samunet", package), jinja2.PackageLoader("samunet", "evaluation")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = score_text
    environment.filters["data_uri"] = _data_uri
    return environment.get_template(template).render(**values)


def score_text(value: float | None, digits: int = 3, *, sign: str = "") -> str:
    """Return a number as tables show it, a dash where it is undefined or was not measured."""
    return "\N{EN DASH}" if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
