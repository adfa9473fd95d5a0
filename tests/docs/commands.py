"""The commands of pages, and whether the command line would take them, without running any."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "recipes").glob("*.md"), ROOT / "README.md"]
PAGES += [ROOT / "cluster" / "README.md", ROOT / "benchmarks" / "RESULTS.md"]
BLOCK = re.compile(r"^```(?:console|sh|bash|)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*kintsugi [^`]+)`", re.DOTALL)
STANDS_FOR = {"RECIPE": "plain", "RECIPE|NAME": "plain", "VERB": "doctor", "URL": "s3://bucket/runs", "S": "0"}


class Parsed(Exception):
    """The command line took a command."""


def commands(text: str) -> Iterator[str]:
    """Every command of kintsugi in a page, in blocks and within lines."""
    for block in BLOCK.findall(text):
        yield from whole(block)
    for inline in INLINE.findall(BLOCK.sub("", text)):
        yield " ".join(inline.replace("\\|", "|").split())


def whole(block: str) -> Iterator[str]:
    """The commands of a block; one whose quotes are open, or that ends in a backslash, goes on in the next line."""
    held = ""
    for line in block.splitlines():
        held = f"{held}{line}\n"
        if line.endswith("\\"):
            held = held.removesuffix("\\\n") + " "
            continue
        try:
            words = shlex.split(held, comments=True)
        except ValueError:
            continue
        named = [word for word in words if not re.match(r"[A-Z_]+=", word)]
        if named[:1] == ["kintsugi"]:
            yield held.strip()
        held = ""
    assert not held.strip(), f"a quote is not closed in {held!r}"


def words_of(command: str) -> list[str]:
    """What stands behind `kintsugi`, with something real in the place of what stands for others."""
    words = shlex.split(re.sub(r"\[(--[^\]]+)\]", r"\1", command), comments=True)
    words = words[words.index("kintsugi") + 1 :]
    words = words[: min((words.index(end) for end in ("|", "&", "&&", ";") if end in words), default=len(words))]
    return [STANDS_FOR.get(word, word) for word in words if word not in ("...", "--help")]


def check(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Raises ConfigError unless the command line takes the words; runs nothing."""
    from stages import __main__ as cli
    from stages import arguments, recipe, running

    if words[0] not in cli.VERBS:
        raise ConfigError(f"there is no command '{words[0]}'")
    if words[0] in ("submit", "preflight") and "--" in words:
        at = words.index("--")
        check(words[at + 1 :], patch)
        words = [*words[:at], "--", "ls"]
    if len(words) == 1 or (words[0] == "run" and words[1].startswith("--")):
        return  # the name of a command, or of one of its options
    while "--config" in words:  # a file that the reader writes
        at = words.index("--config")
        words = words[:at] + words[at + 2 :]

    def parsed(*given: Any, **how: Any) -> Any:
        arguments_parse(*given, **how)
        raise Parsed

    def built(*_: Any) -> Any:
        raise Parsed

    arguments_parse = arguments.parse
    module = __import__(f"stages.{cli.VERBS[words[0]][0]}", fromlist=["x"])
    with patch.context() as inside:
        inside.setattr(recipe, "build", built)
        if hasattr(module, "parse") and module is not running:
            inside.setattr(module, "parse", parsed)
        if words[0] == "search":
            inside.setattr(recipe, "build", built)
        with pytest.raises(Parsed):
            cli._command(words)
