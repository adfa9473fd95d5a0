"""corrupted: somebody's images as a set that was seen through a corruption, with a report of what that hides."""

from __future__ import annotations

from pipeline.data.declared import Declared
from pipeline.data.images import Resize
from pipeline.data.sources import source_of
from pipeline.graph import Scale, Step, step
from pipeline.physics.conditions import Condition
from pipeline.physics.corruption import Clean, Corruption, Noisy, Through
from pipeline.physics.linear import LinearMap
from stages.census import Census
from stages.conditions import Told, Worsen
from stages.corrupt import Corrupt, Part
from stages.gallery import Gallery
from stages.ingest import Ingest, OnBad, row_shape, snapshot
from stages.sets import Stored


def corrupted(
    data: str = "digits",
    split: str = "",
    image_column: str = "",
    label_column: str = "",
    caption_column: str = "",
    corruption: Corruption | None = None,
    seen_through: Corruption | LinearMap | None = None,
    label_condition: Condition | None = None,
    caption_condition: Condition | None = None,
    first: int = 0,
    count: int | None = None,
    size: int | None = None,
    resize: Resize = Resize.FAIL,
    frames: int | None = None,
    stride: int = 1,
    colour: bool | None = None,
    labels: bool = False,
    on_bad: OnBad = OnBad.FAIL,
    budget: float = 0.01,
    seed: int = 0,
    readers: int = 1,
) -> Step:
    """Ingest images, corrupt each by a draw that its id decides, and show what became of them.

    Args:
        data: "digits", a folder of images, videos or archives, or a file of them; any fsspec URL, or a glob.
        split: which of its files to take, such as train, where their names say of which split they are.
        image_column: the column of parquet that has the images; found if not given, where only one can be.
        label_column: the one that has the labels; "label" if not given and there.
        caption_column: the one that has the captions; "caption" or "text" if not given and there.
        corruption: what happens to the images; {is: pipeline.physics.corruption.Noisy, noise: 0.5} if not given.
        seen_through: what all of them went through before they arrived, such as
            {is: pipeline.physics.views.Pool, shape: [3, 64, 64], size: 2}; then nothing more happens to them.
        label_condition: how labels are told wrong, such as {is: pipeline.physics.conditions.Swap, ratio: 0.1}.
        caption_condition: how captions are told wrong, such as {is: pipeline.physics.conditions.TokenRemoval,
            ratio: 0.2}.
        first: how many images to pass over, in the order of the seed.
        count: how many to take then; all that are left if not given. Sets of one seed whose ranges do not meet have
            no image in common.
        size: side of the square that images are brought to (with --resize); their own size if not given.
        resize: what to do with images of another size.
        frames: how many frames a clip has, to read films as clips.
        stride: how far the frames of a clip lie apart.
        colour: whether images are taken in colour or made grey; as the first image is if not given, and then a colour
            image in a grey set is refused.
        labels: whether every image must have a label.
        on_bad: what to do with a file that is no usable image.
        budget: the largest share of the files that may be left out.
        seed: of the choice of images, of the corruption and of what is told wrong.
        readers: how many processes read and corrupt images.
    """
    source = source_of(data, frames, stride, split, image_column, label_column, caption_column)
    shape = row_shape(source, size, colour)
    known = Through(seen_through) if isinstance(seen_through, LinearMap) else seen_through
    if corruption is None:
        corruption = Noisy(noise=0.5) if known is None else Clean()
    elif known is not None and not isinstance(corruption, Clean):
        raise ValueError("these images are declared to be damaged already (seen_through): leave out corruption")
    corruption.out_shape(shape)
    wide = Scale(workers=readers)
    said = None if known is None else Declared(known, shape)
    taken = Ingest(source, shape, resize, colour is False, labels, on_bad, budget, snapshot(source), said)
    full = step(taken, "ingest", wide)
    conditions = [(Told.LABEL, label_condition), (Told.CAPTION, caption_condition)]
    wanted = [(told, condition) for told, condition in conditions if condition is not None]
    made = step(Corrupt(full, Part(first, count, seed), corruption, seed), "data/images" if wanted else "data", wide)
    for left, (told, condition) in enumerate(wanted, 1 - len(wanted)):
        made = step(Worsen(made, condition, told, seed), "data" if not left else f"data/{told.value}", wide)
    census = step(Census((Stored("corrupted", made),), seed), "census", wide)
    return step(Gallery(full, made, corruption, census=census), "report")
