"""The command line, read by tyro; its refusals in one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import tyro

from pipeline import config

T = TypeVar("T")
StoreOption = Annotated[str, tyro.conf.arg(help="where results are kept: a folder or any fsspec URL")]
JsonOption = Annotated[bool, tyro.conf.arg(help="end standard output with one JSON object")]


def parse(
    options: type[T], arguments: Sequence[str], prog: str, description: str, stray: str = "options begin with --"
) -> T:
    """Fill a dataclass from a command line; `--help` prints and exits.

    `stray` is what to say of a word that is neither an option nor the value of one.

    Raises:
        ConfigError: an unknown option (with the nearest name) or a value that does not fit.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found, unknown = tyro.cli(
                options,
                args=list(arguments),
                prog=prog,
                description=description,
                return_unknown_args=True,
                config=(tyro.conf.EnumChoicesFromValues,),
            )
    except SystemExit as exit:
        if not exit.code:
            raise
        raise config.ConfigError(f"{_sentence(said.getvalue())} (see `{prog} --help`)") from exit
    if unknown:
        raise config.ConfigError(f"there is no option '{unknown[0]}'{_nearest_option(unknown[0], options, stray)}")
    return found


def _nearest_option(option: str, options: Any, stray: str) -> str:
    known = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(options)}
    if not option.startswith("--"):
        return f": {stray}"
    return config.nearest(option.split("=")[0], known)


def _sentence(box: str) -> str:
    """The first part of the box that tyro draws around what is wrong: of lines, or of dashes where there are none."""
    lines = (line.strip("│╰╯ ") for line in box.splitlines()[1:])  # the first has the title
    parts = re.split(r"^.*(?:─{3}|-{20}).*$", "\n".join(lines), flags=re.MULTILINE)
    words = next((part.split() for part in parts if part.strip()), ["the command line cannot be read"])
    return " ".join(words).rstrip(".").replace(". ", ": ")
