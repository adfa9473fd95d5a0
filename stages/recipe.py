"""A recipe is a typed Python function; its options are its signature.

`options_of(function)` is a frozen dataclass with a field for each parameter: the command line, `--config` and `--set`
all fill it, and it is what is written beside the results.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import inspect
import pkgutil
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import docstring_parser
import tyro
import yaml

from pipeline import config
from pipeline.graph import Step
from stages import recipes
from stages.arguments import parse

Recipe = Callable[..., Step]
OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)


def names(folder: Path | None = None) -> list[str]:
    """Every recipe: the modules in `stages/recipes`, or in that folder of another checkout."""
    return sorted(module.name for module in pkgutil.iter_modules(recipes.__path__ if folder is None else [str(folder)]))


def find(name: str) -> Recipe:
    """The function of that name in the module of that name. Raises: ConfigError: there is none."""
    if name not in names():
        raise config.ConfigError(f"there is no recipe '{name}'{config.nearest(name, names())}")
    return getattr(importlib.import_module(f"stages.recipes.{name}"), name)


@functools.cache
def options_of(recipe: Recipe) -> type:
    """A frozen dataclass whose fields are the recipe's parameters, with their types and defaults."""
    hints = typing.get_type_hints(recipe)
    fields = []
    for parameter in inspect.signature(recipe).parameters.values():
        if parameter.default is inspect.Parameter.empty:
            raise TypeError(f"{recipe.__name__}({parameter.name}) has no default: a recipe must run as it is")
        fields.append((parameter.name, hints[parameter.name], dataclasses.field(default=parameter.default)))
    made = dataclasses.make_dataclass(recipe.__name__, fields, frozen=True, kw_only=True)
    made.__module__ = recipe.__module__
    return made


def helps(recipe: Recipe) -> dict[str, str]:
    """What the docstring says of each parameter."""
    return {p.arg_name: p.description or "" for p in docstring_parser.parse(recipe.__doc__ or "").params}


def resolve(recipe: Recipe, arguments: Sequence[str], common: type, prog: str) -> tuple[Any, Any]:
    """Fill a recipe's options from a command line.

    What is written later wins: the signature's defaults, `--config FILE`, plain options, `--set path=value`. A value
    of an abstract class, which must say which one it is, is an option too: YAML in one word.

    Args:
        recipe: the function.
        arguments: the command line after the recipe's name.
        common: a dataclass of further options, with fields `config` and `set`.
        prog: what the usage line calls the command.

    Returns:
        (the recipe's options, the common ones).

    Raises:
        ConfigError: an unknown option, a value that does not fit, a file that cannot be read.
    """
    declared = options_of(recipe)
    hints = typing.get_type_hints(declared)
    plain = [field for field in dataclasses.fields(declared) if _is_plain(hints[field.name])]
    named = [field.name for field in dataclasses.fields(declared) if _is_abstract(hints[field.name])]
    file = _config_file(arguments)
    base = declared() if file is None else config.from_json(declared, file)
    told = helps(recipe)
    fields = [
        (
            field.name,
            Annotated[field.type, _word(hints[field.name], told.get(field.name, ""))],
            getattr(base, field.name),
        )
        for field in plain
    ]
    yaml_word = Annotated[str | None, tyro.conf.arg(metavar="YAML")]
    fields += [(name, Annotated[yaml_word, tyro.conf.arg(help=told.get(name, ""))], None) for name in named]
    both = dataclasses.make_dataclass(
        "Options", [(n, t, dataclasses.field(default=v)) for n, t, v in fields], bases=(common,), frozen=True
    )
    summary = (recipe.__doc__ or "").strip().split("\n\n")[0]
    rest = "Anything deeper: --set path=value; `kintsugi show " + recipe.__name__ + "` lists every path."
    given = parse(both, arguments, prog, f"{summary}\n\n{rest}")
    options = dataclasses.replace(base, **{field.name: getattr(given, field.name) for field in plain})
    words = [f"{name}={getattr(given, name)}" for name in named if getattr(given, name) is not None]
    for setting in [*words, *given.set]:
        path, equals, text = setting.partition("=")
        if not equals:
            raise config.ConfigError(f"--set {setting} has no value: write --set path=value")
        options = config.replace(options, path, read_yaml(text, f"--set {path}"))
    return options, given


