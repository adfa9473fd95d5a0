"""What makes two configurations the same: their canonical form and its fingerprint.

A configuration is a tree of frozen dataclasses, tuples, string-keyed mappings and plain scalars. Its canonical form
names every class by path and leaves out each field that stands at its default, so that a new hyper-parameter does not
orphan the results made before it. Numbers are compared by value (1 and 1.0 are one number, true and 1 are not).
Whatever has no canonical form raises: a permissive `str(value)` would silently fork, or merge, two identities.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

FINGERPRINT_LENGTH = 20


def class_path(cls: type) -> str:
    """The dotted path under which a class can be found again, e.g. `pipeline.physics.views.Crop`."""
    return f"{cls.__module__}.{cls.__qualname__}"


def canonical(value: Any, where: str = "configuration") -> Any:
    """The JSON value that stands for `value` in its fingerprint.

    Raises:
        TypeError: for a value without a canonical form (a path, an array, a set, a mutable dataclass, a lambda).
        ValueError: for a number that is not finite, or a mapping whose keys are not all strings.
    """
    if value is None or (isinstance(value, bool | str) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, enum.Enum):
        return {"is": class_path(type(value)), "name": value.name}
    if isinstance(value, int):
        return int(value)
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}: only finite numbers can be part of a configuration")
        return int(value) if value.is_integer() else value
    if isinstance(value, tuple | list):
        return [canonical(item, f"{where}.{i}") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"{where} has keys that are not strings: name them with strings")
        return {key: canonical(value[key], f"{where}.{key}") for key in sorted(value)}
    if hasattr(value, "__config__") and not isinstance(value, type):
        return value.__config__()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _canonical_dataclass(value, where)
    raise TypeError(
        f"{where} is of type {class_path(type(value))}, which has no canonical form: "
        "use numbers, strings, tuples, mappings and frozen dataclasses in configurations"
    )


def _canonical_dataclass(value: Any, where: str) -> dict[str, Any]:
    cls = type(value)
    if not cls.__dataclass_params__.frozen:
        raise TypeError(f"{where} is a {class_path(cls)}, which is mutable: declare it @dataclass(frozen=True)")
    tree: dict[str, Any] = {"is": class_path(cls)}
    version = getattr(cls, "version", None)
    if isinstance(version, int):
        tree["version"] = version
    for field in dataclasses.fields(value):
        form = canonical(getattr(value, field.name), f"{where}.{field.name}")
        if not _is_default(field, form, f"the default of {where}.{field.name}"):
            tree[field.name] = form
    return tree


def _is_default(field: dataclasses.Field, form: Any, where: str) -> bool:
    """Compared as canonical text: `==` would call True and 1 the same."""
    if field.default is not dataclasses.MISSING:
        default = field.default
    elif field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        return False
    return dumps(canonical(default, where)) == dumps(form)


def dumps(form: Any) -> str:
    """Canonical JSON text: sorted keys, no spaces, ASCII only, no NaN."""
    return json.dumps(form, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(value: Any) -> str:
    """The first 80 bits of SHA-256 of the canonical text, as 20 hexadecimal digits.

    The same in every process, on every machine, under every `PYTHONHASHSEED`.
    """
    return hashlib.sha256(dumps(canonical(value)).encode()).hexdigest()[:FINGERPRINT_LENGTH]
