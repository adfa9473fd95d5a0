"""Arrived: the rows of a view that were seen through it before they came, rather than made here of full images.

A fixed view is declared for all of them (pipeline/data/declared.py), as is a known watermark; masks lie beside the
images, one each. Where a window or a clip lay nobody can tell from its pixels.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.data.declared import Declared
from pipeline.data.images import Resize
from pipeline.data.sources import source_of
from pipeline.graph import Scale, Step, step
from pipeline.keys import Key
from pipeline.physics.corruption import Clean
from pipeline.physics.masks import PixelMask
from stages.corrupt import Corrupt, Part
from stages.ingest import Ingest, row_shape, snapshot
from stages.views import Named


def arrived(view: Named, full: Ingest, stride: int, seed: int, wide: Scale) -> Step:
    """The rows that `view.data` has.

    Args:
        view: the view.
        full: how the full images are ingested, as these are but for their shape and what is known of them.
        stride: how far the frames of a clip lie apart.
        seed: of the choice among them.
        wide: how wide the steps run.

    Raises ValueError: what the view draws cannot be known of rows that arrived, or the first image is of another form.
    """
    shape, name = full.shape, view.name
    known, shown = None, tuple(view.corruption.out_shape(shape))
    if not view.corruption.draw(shape, Key(0)):
        known = Declared(view.corruption, shown)
    elif isinstance(view.map, PixelMask) and view.map.per_channel:
        raise ValueError(
            f"the masks of view {name} hide channels one by one, and a picture beside an image hides all of them: "
            "leave out per_channel"
        )
    elif not isinstance(view.map, PixelMask):
        raise ValueError(
            f"view {name} draws a {type(view.map).__name__} for each row, and of rows that arrived only masks can be "
            "told, by pictures beside them: make map a PixelMask, or a view that is the same for all rows"
        )
    elif not view.whole or view.at:
        raise ValueError(
            f"the masks of view {name} are not known before its rows are read: ask its network for whole images alone, "
            "with whole above 0, such as 0.125, and without at"
        )
    source = source_of(view.data, shown[1] if len(shown) == 4 else None, stride if len(shown) == 4 else 1)
    found = row_shape(source)
    if found[1:] != shown[1:] or found[0] > shown[0]:
        raise ValueError(
            f"the images of view {name} at {view.data} are {found} and its map shows {shown}: bring them to that form, "
            "or change the map"
        )
    changed = {"source": source, "shape": shown, "resize": Resize.FAIL, "grey": False, "snapshot": snapshot(source)}
    rows = step(replace(full, seen_through=known, **changed), f"ingest/{name}", wide)
    return step(Corrupt(rows, Part(0, view.count, seed), Clean(), seed), f"data/{name}", wide)
