"""Pages of the site that live elsewhere in the repository, and links between all of them.

Pages are written for whoever reads them in the repository: links are relative to the file. Here they are brought to
the site's own; what the site does not have, such as code, is named without a link.
"""

from __future__ import annotations

import re
from pathlib import Path

ELSEWHERE = {  # in the repository: on the site
    "cluster/README.md": "more/clusters.md",
    "benchmarks/RESULTS.md": "more/results.md",
    "README.md": "more/readme.md",
    "CHANGELOG.md": "more/changelog.md",
    "CONTRIBUTING.md": "more/contributing.md",
    "SECURITY.md": "more/security.md",
    "docs/search.md": "more/search.md",  # search.html is the site's own search
}
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def pages(docs: Path) -> dict[Path, str]:
    """What to write where: the pages from elsewhere, below `docs`."""
    root = docs.parent
    return {docs / to: brought((root / of).read_text("utf-8"), root / of, docs) for of, to in ELSEWHERE.items()}


def brought(text: str, file: Path, docs: Path) -> str:
    """A page's text with its links brought to the site; `file` is where it lies in the repository.

    Raises ValueError where a link leads to nothing.
    """

    def change(found: re.Match[str]) -> str:
        words, target = found.groups()
        path, mark, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:|/", path):
            return found[0]
        there = (file.parent / path).resolve()
        if not there.exists():
            raise ValueError(f"{file} leads to {target}, which is not there: mend the link")
        if there == docs:
            return f"[{words}](/index.md)"
        if there.is_dir() and (there / "README.md").is_file():
            there /= "README.md"
        inside = str(there.relative_to(docs.parent))
        at = ELSEWHERE.get(inside) or (str(there.relative_to(docs)) if there.is_relative_to(docs) else "")
        return f"[{words}](/{at}{mark}{anchor})" if at.endswith(".md") else words

    parts = CODE.split(text)
    return "".join(part if CODE.fullmatch(part) else LINK.sub(change, part) for part in parts)
