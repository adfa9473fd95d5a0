"""What every refusal looks like: one sentence that names the culprit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def refused() -> Callable[..., contextlib.AbstractContextManager[None]]:
    """`with refused("part of the sentence", ...)`: a ValueError of one line, one full stop, at most 500 characters."""

    @contextlib.contextmanager
    def check(*parts: str, kind: type[ValueError] = ValueError) -> Iterator[None]:
        with pytest.raises(kind) as caught:
            yield
        text = str(caught.value)
        assert text.isprintable(), text
        assert text.removesuffix(".").rstrip(".") + "." == text, text
        assert len(text) <= 500, text
        assert all(part in text for part in parts), text

    return check
