"""A report: one HTML file with everything in it, fit to be mailed."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.engine.pictures import Plot

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
td, th { padding: .25rem .9rem .25rem 0; text-align: left; }
td:not(.number) { min-width: 5rem; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } tr { border-bottom: 1px solid #ddd; }
img { max-width: 100%; } figure { margin: 1rem 0; } figcaption { color: #555; }
figure.wide img { max-width: none; }
pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: .8rem; }
</style></head><body>
<h1>{{ title }}</h1>
{% for text in lead %}<p>{{ text }}</p>{% endfor %}
{% for part in parts %}
<h2>{{ part.title }}</h2>
{% for text in part.texts %}<p>{{ text }}</p>{% endfor %}
{% if part.rows %}<div class="wide"><table><tr>{% for name in part.header %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in part.rows %}<tr>{% for cell in row %}
<td{% if cell is number %} class="number"{% endif %}>
{%- if cell.href is defined %}<a href="{{ cell.href }}">{{ cell.text }}</a>
{%- else %}{{ cell | digits if cell is float else cell }}{% endif %}</td>
{% endfor %}</tr>{% endfor %}</table></div>{% endif %}
{% for caption, data, words in part.pictures %}<figure{% if words %} class="wide"{% endif %}>
<img alt="{{ caption }}" src="data:image/png;base64,{{ data }}">
<figcaption>{{ caption }}</figcaption></figure>{% endfor %}
{% if part.code %}<details><summary>Show</summary><pre>{{ part.code }}</pre></details>{% endif %}
{% endfor %}
</body></html>
"""


@dataclass(frozen=True)
class Link:
    """A cell that leads to a file below the page's own folder, or beside it."""

    text: str
    href: str

    def __post_init__(self) -> None:
        if ":" in self.href or self.href.startswith("/"):
            raise ValueError(f"{self.href} leads away from the store: give a relative path")


@dataclass
class Section:
    """A headed section: paragraphs, a table, pictures (caption, PNG bytes), a folded block of text."""

    title: str
    texts: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str | float | int | Link]] = ()
    pictures: Sequence[tuple[str, bytes]] = ()
    code: str = ""


@dataclass
class Report:
    """A title, opening sentences and parts."""

    title: str
    lead: Sequence[str] = ()
    parts: list[Section] = field(default_factory=list)

    def html(self) -> str:
        """The page; everything that is not ours is escaped."""
        import jinja2

        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        environment.filters["digits"] = digits
        parts = [{**vars(part), "pictures": [_shown(*one) for one in part.pictures]} for part in self.parts]
        return environment.from_string(PAGE).render(title=self.title, lead=self.lead, parts=parts)


def _shown(caption: str, png: bytes) -> tuple[str, str, bool]:
    """A picture as the page has it, and whether there are words in it that must not shrink."""
    return caption, base64.b64encode(png).decode(), isinstance(png, Plot)


def digits(value: float) -> str:
    """A number with four digits, or as many as it has before the point."""
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.4g}"
