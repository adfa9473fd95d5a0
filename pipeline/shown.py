"""How things show themselves in a notebook: small tables and pictures as HTML, everything in them escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

LINES = 40  # of a table, at most


def table(header: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> str:
    """A table whose first `LINES` rows are shown, with how many more there are."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell(value))}</td>" for value in row) + "</tr>" for row in rows[:LINES]
    )
    more = f"<p>and {len(rows) - LINES} more</p>" if len(rows) > LINES else ""
    said = f"<p>{escape(caption)}</p>" if caption else ""
    return f"{said}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def picture(png: bytes, caption: str = "") -> str:
    """A PNG with its caption below it; it is part of the page, not linked."""
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    source = base64.b64encode(png).decode()
    return f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{source}">{said}</figure>'


def cell(value: object) -> str:
    """A value as it stands in a table: numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
