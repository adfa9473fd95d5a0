"""sfbd: noisy images are denoised by the model so far, the model learns from the outcome, and so on for some rounds.

Pretrained on a few clean images; then every round restores the noisy ones along the probability flow from their own
noise to none and fine-tunes on what comes out and on the clean images ("Stochastic Forward-Backward Deconvolution", Lu
et al., arXiv 2502.05446). docs/recipes/sfbd.md says at which rate that comes near the truth, and what the options add.
"""

from __future__ import annotations

from enum import Enum

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.sample import Heun, Sampler
from pipeline.graph import Scale, Step, step
from pipeline.metrics.judging import Judging
from stages.bootstrap import Bootstrap
from stages.images import Images
from stages.noisy import Harm, noisy_sets
from stages.rounds import Rounds, deconvolve, fitted, pretrain
from stages.train import Fit, Train
from stages.views import default_views


class Begin(Enum):
    """What restores in the first round."""

    CLEAN = "clean"  # a model of the clean images
    GAUSSIAN = "gaussian"  # the mean and covariance of the noisy images, less their noise


def sfbd(
    images: Images = Images(),
    harm: Harm = Harm(),
    rounds: Rounds = Rounds(),
    begin: Begin = Begin.CLEAN,
    views: int = 0,
    bootstrap: Bootstrap = Bootstrap(),
    ceiling: bool = False,
    samples: int = 256,
    seed: int = 0,
    scale: Scale = Scale(),
    judging: Judging = Judging(),
    sampler: Sampler = Heun(),
    backbone: Backbone = unet.Config(dropout=0.25),
    fit: Fit = Fit(images=64_000).decayed(0.3),
    clean_fit: Fit = Fit(images=51_200).decayed(0.3),
) -> Step:
    """Train a diffusion model from a few clean and many noisy images, by rounds of denoising and fine-tuning.

    Args:
        images: the images.
        harm: which of them are noisy.
        rounds: what a round is, and how many there are.
        begin: whether a model of the clean images restores in the first round, or a Gaussian fitted to the noisy ones,
            which needs none that is clean (with --rounds.stochastic it is the recipe em's way, for noise alone).
        views: further clean images of which a part is known, as many for each of two crops and a pooled view, of which
            a bootstrapped model is made that restores in the first round; 0: the clean ones' own model does.
        bootstrap: how that is made.
        ceiling: also train on the same images without noise, which shows how far there is to go.
        samples: how many images each model draws, to be judged.
        seed: of every random choice.
        scale: workers of each training and denoising step, and CPUs and GPUs of each worker.
        judging: in which features samples are judged, and how.
        sampler: how they are drawn.
        backbone: the network.
        fit: how it is trained in each round.
        clean_fit: how it is pretrained on the clean images.
    """
    if views < 0:
        raise ValueError(f"views is {views}: give a number of images from 0")
    if begin is Begin.GAUSSIAN and views:
        raise ValueError("views and begin gaussian are two ways to begin: give one of them")
    sets = noisy_sets(images, harm, seed, views * len(default_views(images.shape)) if views else 0)
    alone = pretrain(sets, backbone, clean_fit, scale) if harm.clean else None
    models = {} if alone is None else {"clean only": (alone, 0.0)}
    if begin is Begin.GAUSSIAN:
        first = fitted(sets, scale)
        models = {"gaussian": (first, 0.0)} | models
    elif views:
        first = bootstrap.model(images, harm.test, harm.clean, views, seed, scale, sets.census)
        models = {"bootstrapped": (first, 0.0)} | models
    elif alone is not None:
        first = alone
    else:
        raise ValueError("clean is 0 and this needs clean images to begin with: give some, or add --begin gaussian")
    done = deconvolve(sets, first, rounds, backbone, fit, scale, weights=alone)
    models = {"sfbd": (done.model, 0.0)} | models
    if ceiling:
        models["all clean"] = (step(Train(sets.originals, backbone, fit, seed), "ceiling", scale), 0.0)
    shown = {"restored first": done.restored[0]}  # of later rounds there may be none: they end when it is over
    against = "clean only" if harm.clean else "gaussian"
    return sets.report("Diffusion by deconvolution", models, shown, against, samples, sampler, judging, scale)
