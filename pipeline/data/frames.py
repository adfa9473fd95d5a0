"""Frames: parquet with one frame a row, in the order of the film, cut into clips.

Rows that follow each other and agree in the column `clip` are one film; a column `frame`, where there is one, must
count upwards in it. Only the rows that a range of clips needs are read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice, pairwise

from pipeline.data.images import BadImage
from pipeline.data.listing import shown
from pipeline.data.parquet import Parquet
from pipeline.data.source import Piece, Raw, checked_id, spans
from pipeline.data.windows import Windows


@dataclass(frozen=True)
class Frames(Windows):
    """Clips of the films in `rows`, whose texts in the column `clip` name them; ids "<file>/<film>-<number>".

    A clip has the label and the caption of its first frame, the masks of all of its frames, and the sigma that all of
    them have.
    """

    rows: Parquet
    clip: str = "clip"

    def urls(self) -> tuple[str, ...]:
        """Where the rows are."""
        return self.rows.urls()

    def unread(self) -> dict[str, int]:
        """What is no parquet beside them."""
        return self.rows.unread()

    def cut(self) -> Iterator[Piece]:
        """Ranges of clips, between films where that is possible; their columns are read, not their frames."""
        for file in self.rows.files():
            counts = [self.windows(length) for _, _, length in self._films(file)]
            yield from (Piece((file,), start=a, stop=b) for a, b in spans(counts, self.most))

    def read(self, piece: Piece) -> Iterator[Raw]:
        """The clips start .. stop − 1 of one file."""
        (file,) = piece.files
        stem = file.rpartition(".")[0]
        rows = replace(self.rows, id="")
        wanted, before = [], 0
        for film, first, length in self._films(file):
            count = self.windows(length)
            low, high = max(piece.start - before, 0), min(piece.stop - before, count)
            before += count
            if low < high:
                start, stop = first + low * self.step, first + min((high - 1) * self.step + self.span, length)
                wanted.append((film, low, high, start, stop))
        at = wanted[0][3]
        raws = rows.read(Piece((file,), start=at, stop=wanted[-1][4]))  # in one go: a row group is read from its start
        for film, low, high, start, stop in wanted:
            here, at = islice(raws, start - at, stop - at), stop
            number, called = low - 1, f"{shown(film)} in {shown(file)}"
            try:
                for number, clip in enumerate(self.clips(here, 0, high - low, called), low):
                    name = f"clip {number} of {called}"
                    images = tuple(raw.image for raw in clip if isinstance(raw.image, bytes))
                    damage = {kind: tuple(raw.damage[kind] for raw in clip) for kind in clip[0].damage}
                    if len(sigmas := set(damage.get("sigma", ()))) == 1:
                        damage["sigma"] = sigmas.pop()
                    text = checked_id(f"{stem}/{film}-{number}", name)
                    yield Raw(text, images, clip[0].label, name, clip[0].caption, damage)
            except BadImage as error:  # from here on, which is counted as one
                name = f"clip {number + 1} of {called}"
                yield Raw(checked_id(f"{stem}/{film}-{number + 1}", name), error, None, name)
            deque(here, maxlen=0)  # what is left of this film lies before the next

    def _films(self, file: str) -> list[tuple[str, int, int]]:
        """(name, first row, number of rows) of the films of one file."""
        films: list[tuple[str, int, int]] = []
        at = 0
        frames = self.rows.values(file, "frame")
        for key, run in groupby(self.rows.values(file, self.clip)):
            length = sum(1 for _ in run)
            if key is None:
                raise ValueError(f"row {at} of {shown(file)} belongs to no film; fill its column {self.clip!r}.")
            numbers = [number for _, number in zip(range(length), frames)]
            if None in numbers or any(b <= a for a, b in pairwise(numbers)):
                raise ValueError(
                    f"The frames of {shown(str(key))} in {shown(file)} do not count upwards; sort the rows."
                )
            films.append((str(key), at, length))
            at += length
        if not films:
            raise ValueError(f"{shown(file)} has no rows with a column {self.clip!r}; set clip=<column>.")
        if len({name for name, _, _ in films}) < len(films):
            raise ValueError(f"The films in {shown(file)} are mixed up; sort its rows by {self.clip!r} first.")
        return films
