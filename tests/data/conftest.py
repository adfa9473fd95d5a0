"""What every refusal looks like: one sentence that names the culprit."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.data.records import Examples
from pipeline.data.shards import read_shard, write_shard
from pipeline.data.source import Source
from pipeline.place import Place
from stages.ingest import Ingest, _ingest


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


@pytest.fixture
def ingested(tmp_path: Path) -> Callable[..., Examples]:
    """`ingested(source, shape, **options)`: every row, through the ingest stage piece by piece and the shards."""

    def run(source: Source, shape: tuple[int, ...], **options) -> Examples:
        stage = Ingest(source, shape, **options)
        rows = []
        for piece in source.pieces():
            examples, _ = _ingest(stage, Place(str(tmp_path / "out")), piece)
            if examples is not None:
                file = io.BytesIO()
                write_shard(file, examples)
                rows.append(read_shard(io.BytesIO(file.getvalue()), "a shard"))
        return Examples.concat(rows)

    return run
