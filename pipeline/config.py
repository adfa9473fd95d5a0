"""Configurations: frozen dataclass trees to JSON and back, one value replaced by its dotted path.

Every field is written out, defaults included. A value whose class is not the one its field declares carries its class
path under "is"; reading it back requires a subclass of the field's type from a module of this project or one already
imported, so that a hostile file can neither import nor build anything else. Scalars are validated by pydantic.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import importlib
import inspect
import json
import operator
import reprlib
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from .identity import class_path

T = TypeVar("T")
OURS = ("pipeline", "stages")
DEEPEST = 100
LONGEST_CLASS_PATH = 200
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 120


class ConfigError(ValueError):
    """A configuration that cannot be: one sentence naming the path and what to write instead."""


def nearest(name: str, known: Iterable[str], above: str = "", below: str = "") -> str:
    """The end of a sentence about an unknown name: `; did you mean 'lr'?` or the names there are.

    What is meant is named from `above` it to `below` it, for names that are parts of a dotted path.
    """
    known = sorted(known)
    close = difflib.get_close_matches(str(name)[:80], known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{'.'.join(part for part in (above, close[0], below[:80]) if part)}'?"
    return f"; there are {', '.join(known)}" if known else "; there is nothing below it"


def to_json(value: Any, declared: Any = None) -> Any:
    """The whole tree as JSON values, every field written out."""
    if isinstance(value, enum.Enum):
        return value.name
    if hasattr(value, "__config__") and not isinstance(value, type):
        return value.__config__()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        tree = {} if type(value) is _plain(declared) else {"is": class_path(type(value))}
        hints = _hints(type(value))
        for field in dataclasses.fields(value):
            tree[field.name] = to_json(getattr(value, field.name), hints[field.name])
        return tree
    if isinstance(value, tuple | list):
        items = _item_hints(declared, len(value))
        return [to_json(item, hint) for item, hint in zip(value, items, strict=True)]
    if isinstance(value, Mapping):
        return {key: to_json(item, _value_hint(declared)) for key, item in value.items()}
    return value


def from_json(declared: Any, data: Any, where: str = "") -> Any:
    """Read `data` (JSON values) as a value of type `declared`.

    Raises:
        ConfigError: unknown or missing fields (with the nearest name), wrong types, values out of range.
    """
    if where.count(".") >= DEEPEST:
        raise ConfigError(f"{_named(where)} lies deeper than {DEEPEST} levels: flatten the configuration")
    options = _options(declared)
    if data is None and (declared is type(None) or type(None) in typing.get_args(declared)):
        return None
    classes = tuple(option for option in options if _is_ours(option))
    if classes and isinstance(data, classes):
        return data
    data = _spelt_out(classes, data, where)
    if isinstance(data, Mapping):
        parents = tuple(option for option in options if _is_class(option)) if "is" in data else classes
        if parents:
            return _dataclass_from_json(parents, data, where)
    kinds = {typing.get_origin(option) for option in options}
    if tuple in kinds and isinstance(data, list | tuple):
        return _tuple_from_json(declared, data, where)
    if kinds & {dict, Mapping} and isinstance(data, Mapping):
        inner = _value_hint(declared)
        return {str(key): from_json(inner, item, _join(where, str(key))) for key, item in data.items()}
    return _leaf_from_json(declared, data, where)


def _spelt_out(classes: tuple[type, ...], data: Any, where: str) -> Any:
    """`NAME` and `{is: NAME, ...}` in full, where a class that may be meant knows values by name (`__named__`)."""
    name = data.get("is") if isinstance(data, Mapping) else data
    known = next((cls.__named__() for cls in classes if hasattr(cls, "__named__")), None)
    if known is None or not isinstance(name, str) or "." in name:
        return data
    if name not in known:
        raise ConfigError(f"there is no {_short.repr(name)} for {_named(where)}{nearest(name, known)}")
    more = data if isinstance(data, Mapping) else {}
    return {**to_json(known[name]), **{field: value for field, value in more.items() if field != "is"}}


def replace(tree: T, path: str, value: Any) -> T:
    """A copy of `tree` with the one value at `path` (fields and tuple positions, dotted) replaced.

    `value` is a JSON value and is checked against the type that the field declares.

    Raises:
        ConfigError: the path does not exist (with the nearest name), or the value does not fit.
    """
    return _replaced(tree, path.split("."), value, path, None)


def find_class(path: Any, parent: type | tuple[type, ...], where: str) -> type:
    """The dataclass at a dotted path, required to be a subclass of `parent` (or of one of several)."""
    if not isinstance(path, str) or len(path) > LONGEST_CLASS_PATH:
        raise ConfigError(f"'{_join(where, 'is')}' must be the dotted path of a class, not {_short.repr(path)}")
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        found = sys.modules.get(module) or (_import_ours(module) if parts[0] in OURS else None)
        if found is None:
            continue
        value: Any = found
        for name in parts[cut:]:
            value = getattr(value, "__dict__", {}).get(name)  # getattr could run a lazy import
        if isinstance(value, type) and dataclasses.is_dataclass(value) and issubclass(value, parent):
            return value
        break
    wanted = " or ".join(class_path(cls) for cls in (parent if isinstance(parent, tuple) else (parent,)))
    raise ConfigError(f"{_named(where)} names {path}, which is no {wanted} known here")


def _import_ours(module: str) -> types.ModuleType | None:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            return None
        raise


def _dataclass_from_json(parents: tuple[type, ...], data: Mapping[str, Any], where: str) -> Any:
    cls = find_class(data["is"], parents, where) if "is" in data else parents[0]
    if not dataclasses.is_dataclass(cls) or inspect.isabstract(cls):
        raise ConfigError(f"{_named(where)} must say which {cls.__name__} it is, under 'is'")
    hints = _hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in data:
        if name not in fields and name != "is":
            raise ConfigError(f"there is no {_named(_join(where, str(name)))}{nearest(name, fields, where)}")
    values = {name: from_json(hints[name], data[name], _join(where, name)) for name in fields if name in data}
    missing = [name for name, field in fields.items() if name not in values and _required(field)]
    if missing:
        raise ConfigError(f"{_named(_join(where, missing[0]))} is missing: give it a value")
    return _build(cls, values, where)


def _build(cls: type, values: dict[str, Any], where: str) -> Any:
    try:
        return cls(**values)
    except ConfigError:
        raise
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ConfigError(f"{where + ': ' if where else ''}{error}") from error


def _tuple_from_json(declared: Any, data: Any, where: str) -> tuple:
    hints = _item_hints(declared, len(data))
    if len(hints) != len(data):
        raise ConfigError(f"{_named(where)} needs {len(hints)} values, not {len(data)}")
    return tuple(from_json(hint, item, _join(where, str(i))) for i, (hint, item) in enumerate(zip(hints, data)))


def _leaf_from_json(declared: Any, data: Any, where: str) -> Any:
    import pydantic

    options = _options(declared)
    enums = [option for option in options if _is_class(option) and issubclass(option, enum.Enum)]
    for member in (member for option in enums for member in option):
        if isinstance(data, str) and data in (member.name, member.value):  # as files have it, as options spell it
            return member
    scalars = tuple(o for o in options if not _is_ours(o) and typing.get_origin(o) not in (tuple, dict, Mapping))
    disguised = isinstance(data, bool) and bool not in scalars and not {int, float}.isdisjoint(scalars)
    reason = nearest(str(data), enums[0].__members__) if enums and not scalars else ""
    if scalars and not disguised:
        try:
            return _adapter(scalars).validate_python(data)
        except pydantic.ValidationError as error:
            reason = f" ({error.errors()[0]['msg']})"
    name = declared.__name__ if _is_class(declared) else str(declared).replace("typing.", "")
    raise ConfigError(f"{_named(where)} must be of type {name}, not {_short.repr(data)}{reason}")


@functools.cache
def _adapter(scalars: tuple[Any, ...]) -> Any:
    import pydantic

    settings = pydantic.ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
    return pydantic.TypeAdapter(functools.reduce(operator.or_, scalars), config=settings)


def _replaced(tree: Any, path: list[str], value: Any, whole: str, declared: Any) -> Any:
    if not path:
        return from_json(declared, value, whole)
    name, rest = path[0], path[1:]
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree)]
        if name not in names:
            above = ".".join(whole.split(".")[: -len(path)])
            raise ConfigError(f"there is no {_short.repr(whole)}{nearest(name, names, above, '.'.join(rest))}")
        inner = _replaced(getattr(tree, name), rest, value, whole, _hints(type(tree))[name])
        return _build(type(tree), {n: inner if n == name else getattr(tree, n) for n in names}, whole)
    if isinstance(tree, tuple):
        if name not in map(str, range(len(tree))):
            raise ConfigError(f"there is no {_short.repr(whole)}: it has {len(tree)} positions, counted from 0")
        hints = _item_hints(declared, len(tree))
        return tuple(
            _replaced(item, rest, value, whole, hints[i]) if i == int(name) else item for i, item in enumerate(tree)
        )
    if isinstance(tree, Mapping):
        inner = _replaced(tree.get(name), rest, value, whole, _value_hint(declared))
        return {**tree, name: inner}
    raise ConfigError(f"there is no {_short.repr(whole)}: {_short.repr(tree)} has nothing below it")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _item_hints(declared: Any, length: int) -> list[Any]:
    """What each of `length` items is declared as; of several tuple types the first of that length."""
    kinds = [typing.get_args(option) for option in _options(declared) if typing.get_origin(option) is tuple]
    hints = [[kind[0]] * length if kind[1:] == (Ellipsis,) else list(kind) for kind in kinds]
    return next((hint for hint in hints if len(hint) == length), hints[0] if hints else [Any] * length)


def _value_hint(declared: Any) -> Any:
    kinds = (option for option in _options(declared) if typing.get_origin(option) in (dict, Mapping))
    return next((typing.get_args(option)[1] for option in kinds), Any)


def _options(declared: Any) -> tuple[Any, ...]:
    """The members of a union other than None, or the one type declared."""
    union = typing.get_origin(declared) in (typing.Union, types.UnionType)
    return tuple(o for o in typing.get_args(declared) if o is not type(None)) if union else (declared,)


def _plain(declared: Any) -> Any:
    options = _options(declared)
    return options[0] if len(options) == 1 else None


def _is_ours(option: Any) -> bool:
    """Whether it is a class that this module reads itself; pydantic reads the others."""
    if not _is_class(option):
        return False
    return dataclasses.is_dataclass(option) or inspect.isabstract(option) or issubclass(option, enum.Enum)


def _is_class(option: Any) -> bool:
    return isinstance(option, type) and typing.get_origin(option) is None and option is not Any


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _named(where: str) -> str:
    return _short.repr(where) if where else "the configuration"


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def dumps(value: Any) -> str:
    """A configuration as indented JSON text."""
    return json.dumps(to_json(value), indent=2, ensure_ascii=False)
