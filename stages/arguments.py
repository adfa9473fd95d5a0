"""The command line, read by tyro; its refusals in one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from pipeline import config

T = TypeVar("T")


def parse(options: type[T], arguments: Sequence[str], prog: str, description: str) -> T:
    """Fill a dataclass from a command line; `--help` prints and exits.

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
        raise config.ConfigError(_sentence(said.getvalue())) from exit
    if unknown:
        raise config.ConfigError(f"there is no option '{unknown[0]}'{_nearest_option(unknown[0], options)}")
    return found


def _nearest_option(option: str, options: Any) -> str:
    known = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(options)}
    if not option.startswith("--"):
        return ": options begin with --"
    return config.nearest(option.split("=")[0], known)


def _sentence(box: str) -> str:
    """The first part of the box that tyro draws around what is wrong."""
    lines = [re.sub(r"[│╭╮╰╯]", "", line).strip() for line in box.splitlines()]
    body = []
    for line in lines[1:]:
        if not line or set(line) <= {"─"}:
            break
        body.append(line)
    return " ".join(body) or "the command line cannot be read: see --help"
