"""JSON trees as flat tables of dotted paths, and where two of them differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def leaves(form: Any, prefix: str = "") -> dict[str, Any]:
    """A JSON tree as {dotted path: scalar}, in order; empty containers are leaves too."""
    if isinstance(form, Mapping) and form:
        pairs = form.items()
    elif isinstance(form, list) and form:
        pairs = ((str(i), item) for i, item in enumerate(form))
    else:
        return {prefix: form}
    flat: dict[str, Any] = {}
    for name, item in pairs:
        flat.update(leaves(item, f"{prefix}.{name}" if prefix else name))
    return flat


def differences(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """(path, old, new) wherever two JSON trees differ; a side that has no such path shows None."""
    before, after = leaves(old), leaves(new)
    paths = list(before) + [path for path in after if path not in before]
    absent = object()
    return [(p, before.get(p), after.get(p)) for p in paths if before.get(p, absent) != after.get(p, absent)]
