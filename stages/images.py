"""Images: somebody's still images as a recipe takes them, the options under which they are found and read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from pipeline.data.declared import Declared
from pipeline.data.images import Resize
from pipeline.data.source import Source
from pipeline.data.sources import source_of
from pipeline.graph import Scale, Step, step
from pipeline.physics.corruption import Corruption
from stages.ingest import Ingest, OnBad, image_shape, snapshot


@dataclass(frozen=True)
class Images:
    """Where images are and how they are read.

    Args:
        data: "digits", a folder or file of images, any fsspec URL, or a glob.
        split: take the files of one split, as train.
        image_column: of parquet, which has the images.
        label_column: of parquet, which has labels.
        size: side of the square that images are brought to (with --resize); their own size if not given.
        resize: what to do with images of another size.
        colour: in colour or grey; as the first image is if not given, and colour in a grey set is refused.
        on_bad: what to do with unusable files.
        budget: largest share of files left out.
        readers: processes that decode or corrupt images.
    """

    unprefixed = True  # the command line has --data, not --images.data

    data: str = "digits"
    split: str = ""
    image_column: str = ""
    label_column: str = ""
    size: int | None = None
    resize: Resize = Resize.FAIL
    colour: bool | None = None
    on_bad: OnBad = OnBad.FAIL
    budget: float = 0.01
    readers: int = 1

    @cached_property
    def source(self) -> Source:
        """What lists and reads them."""
        return source_of(self.data, split=self.split, image=self.image_column, label=self.label_column)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a row."""
        return image_shape(self.source, self.size, self.colour)

    @property
    def wide(self) -> Scale:
        """How wide steps run that only read."""
        return Scale(workers=self.readers)

    def ingest(self, label: str, labels: bool = False, known: Corruption | None = None) -> Step:
        """The step that reads them, perhaps refusing images without a label.

        `known` is what all of them went through before they arrived.
        """
        said = None if known is None else Declared(known, self.shape)
        grey, found = self.colour is False, snapshot(self.source)
        taken = Ingest(self.source, self.shape, self.resize, grey, labels, self.on_bad, self.budget, found, said)
        return step(taken, label, self.wide)

    def of(self, data: str) -> Images:
        """Others, read as these are."""
        return replace(self, data=data)
