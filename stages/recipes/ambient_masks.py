"""ambient_masks: a denoiser of whole images from images of which pixels are hidden, each by a mask of its own.

In every step some of the pixels that are known are hidden as well and asked for, which teaches the network to fill in
those that are never known (Ambient Diffusion). pipeline/objectives/masking.py has the mathematics.
"""

from __future__ import annotations

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.filling import Ask, Further
from pipeline.diffusion.sample import Heun, Sampler
from pipeline.graph import Scale, Step, step
from pipeline.keys import Key
from pipeline.metrics.judging import Judging
from pipeline.objectives.masking import Masking
from pipeline.physics.corruption import Clean, Corruption
from pipeline.physics.masks import PixelMask
from stages.ambient import SIGMA
from stages.census import Census
from stages.corrupt import Corrupt, Part
from stages.images import Images
from stages.masked import TrainMasked
from stages.noisy import NoisySets, alike
from stages.sets import Stored
from stages.train import Fit, Train


def ambient_masks(
    images: Images = Images(),
    masks: Corruption = PixelMask(0.4),
    measured: str = "",
    noise: float | None = None,
    apart: bool = False,
    clean: int = 0,
    count: int | None = None,
    test: int = 400,
    further: Further = Further(),
    guidance: float = 0.0,
    ceiling: bool = False,
    samples: int = 256,
    seed: int = 0,
    scale: Scale = Scale(),
    judging: Judging = Judging(),
    sampler: Sampler = Heun(),
    backbone: Backbone = unet.Config(dropout=0.25),
    clean_backbone: Backbone = unet.Config(dropout=0.6),
    fit: Fit = Fit(images=192_000).decayed(0.3),
    clean_fit: Fit = Fit(images=51_200).decayed(0.3),
) -> Step:
    """Train one diffusion model from masked images and, if there are any, whole ones.

    Args:
        images: the images.
        masks: what hides pixels, and the noise on the others, such as {is: pipeline.physics.masks.BoxMask, low: 0.3,
            high: 0.5, noise: 0.1}.
        measured: where images are that arrived masked, their masks beside them; then no others are.
        noise: σ of the noise on those, 0 if there is none; if not given, each says its own.
        apart: whether to learn although some pixels are shown together by no image.
        clean: how many images are seen whole; with some of them samples are drawn without a mask.
        count: how many masked ones to take; all that are left if not given.
        test: how many whole images are held out, to measure with.
        further: what is hidden in training besides.
        guidance: how much four masks correct one another when samples are drawn (reconstruction guidance); 0: one mask.
        ceiling: also train on the same images without masks, which shows how far there is to go.
        samples: how many images each model draws, to be judged.
        seed: of every random choice.
        scale: workers of each training step, and CPUs and GPUs of each worker.
        judging: in which features samples are judged, and how.
        sampler: how they are drawn.
        backbone: the network.
        clean_backbone: network of the model of the whole images alone, to compare with.
        fit: how it is trained.
        clean_fit: how the model of the whole images alone is trained; longer, it overfits.
    """
    if clean < 0 or test < 2:
        raise ValueError(f"clean is {clean} and test {test}: give whole images from 0 and at least 2 to measure with")
    if clean and guidance:
        raise ValueError("with whole images samples are drawn without masks: leave out clean or guidance")
    if noise is not None and not measured:
        raise ValueError("noise is for images that arrived masked: give it to the masks")
    if measured and noise is None and not clean:
        raise ValueError(
            "say how noisy the masked images are, --noise 0 where they are not; if each says its own, nothing is "
            "learned below that without whole images: give some (--clean)"
        )
    full = images.ingest("ingest")
    held = step(Corrupt(full, Part(0, test, seed), Clean(), seed), "data/test", images.wide)
    few = step(Corrupt(full, Part(test, clean, seed), Clean(), seed), "data/clean", images.wide) if clean else None
    source, part, hiding, unharmed = full, Part(test + clean, count, seed), masks, None
    if measured:
        arrived = alike(images, images.of(measured), "masked").ingest("ingest/measured")
        source, part, hiding = arrived, Part(0, count, seed), Clean()
    else:
        every = Part(test, None if count is None else clean + count, seed)
        unharmed = step(Corrupt(full, every, Clean(), seed), "data/unharmed", images.wide)
    rows = step(Corrupt(source, part, hiding, seed), "data/masked", images.wide)
    told = not masks.noiseless and SIGMA in masks.draw(images.shape, Key(seed))  # a mixture's rows each say their own
    by, known = (None, noise) if measured else (masks, None if told else masks.noise)
    stored = [("clean", few), ("masked", rows), ("test", held)]
    looked = tuple(Stored(name, data) for name, data in stored if data is not None)
    census = step(Census(looked, seed), "census", images.wide)
    sets = NoisySets(images, few, rows, held, unharmed, census, known, seed, masked=True)
    ask = Ask(whole=bool(clean), masks=4 if guidance else 1, guidance=guidance, seed=seed)
    objective = Masking(further=further)
    asked = TrainMasked(rows, by, known, few, None, objective, ask, backbone, fit, seed, apart)
    least = 0.0 if clean else objective.least(known or 0.0)
    models = {"ambient": (step(asked, "model", scale, (census,)), least)}
    if few is not None:
        models["clean only"] = step(Train(few, clean_backbone, clean_fit, seed), "clean_only", scale, (census,)), 0.0
    if ceiling:
        models["all clean"] = step(Train(sets.originals, backbone, fit, seed), "ceiling", scale), 0.0
    title, against = "Diffusion from masked images", "clean only" if clean else None
    own = f"{ask.masks} masks of its own" if guidance else "a mask of its own"
    seen = f"ambient never saw a whole image: it looks at these, too, through {own}, and errs where that hides them."
    notes = () if clean else (seen,)
    return sets.report(title, models, {}, against, samples, sampler, judging, scale, notes=notes)