def _word(hint: Any, told: str) -> Any:
    """How the command line names an option; an `unprefixed` dataclass does without its name before its fields'."""
    return tyro.conf.arg(help=told, name="") if getattr(hint, "unprefixed", False) else tyro.conf.arg(help=told)


def build(recipe: Recipe, options: Any) -> Step:
    """The recipe's target step."""
    return recipe(**{field.name: getattr(options, field.name) for field in dataclasses.fields(options)})


def read_yaml(text: str, name: str) -> Any:
    """Plain data from YAML: no tags, no aliases (which make small files large), bounded in size and depth.

    Raises:
        ConfigError: it is not that.
    """
    if len(text) > 1 << 20:
        raise config.ConfigError(f"{name} is over 1 MiB: a configuration is a small file")
    try:
        refused = _not_plain(yaml.scan(text, Loader=yaml.SafeLoader)) or _twice(yaml.compose(text, yaml.SafeLoader))
        data = None if refused else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that cannot be
        refused = f"is not plain YAML: {' '.join(str(error).split())}"
    if refused:
        raise config.ConfigError(f"{name} {refused}")
    return data


def _not_plain(tokens: Iterable[yaml.Token]) -> str:
    """What is refused of a stream that is YAML, "" if nothing is."""
    depth = 0
    for token in tokens:  # lazily: PyYAML takes minutes for a file of brackets
        depth += isinstance(token, OPENING) - isinstance(token, CLOSING)
        if isinstance(token, yaml.AliasToken):
            return "uses YAML aliases (*name): write the values out"
        if depth > config.DEEPEST:
            return f"lies deeper than {config.DEEPEST} levels: flatten it"
    return ""


def _twice(node: yaml.Node | None) -> str:
    """What is refused of a tree that has a name twice, of which YAML would take the last; "" if it has none."""
    if not isinstance(node, yaml.CollectionNode):
        return ""
    inner = node.value
    if isinstance(node, yaml.MappingNode):
        names = Counter(name.value for name, _ in inner if isinstance(name, yaml.ScalarNode))
        if names and names.most_common(1)[0][1] > 1:
            return f"has {names.most_common(1)[0][0]} twice: leave one of them out"
        inner = [value for _, value in inner]
    return next(filter(None, map(_twice, inner)), "")


def _config_file(arguments: Sequence[str]) -> Any:
    """The content of the last --config file, needed before the options that it is the default of are known."""
    path = None
    for i, argument in enumerate(arguments):
        if argument == "--config" and i + 1 < len(arguments):
            path = arguments[i + 1]
        elif argument.startswith("--config="):
            path = argument.removeprefix("--config=")
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            data = read_yaml(file.read((1 << 20) + 1), path)
    except (OSError, UnicodeDecodeError) as error:
        raise config.ConfigError(
            f"--config {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not isinstance(data, dict):
        raise config.ConfigError(f"--config {path} must hold options by name, as `kintsugi show RECIPE` prints them")
    return data


def _is_plain(hint: Any) -> bool:
    """Whether the command line can hold it in one word, or in a few below one name."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return all(option is type(None) or _is_plain(option) for option in typing.get_args(hint))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and not inspect.isabstract(hint):
        return all(_is_plain(inner) for inner in typing.get_type_hints(hint).values())
    return isinstance(hint, type) and issubclass(hint, bool | int | float | str | enum.Enum)


def _is_abstract(hint: Any) -> bool:
    """Whether a value of it must say which class it is, under "is"."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(_is_abstract(option) for option in typing.get_args(hint))
    return isinstance(hint, type) and inspect.isabstract(hint)
