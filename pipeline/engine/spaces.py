"""What values a searched option may take: `loguniform(1e-4, 10)` read without evaluating anything, as Ray Tune has it.

uniform(low, high)        every number between them alike           quniform(low, high, step)   rounded to steps
loguniform(low, high)     every order of magnitude alike            randint(low, high)          whole, high left out
choice(a, b, ...)         one of them                               grid(a, b, ...)             each of them
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import ConfigError, nearest

LONGEST = 10_000  # characters
FEW = 8  # values of a space that are tried before a sweep starts


@dataclass(frozen=True)
class Space:
    """A kind of space with its arguments: low and high (and a step), or the values themselves.

    Raises:
        ConfigError: there is no such kind, or these are no arguments of it.
    """

    kind: str
    arguments: tuple[Any, ...]

    def __post_init__(self) -> None:
        if self.kind not in COUNTS:
            raise ConfigError(f"there is no space '{self.kind}'{nearest(self.kind, COUNTS)}")
        if self.finite:
            if not self.arguments:
                raise ConfigError(f"{self} has no values: write them between the brackets")
            if len(set(map(repr, self.arguments))) < len(self.arguments):
                raise ConfigError(f"{self} has a value twice: leave one of them out")
            return
        if len(self.arguments) != COUNTS[self.kind]:
            names = ("low", "high", "step")[: COUNTS[self.kind]]
            raise ConfigError(f"{self} must be {self.kind}({', '.join(names)})")
        kinds = int if self.kind == "randint" else int | float
        for value in self.arguments:
            if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
                what = "whole numbers" if kinds is int else "finite numbers"
                raise ConfigError(f"{self} has {value!r}, which is none of the {what} it takes")
        low, high = self.arguments[:2]
        if not low < high:
            raise ConfigError(f"{self} is empty: its first number must be below its second")
        if self.kind == "loguniform" and low <= 0:
            raise ConfigError(f"{self} begins at {low}: a logarithm needs a number above 0")
        if self.kind == "quniform" and not 0 < self.arguments[2] <= high - low:
            raise ConfigError(f"{self} has steps of {self.arguments[2]}: give one above 0 that fits between the others")

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(_written, self.arguments))})"

    @property
    def finite(self) -> bool:
        """Whether its values are listed."""
        return self.kind in ("choice", "grid")

    @property
    def logarithmic(self) -> bool:
        """Whether orders of magnitude count alike in it."""
        return self.kind == "loguniform"

    def some(self) -> list[Any]:
        """A few of its values, the outermost among them, to see what depends on it."""
        if self.finite:
            return list(self.arguments[:FEW])
        low, high = self.arguments[:2]
        if self.kind == "randint":
            return sorted({low, (low + high - 1) // 2, high - 1})
        if self.kind == "quniform":
            step = self.arguments[2]
            return sorted({math.ceil(low / step) * step, math.floor(high / step) * step})
        return [low, math.sqrt(low * high) if self.logarithmic else (low + high) / 2, high]

    def domain(self) -> Any:
        """Ray Tune's own object of this space."""
        from ray import tune

        if self.kind == "grid":
            return tune.grid_search(list(self.arguments))
        if self.kind == "choice":
            return tune.choice(list(self.arguments))
        return getattr(tune, self.kind)(*self.arguments)


COUNTS = {"uniform": 2, "loguniform": 2, "quniform": 3, "randint": 2, "choice": 0, "grid": 0}


def read(text: str) -> Space:
    """The space that a text such as `loguniform(1e-4, 10)` or `choice(32, 64)` names.

    Bare words are text, so that `choice(adamw, sgd)` needs no quotation marks; so are `true`, `false` and `null` what
    they are in YAML.

    Raises:
        ConfigError: it is none; nothing in it is ever evaluated.
    """
    form = "write a space such as loguniform(1e-4, 10) or choice(32, 64)"
    if len(text) > LONGEST:
        raise ConfigError(f"a space of {len(text):,} characters is too long: {form}")
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"'{text[:80]}' cannot be read: {form}") from error
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.keywords:
        raise ConfigError(f"'{text[:80]}' is no space: {form}")
    return Space(call.func.id, tuple(_literal(value, text) for value in call.args))


def read_all(over: Sequence[str] | Mapping[str, str | Space]) -> dict[str, Space]:
    """{path: space} of settings `path=space`, or of a mapping whose values are spaces or their text.

    Raises:
        ConfigError: one cannot be read, two are of one path, or one lies within another.
    """
    pairs: list[tuple[str, str | Space]] = []
    if isinstance(over, Mapping):
        pairs = list(over.items())
    else:
        for setting in over:
            path, equals, text = setting.partition("=")
            if not equals:
                raise ConfigError(f"--over {setting[:80]} names no space: write --over path=loguniform(1e-4,10)")
            pairs.append((path.strip(), text))
    found: dict[str, Space] = {}
    for path, space in pairs:
        for other in found:
            if path == other or f"{path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{path}."):
                raise ConfigError(f"--over {path} is also searched as {other}: leave one of them out")
        try:
            found[path] = read(space) if isinstance(space, str) else space
        except ConfigError as error:
            raise ConfigError(f"--over {path}: {error}") from error
    if not found:
        raise ConfigError("nothing is searched: name an option and its values, such as --over seed=choice(0,1,2)")
    return found


def _literal(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "null": None}.get(node.id, node.id)
    try:
        if isinstance(node, ast.List | ast.Tuple):
            return [_literal(item, text) for item in node.elts]
        return _plain(ast.literal_eval(node))
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"'{text[:80]}' has a value that is no number, text or list of these: write it out"
        ) from error


def _plain(value: Any) -> Any:
    """The same as JSON values. Raises: ValueError: there is no such."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _plain(item) for name, item in value.items()}
    raise ValueError(type(value).__name__)


def _written(value: Any) -> str:
    return value if isinstance(value, str) and value.isidentifier() else repr(value)
