"""ambient_linear: a denoiser of whole images from linear measurements of each, in one training.

In every step some of the numbers that were measured are left out as well and asked for, which teaches the network what
is never measured (Ambient Diffusion). pipeline/objectives/measuring.py has the mathematics.
"""

from __future__ import annotations

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.sample import Heun, Sampler
from pipeline.graph import Scale, Step, step
from pipeline.metrics.judging import Judging
from pipeline.objectives.measuring import Measuring
from pipeline.physics.corruption import Corruption
from pipeline.physics.hadamard import Hadamard
from stages.images import Images
from stages.linear import TrainLinear
from stages.seen import seen_sets
from stages.train import Fit, Train


def ambient_linear(
    images: Images = Images(),
    corruption: Corruption = Hadamard(32),
    apart: bool = False,
    count: int | None = None,
    test: int = 400,
    share: float = 0.1,
    ceiling: bool = False,
    samples: int = 256,
    seed: int = 0,
    scale: Scale = Scale(),
    judging: Judging = Judging(),
    sampler: Sampler = Heun(),
    backbone: Backbone = unet.Config(dropout=0.25),
    fit: Fit = Fit(images=192_000).decayed(0.3),
) -> Step:
    """Train a diffusion model from linear measurements of images that nobody saw, each by a map of its own.

    Args:
        images: the images; those that are not held out are measured.
        corruption: how they are measured, such as {is: pipeline.physics.ghost.Ghost, count: 32}; with noise only where
            the map leaves it white.
        apart: whether to learn although some directions are shown by no row together with others.
        count: how many of the measured images to take; all if not given.
        test: how many clean images are held out, to compare with.
        share: of the numbers that were measured, that are left out in training besides.
        ceiling: also train on the same images whole and clean, which shows how far there is to go.
        samples: how many images each model draws, to be judged.
        seed: of every random choice.
        scale: workers of each training step, and CPUs and GPUs of each worker.
        judging: in which features samples are judged, and how.
        sampler: how they are drawn.
        backbone: the network.
        fit: how it is trained.
    """
    sets = seen_sets(images, corruption, "", None, count, test, seed)
    objective = Measuring(share=share)
    asked = TrainLinear(sets.rows, None, objective, backbone, fit, seed, apart)
    least = objective.least(corruption.noise)
    models = {"ambient": (step(asked, "model", scale, (sets.census,)), least)}
    if ceiling:
        models["all clean"] = (step(Train(sets.originals, backbone, fit, seed), "ceiling", scale), 0.0)
    notes = (
        "ambient never saw a whole image: it looks at these, too, through measurements of its own, and errs where "
        "those show nothing.",
    )
    title = "Diffusion from linear measurements"
    return sets.report(title, models, {}, None, samples, sampler, judging, scale, notes=notes)
