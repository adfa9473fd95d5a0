"""What the project's log is warned of, in tests that pytest's `caplog` is too short-lived or too long-lived for."""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager


@contextmanager
def warned(match: str | None = None):
    """The sentences of a while; one of them at least must match."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    log = logging.getLogger("kintsugi")
    log.addHandler(handler)
    try:
        yield said
    finally:
        log.removeHandler(handler)
    assert match is None or any(re.search(match, text) for text in said), said
