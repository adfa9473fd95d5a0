"""em: nobody has seen an image whole; a model draws what they may have been, learns from that, and draws again.

Monte-Carlo expectation maximisation (Rozet et al. 2024, "Learning diffusion priors from observations by expectation
maximization", arXiv 2405.13712): a Gaussian is fitted to the rows exactly, then every lap draws each row's image from
what the model believes given the row (moment matching) and trains the model on the draws.
docs/recipes/em.md says what is assumed.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.conditioning import Conditioning, MomentMatching
from pipeline.diffusion.sample import Heun, Sampler
from pipeline.graph import Scale, Step, step
from pipeline.metrics.judging import Judging
from pipeline.physics.corruption import Corruption
from pipeline.physics.masks import PixelMask
from stages.ambient import Learned, TrainAmbient
from stages.fill import Fill
from stages.gaussian import FitGaussian
from stages.images import Images
from stages.restore import Restore
from stages.seen import seen_sets
from stages.train import Fit, Train


def em(
    images: Images = Images(),
    corruption: Corruption = PixelMask(0.5, noise=0.1),
    measured: str = "",
    noise: float | None = None,
    count: int | None = None,
    test: int = 400,
    laps: int = 3,
    draws: int = 1,
    rank: int | None = None,
    zero_filled: bool = True,
    ceiling: bool = False,
    samples: int = 256,
    seed: int = 0,
    scale: Scale = Scale(),
    judging: Judging = Judging(),
    by: Conditioning = MomentMatching(),
    restorer: Sampler = Heun(steps=14, sigma_min=0.02, sigma_max=20.0),
    sampler: Sampler = Heun(),
    backbone: Backbone = unet.Config(dropout=0.15),
    fit: Fit = Fit(images=96_000).decayed(0.3),
) -> Step:
    """Train a diffusion model from images that were all seen in part or with noise, by expectation maximisation.

    Args:
        images: the images; those that are not held out are seen through the corruption.
        corruption: what the images are seen through, drawn for each.
        measured: where images are that arrived damaged, masks and noise beside them; then nothing more happens to them.
        noise: std of the noise of those, in images from -1 to 1, where they do not say.
        count: how many of the damaged images to take; all if not given.
        test: how many clean images are held out, to measure with.
        laps: how often images are drawn and learned from.
        draws: images drawn of a row in a lap.
        rank: of the Gaussian's covariance, for large images; whole if not given.
        zero_filled: also train on the rows as they are, zeros where nothing was seen, to compare with.
        ceiling: also train on the same images whole and clean, which shows how far there is to go.
        samples: how many images each model draws, to be judged.
        seed: of every random choice.
        scale: workers of each training step, and CPUs and GPUs of each worker.
        judging: in which features samples are judged, and how.
        by: how a model hears what was measured.
        restorer: how rows' images are drawn.
        sampler: how samples are drawn.
        backbone: the network.
        fit: how it is trained in each lap.
    """
    if laps < 1:
        raise ValueError(f"laps is {laps}: give at least 1")
    sets = seen_sets(images, corruption, measured, noise, count, test, seed)
    wide, one = images.wide, replace(scale, workers=1)
    first = FitGaussian(sets.rows, rank, seed=seed, noise=noise)
    model = gaussian = step(first, "gaussian", one, (sets.census,))
    shown: dict[str, Step] = {}
    for lap in range(laps):
        asked = Restore(model, sets.rows, None, draws, restorer, seed + lap, by=by, noise=noise)
        restored = step(asked, f"data/restored/{lap}", wide)
        start = model if lap else None  # a Gaussian has no network to go on with
        learned = TrainAmbient((Learned(restored),), backbone, fit, seed + lap, start)
        model = step(learned, f"lap/{lap}", scale)
        shown[f"restored, lap {lap}"] = restored
    models = {"em": (model, 0.0), "gaussian": (gaussian, 0.0)}
    if zero_filled:
        filled = step(Fill(sets.rows, noise), "data/filled", wide)
        models["zero-filled"] = (step(Train(filled, backbone, fit, seed), "zero_filled", scale, (sets.census,)), 0.0)
    if ceiling:
        models["all clean"] = (step(Train(sets.originals, backbone, fit, seed), "ceiling", scale), 0.0)
    against = "zero-filled" if zero_filled else "gaussian"
    return sets.report(
        "Diffusion by expectation maximisation", models, shown, against, samples, sampler, judging, scale
    )
