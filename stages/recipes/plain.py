"""plain: one denoiser of somebody's images, told their labels or not; samples, measurements and a report."""

from __future__ import annotations

import dataclasses

from pipeline.backbones import adm
from pipeline.backbones.backbone import Backbone
from pipeline.backbones.captions import Captions
from pipeline.backbones.condition import Embedded, Labels
from pipeline.data.images import Resize
from pipeline.data.reader import CAPTION
from pipeline.data.sources import has_captions, source_of
from pipeline.graph import Scale, Step, step
from pipeline.metrics.judging import Judging
from pipeline.physics.corruption import Clean
from stages.census import Census
from stages.compare import Compare, Contestant, Shown
from stages.conditioned import classes_of, condition_of
from stages.corrupt import Corrupt, Part
from stages.evaluate import Evaluate
from stages.extractors import extractor
from stages.ingest import Ingest, OnBad, image_shape, snapshot
from stages.judge import Drawn, Judge
from stages.sample import Sample
from stages.sets import Stored
from stages.train import Fit, Train


def plain(
    data: str = "digits",
    split: str = "",
    image_column: str = "",
    label_column: str = "",
    caption_column: str = "",
    embedding_column: str = "",
    classes: int = 0,
    captions: bool = False,
    embedding: int = 0,
    test: int = 256,
    size: int | None = None,
    resize: Resize = Resize.FAIL,
    colour: bool | None = None,
    on_bad: OnBad = OnBad.FAIL,
    budget: float = 0.01,
    samples: int = 256,
    weight: float = 2.0,
    seed: int = 0,
    readers: int = 1,
    scale: Scale = Scale(),
    judging: Judging = Judging(),
    backbone: Backbone = adm.Config(16, (1, 2), 1, (1,), head=32, embedding=64, dropout=0.1),
    fit: Fit = Fit(images=48_000, unconditional=0.1),
) -> Step:
    """Train one diffusion model on images as they are, and measure it on some that it has not seen.

    Args:
        data: "digits", a folder or file of images, any fsspec URL, or a glob.
        split: take the files of one split, as train.
        image_column: of parquet, which has the images.
        label_column: of parquet, which has labels.
        caption_column: of parquet, which has captions.
        embedding_column: of parquet or an .npz, which has embeddings; "embedding" if not given and they are asked for.
        classes: how many classes the network is told of, labels counting from 0; from images without a label it learns
            to do without. 0: no labels.
        captions: whether the network is told the images' captions, as the words that they have in common.
        embedding: how many numbers of an embedding column the network is told; 0: none.
        test: how many images are held out and measure the model.
        size: side of the square that images are brought to (with --resize); their own size if not given.
        resize: what to do with images of another size.
        colour: whether images are taken in colour or made grey; as the first image is if not given, and then a colour
            image in a grey set is refused.
        on_bad: what to do with a file that is no usable image.
        budget: the largest share of the files that may be left out.
        samples: how many images are drawn and judged.
        weight: of classifier-free guidance, for a second set of samples, where something is told; 1: there is none.
        seed: of every random choice.
        readers: how many processes decode images at a time.
        scale: workers of the training step, and CPUs and GPUs of each worker.
        judging: in which features samples are judged, and how.
        backbone: the network, such as {is: pipeline.backbones.dit.Config, width: 96, depth: 6, heads: 3}.
        fit: how it is trained.
    """
    network = told(backbone, classes, captions, embedding)
    condition = condition_of(network)
    size_of = condition.size if isinstance(condition, Embedded) and condition.column == Embedded.column else 0
    if embedding_column and not size_of:
        raise ValueError("embedding_column is given and no embedding is asked for: say how many numbers one has")
    vectors = embedding_column or "embedding" * bool(size_of)
    source = source_of(data, None, 1, split, image_column, label_column, caption_column, vectors)
    shape = image_shape(source, size, colour)
    if condition is not None and condition.column == CAPTION and not has_captions(source):
        raise ValueError(f"{data} has no captions: lay a.txt beside a.png, or name a column of parquet")
    if samples < 2 or test < 2:
        raise ValueError(f"samples is {samples} and test {test}: the Fréchet distance needs at least 2 of each")
    labels = tuple(range(classes_of(network)))
    wide, one = Scale(workers=readers), dataclasses.replace(scale, workers=1)
    taken = Ingest(source, shape, resize, colour is False, False, on_bad, budget, snapshot(source), embedding=size_of)
    full = step(taken, "ingest", wide)
    held = step(Corrupt(full, Part(0, test, seed), Clean(), seed), "data/test", wide)
    rows = step(Corrupt(full, Part(test, None, seed), Clean(), seed), "data/train", wide)
    census = step(Census((Stored("train", rows), Stored("test", held)), seed), "census", wide)
    how, eye = extractor(judging, shape, lambda: rows, held, one)
    looked = (census,) if eye is None else (census, eye)  # what makes them unfit is to be known before hours are spent
    model = step(Train(rows, network, fit, seed), "model", scale, looked)
    like = held if condition is not None and not labels else None
    drawn = {"model": Sample(model, samples, seed=seed, labels=labels, like=like)}
    if condition is not None and fit.unconditional and weight != 1:
        drawn["guided"] = dataclasses.replace(drawn["model"], classifier_free=True, weight=weight)
    contestants = []
    for name, asked in drawn.items():
        made = step(asked, f"samples/{name}", one)
        contestants.append(Contestant(name, step(Evaluate(model, held), f"evaluate/{name}", one), made))
    shown = (Shown("train", rows), Shown("test", held))
    drawn_by = tuple(Drawn(c.name, c.samples) for c in contestants)
    judged = step(Judge(drawn_by, held, rows, how, eye), "judge", wide)
    report = Compare("A diffusion model", tuple(contestants), shown, None, census=census, judgement=judged)
    return step(report, "report")


def told(backbone: Backbone, classes: int, captions: bool = False, embedding: int = 0) -> Backbone:
    """The backbone with the one condition that is asked for; as it is if none is. Raises ValueError: it takes none."""
    asked = [classes and "classes", captions and "captions", embedding and "embedding"]
    asked = [name for name in asked if name]
    if not asked:
        return backbone
    if len(asked) > 1:
        raise ValueError(f"{' and '.join(asked)} are asked for, and a network is told one thing: choose one")
    if not any(field.name == "condition" for field in dataclasses.fields(backbone)):  # pyright: ignore[reportArgumentType]
        what = "labels" if classes else "captions or embeddings"
        raise ValueError(
            f"this backbone takes no {what}: leave out {asked[0]}, or choose pipeline.backbones.adm or dit"
        )
    condition = Labels(classes) if classes else Captions() if captions else Embedded(embedding)
    return dataclasses.replace(backbone, condition=condition)  # pyright: ignore[reportArgumentType]
