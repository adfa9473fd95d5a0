"""How Sphinx makes the site: `make docs`, into site/."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "making")]

import api  # noqa: E402
import gallery  # noqa: E402
import links  # noqa: E402

project = "kintsugi"
author = copyright = "The kintsugi authors"
extensions = ["myst_parser"]
root_doc = "index"
exclude_patterns = ["making", "examples", "pictures/*.md", "search.md"]
nitpicky = False
add_module_names = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 90
highlight_language = "text"
myst_heading_anchors = 4

html_theme = "furo"
html_title = "kintsugi"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_domain_indices = False


def setup(app):
    """Write the pages that come from elsewhere before any is read; bring links of all to the site's own."""
    for written in (links.pages(HERE), api.pages(HERE.parent, HERE), gallery.pages(HERE)):
        for path, text in written.items():
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")

    def rewrite(app, name, source):
        if not name.startswith(("more/", "api/")):
            source[0] = links.brought(source[0], HERE / f"{name}.md", HERE)

    app.connect("source-read", rewrite)
