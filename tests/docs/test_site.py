"""The site builds without a warning, all its links lead somewhere, and it asks nobody else for anything."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("source", "src"), ("iframe", "src")}
NEEDED = ("sphinx", "myst_parser", "furo")


class Page(HTMLParser):
    """The anchors of a page, where it leads, and what a browser fetches for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.leads: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            if (tag, name) in FETCHED and value:
                self.fetched.append(value)
            elif (tag, name) == ("a", "href") and value:
                self.leads.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Every page of the site, freshly built with warnings as errors, by its path."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} of the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(folder / "trees")]
    done = subprocess.run([*command, str(ROOT / "docs"), str(folder / "html")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html", {path: Page(path.read_text()) for path in (folder / "html").rglob("*.html")}


def broken(folder: Path, pages: dict[Path, Page]) -> list[str]:
    """What leads nowhere, with the page it stands on."""
    lost = []
    for path, page in pages.items():
        for target in [*page.leads, *page.fetched]:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            there = (path.parent / unquote(url.path)).resolve() if url.path else path
            anchor = unquote(url.fragment)
            if not there.is_file() or (there in pages and anchor and anchor not in pages[there].anchors):
                lost.append(f"{path.relative_to(folder)}: {target}")
    return lost


@pytest.mark.slow
def test_the_site_builds_strictly_leads_nowhere_wrong_and_fetches_nothing_from_elsewhere(site):
    folder, pages = site
    named = {str(path.relative_to(folder)) for path in pages}
    wanted = {"index.html", "choose.html", "operators.html", "faq.html", "scale.html", "own.html", "more/clusters.html"}
    assert "Searching options" in (folder / "more" / "search.html").read_text()  # search.html is Sphinx's own
    assert wanted <= named
    assert {f"recipes/{path.stem}.html" for path in (ROOT / "stages" / "recipes").glob("[a-z]*.py")} <= named
    assert broken(folder, pages) == []
    outside = [(path.name, url) for path, page in pages.items() for url in page.fetched if urlsplit(url).netloc]
    assert outside == []
    styles = [path for path in folder.rglob("*.css") if "http" in path.read_text() and "url(http" in path.read_text()]
    assert styles == []
    shown = (folder / "operators.html").read_text()
    assert shown.count("<img") > 30
    reference = (folder / "api" / "pipeline.physics.html").read_text()
    assert 'id="pipeline.physics.masks.PixelMask"' in reference


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<a id="here" href="b.html#there">b</a><a href="#here">h</a><img src="no.png">')
    (tmp_path / "b.html").write_text("<p id='other'>")
    pages = {path: Page(path.read_text()) for path in tmp_path.glob("*.html")}
    assert broken(tmp_path, pages) == ["a.html: b.html#there", "a.html: no.png"]
