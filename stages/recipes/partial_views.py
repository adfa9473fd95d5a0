"""partial_views: few perfect images and many imperfect ones, each set seen through its own view.

One model a view, and one joint model that learns from all views and from the few full images; these are combined by
precision-weighted least squares, the joint model as one more view (A = I), with a regularised residual on top. Judged
at equal clean images against a model of the clean images alone. `pipeline/diffusion/compose.py` and `joint.py` have the
mathematics. A share of the full images trains nothing: it measures the models' errors and the gates.

With `rounds`, the combination completes every view's rows to whole images, a model learns from those and the full
ones, and joins the combination in its turn: Monte-Carlo EM (Rozet et al. 2024), whose E-step is `stages/restore.py`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.data.images import Resize
from pipeline.data.sources import source_of
from pipeline.diffusion.combine import Mode
from pipeline.diffusion.sample import Heun
from pipeline.graph import Scale, Step, step
from pipeline.metrics.denoising import DenoisingError
from pipeline.metrics.judging import Judging
from pipeline.physics.corruption import Clean, Through
from pipeline.physics.linear import Identity
from pipeline.physics.views import Crop
from stages.arrived import arrived
from stages.census import Census
from stages.compare import Compare, Contestant, Shown
from stages.compose import Combine, Seen
from stages.corrupt import Corrupt, Part
from stages.distil import Distil
from stages.evaluate import Evaluate
from stages.extractors import extractor
from stages.ingest import Ingest, OnBad, row_shape, snapshot
from stages.joint import Rows, TrainJoint
from stages.judge import Drawn, Judge
from stages.overlaps import overlaps
from stages.residual import Regularisation, TrainResidual
from stages.restore import Restore
from stages.sample import Sample
from stages.sets import Arrived, Stored
from stages.train import Fit, Share, Train
from stages.views import Named, default_views, parts, require_heard, require_levels


def partial_views(
    data: str = "digits",
    split: str = "",
    image_column: str = "",
    label_column: str = "",
    clean: int = 96,
    per_view: int = 430,
    held_out: float = 0.1,
    size: int | None = None,
    resize: Resize = Resize.FAIL,
    frames: int | None = None,
    stride: int = 1,
    colour: bool | None = None,
    labels: bool = False,
    on_bad: OnBad = OnBad.FAIL,
    budget: float = 0.01,
    joint: bool = True,
    rounds: int = 0,
    draws: int = 2,
    combine: Mode = Mode.AUTO,
    full_view: bool = False,
    distil: int = 0,
    ceiling: bool = False,
    samples: int = 256,
    seed: int = 0,
    readers: int = 1,
    scale: Scale = Scale(),
    judging: Judging = Judging(),
    views: tuple[Named, ...] | None = None,
    view_backbone: Backbone = unet.Config(dropout=0.4),
    joint_backbone: Backbone = unet.Config(dropout=0.3),
    completed_backbone: Backbone = unet.Config(dropout=0.15),
    clean_backbone: Backbone = unet.Config(dropout=0.6),
    residual_backbone: Backbone = unet.Config(dropout=0.5),
    ceiling_backbone: Backbone = unet.Config(dropout=0.15),
    distilled_backbone: Backbone = unet.Config(dropout=0.0),
    view_fit: Fit = Fit(images=112_000).decayed(0.3),
    joint_fit: Fit = Fit(images=192_000).decayed(0.3),
    completed_fit: Fit = Fit(images=160_000).decayed(0.3),
    clean_fit: Fit = Fit(images=51_200).decayed(0.3),
    residual_fit: Fit = Fit(images=12_800).decayed(1.0),
    ceiling_fit: Fit = Fit(images=96_000),
    distilled_fit: Fit = Fit(images=192_000),
    residual: Regularisation = Regularisation(output_l2=3.0),
) -> Step:
    """Train a diffusion model from partial views and a few full images, and compare it with what those few give.

    Args:
        data: "digits", a folder or file of images, any fsspec URL, or a glob.
        split: take the files of one split, as train.
        image_column: of parquet, which has the images.
        label_column: of parquet, which has labels.
        clean: how many images are seen whole.
        per_view: images of each view that are made here, none in two.
        held_out: the share of the full images that trains nothing and measures what the others trained.
        size: side of the square that images are brought to, with --resize; as they are if not given.
        resize: what to do with other sizes.
        frames: of a clip, to learn from films.
        stride: how far a clip's frames lie apart.
        colour: in colour or grey; as the first image is if not given, and colour in a grey set is refused.
        labels: refuse images without a label.
        on_bad: what to do with unusable files.
        budget: largest share of files left out.
        joint: whether one more model learns from all views and the full images together.
        rounds: how often the views' rows are completed by the combined models and learned from.
        draws: completions of a row in a round.
        combine: how views become one.
        full_view: whether a model of the full images alone is one more view.
        distil: how many of its own samples teach one network to answer as the composed model; 0: there is none.
        ceiling: also train on all the same images unharmed, which shows how far there is to go.
        samples: how many images each model draws, to be judged.
        seed: of every random choice.
        readers: processes that decode or corrupt images.
        scale: workers of each training step, and CPUs and GPUs of each worker.
        judging: in which features samples are judged, and how.
        views: the views; two overlapping crops and a pooled view if not given.
        view_backbone: network of each view's model.
        joint_backbone: network of the joint model.
        completed_backbone: network of the completed rows' model.
        clean_backbone: network of the clean-only model.
        residual_backbone: network of the residual.
        ceiling_backbone: network of the ceiling.
        distilled_backbone: network of the distilled model.
        view_fit: how each view's model is trained.
        joint_fit: how the joint model is trained.
        completed_fit: how the model of the completed rows is trained, in every round.
        clean_fit: how the clean-only model is trained; longer, it overfits.
        residual_fit: how the residual is trained.
        ceiling_fit: how the ceiling is trained.
        distilled_fit: how the distilled model is trained.
        residual: what regularises the residual.
    """
    source = source_of(data, frames, stride, split, image_column, label_column)
    shape = row_shape(source, size, colour)
    chosen = default_views(shape) if views is None else views
    if not chosen:
        raise ValueError("there are no views: give at least one")
    own, made = [v for v in chosen if v.data], [v for v in chosen if not v.data]
    if made and per_view < 1:
        raise ValueError(f"per_view is {per_view}: give each view at least 1 image (--per-view)")
    if clean < 8:
        raise ValueError(f"clean is {clean}: give at least 8 full images, some of which are held out")
    if samples < 2:
        raise ValueError(f"samples is {samples}: the Fréchet distance needs a covariance, so give at least 2")
    if distil < 0:
        raise ValueError(f"distil is {distil}: give the number of samples to learn from, or 0")
    if rounds < 0 or draws < 1:
        raise ValueError(f"rounds is {rounds} and draws is {draws}: give rounds from 0 and draws from 1")
    if combine is Mode.BETHE and (joint or rounds or full_view):
        raise ValueError("region counting gives views no say beside a model of whole images: add --no-joint alone")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is {held_out}: give the share of the full images to measure with, within (0, 1)")
    aside = max(4, round(held_out * clean))
    if aside >= clean:
        raise ValueError(
            f"held_out is {held_out}, which is {aside} of the {clean} full images and leaves none to learn from: give "
            "less (--held-out) or more of them (--clean)"
        )
    if own and (ceiling or combine is Mode.BETHE):
        what = "--ceiling learns from unharmed images" if ceiling else "--combine bethe cuts overlaps out of rows"
        raise ValueError(f"{what}, and those of view {own[0].name} came as they are: leave it out")
    if rounds and (unsaid := [v.name for v in own if v.count is None]):
        raise ValueError(f"rounds count each image alike: say how many view {unsaid[0]} has, as its count")
    if len({view.name for view in chosen} | RESERVED) < len(chosen) + len(RESERVED):
        raise ValueError(f"two views have one name, or one of {', '.join(sorted(RESERVED))}: name them differently")
    if not all(v.plain(shape) for v in chosen) and rounds:
        raise ValueError("rounds complete rows of views that are the same for all rows, without noise: leave rounds 0")
    if joint and not any(v.plain(shape) for v in chosen):
        raise ValueError("the joint model takes no rows with noise, masks or places of their own: add --no-joint")
    fits = {"view_fit": view_fit} | ({"joint_fit": joint_fit} if joint else {})
    fits |= ({"completed_fit": completed_fit} if rounds else {}) | ({"clean_fit": clean_fit} if full_view else {})
    for name, fit in fits.items():
        require_levels(name, fit.levels, Heun())
    for view in chosen:
        require_heard(view, Heun())
    wide = Scale(workers=readers)
    taken = Ingest(source, shape, resize, colour is False, labels, on_bad, budget, snapshot(source))
    full = step(taken, "ingest", wide)

    few = step(Corrupt(full, Part(0, clean, seed), Clean(), seed), "data/clean", wide)
    taught = step(Corrupt(full, Part(aside, clean - aside, seed), Clean(), seed), "data/clean/taught", wide)
    judges = step(Corrupt(full, Part(0, aside, seed), Clean(), seed), "data/clean/held", wide)
    used = clean + len(made) * per_view
    shares = iter(Part(first, per_view, seed) for first in range(clean, used, max(1, per_view)))
    held = step(Corrupt(full, Part(used, None, seed), Clean(), seed), "data/test", wide)
    harmed = [
        arrived(v, taken, stride, seed, wide)
        if v.data
        else step(Corrupt(full, next(shares), v.corruption, seed), f"data/{v.name}", wide)
        for v in chosen
    ]
    at_once = [(v.plain(shape), d) for v, d in zip(chosen, harmed, strict=True)]
    plain = [(A, d) for A, d in at_once if A is not None]
    sets = [(Arrived if v.data else Stored)(v.name, d) for v, d in zip(chosen, harmed, strict=True)]
    census = step(Census((Stored("clean", few), *sets, Stored("test", held)), seed), "census", wide)
    unharmed = Corrupt(full, Part(0, used, seed), Clean(), seed)
    every = partial(step, unharmed, "data/unharmed", wide)
    how, eye = extractor(judging, shape, every, held, replace(scale, workers=1))
    looked = (census,) if eye is None else (census, eye)  # what is wrong is to be known before hours are spent on it
    seen, names = [], []
    for v, d in zip(chosen, harmed, strict=True):
        brought = parts(v, d, taught, shape, view_backbone, view_fit, seed)
        model = step(brought[0].stage, f"view/{v.name}", scale, looked)
        seen += [Seen(part.map, model, part.least) for part in brought]
        names += [part.name for part in brought]

    def cut(rows: Step, window: Crop) -> Step:
        return step(Corrupt(rows, Part(0, None, seed), Through(window), seed), "data/overlap", wide)

    counted = combine is Mode.BETHE and all(v.fixed(shape) is not None for v in chosen)
    for n, region in enumerate(overlaps([A for A, _ in at_once]) if counted else ()):
        first_rows, *more = region.rows([A for A, _ in plain], harmed, cut)  # pyright: ignore[reportArgumentType]
        learned = Train(first_rows, view_backbone, view_fit, seed, tuple(Share(rows) for rows in more))
        seen.append(Seen(region.map, step(learned, f"overlap/{n}", scale, looked)))
        names.append(f"overlap {n}")
    models: dict[str, Step] = {}
    if joint:
        rows = tuple(Rows(A, d) for A, d in plain)
        whole = TrainJoint(rows, taught, backbone=joint_backbone, fit=joint_fit, seed=seed)
        models["joint"] = step(whole, "joint", scale, looked)
        # First: it takes longest, and steps that are ready start in the order in which the target needs them.
        seen.insert(0, Seen(Identity(shape), models["joint"]))
        names.insert(0, "joint")

    if full_view:
        seen.append(Seen(Identity(shape), step(Train(taught, clean_backbone, clean_fit, seed), "full", scale, looked)))
        names.append("full")

    one = replace(scale, workers=1)
    shown = [Shown("clean", few)] + [Shown(f"view: {v.name}", d) for v, d in zip(chosen, harmed, strict=True)]
    first = list(seen)
    for n in range(rounds):
        combined = step(Combine(tuple(seen), few, judges, draws=32, seed=seed, mode=combine), f"base/{n}", scale)
        completed = [
            step(Restore(combined, d, A, draws, seed=seed + n), f"data/completed/{n}/{v.name}", wide)
            for v, (A, d) in zip(chosen, plain, strict=True)
        ]
        shown += [Shown(f"completed, round {n}: {v.name}", d) for v, d in zip(chosen, completed, strict=True)]
        # Each image as often as any other.
        also = tuple(Share(rows, v.count or per_view) for v, rows in zip(chosen, completed, strict=True))
        learned = Train(taught, completed_backbone, completed_fit, seed + n, also, clean - aside)
        models["completed"] = step(learned, f"completed/{n}", scale)
        seen = [Seen(Identity(shape), models["completed"]), *first]
    if rounds:
        names.insert(0, "completed")
    base = step(Combine(tuple(seen), few, judges, draws=32, seed=seed, mode=combine), "base", scale)
    top = TrainResidual(base, taught, judges, residual_backbone, residual, residual_fit, seed)
    composed = step(top, "composed", scale)
    models = {"composed": composed, "base": base} | models
    if distil:
        asked = step(Sample(composed, distil, seed=seed + 1), "samples/teacher", one)
        pupil = Distil(asked, distilled_backbone, distilled_fit, seed, (Share(taught),), 3.0, teacher=composed)
        models["distilled"] = step(pupil, "distilled", scale)
    models["clean_only"] = step(Train(few, clean_backbone, clean_fit, seed), "clean_only", scale, looked)
    if ceiling:
        models["ceiling"] = step(Train(every(), ceiling_backbone, ceiling_fit, seed), "ceiling", scale, looked)

    contestants = []
    for name, model in models.items():
        drawn = step(Sample(model, samples, seed=seed), f"samples/{name}", one)
        contestants.append(Contestant(name, step(Evaluate(model, held), f"evaluate/{name}", one), drawn))
    drawn_by = tuple(Drawn(c.name, c.samples) for c in contestants)
    # What chooses among options must not be the test images, which say what the choice was worth.
    chooses = Evaluate(composed, judges, DenoisingError(draws=8), crossed=residual.gate)
    return step(
        Compare(
            title="Diffusion from partial views",
            contestants=tuple(contestants),
            data=tuple(shown),
            against="clean_only",
            ceiling="ceiling" if ceiling else None,
            calibration=composed,
            base=base,
            names=tuple(names),
            census=census,
            judgement=step(Judge(drawn_by, held, few, how, eye), "judge", wide),
            selection=step(chooses, "evaluate/selection", one),
        ),
        "report",
    )


RESERVED = {"clean", "test", "unharmed", "joint", "completed", "full"}
