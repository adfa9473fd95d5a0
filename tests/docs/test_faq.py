"""Every sentence of docs/faq.md is one that the program says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def said() -> list[str]:
    """Every text in the program, with … in place of what is filled in."""
    texts = []
    for path in (*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").rglob("*.py")):
        tree = ast.parse(path.read_text())
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                texts.append(" ".join("".join(map(str, parts)).split()))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
                texts.append(" ".join(node.value.split()))
    return texts


def quoted() -> list[str]:
    """The headings of the page that are sentences."""
    return re.findall(r"^### (.*)$", (ROOT / "docs" / "faq.md").read_text(), re.MULTILINE)


def test_every_quoted_sentence_is_said():
    texts = said()
    assert len(quoted()) >= 25
    lost = [s for s in quoted() if s not in texts and s.removeprefix("… ") not in texts]  # a name before some
    assert lost == [], "docs/faq.md quotes what the program does not say"
