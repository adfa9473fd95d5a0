"""gsure: a denoiser of clean images from damaged ones alone, in one training, by an unbiased estimate of its error.

Kawar et al. ("GSURE-Based Diffusion Model Training with Corrupted Data", arXiv 2305.13128), with the coefficients that
make the estimate unbiased (pipeline/objectives/gsure.py derives them). docs/recipes/gsure.md says what is assumed.
"""

from __future__ import annotations

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.sample import Heun, Sampler
from pipeline.graph import Scale, Step, step
from pipeline.metrics.judging import Judging
from pipeline.objectives.gsure import Probe
from pipeline.physics.corruption import Corruption
from pipeline.physics.masks import PixelMask
from stages.fill import Fill
from stages.gsure import TrainGSURE
from stages.images import Images
from stages.seen import least_level, seen_sets
from stages.train import Fit, Train


def gsure(
    images: Images = Images(),
    corruption: Corruption = PixelMask(0.2, noise=0.1),
    measured: str = "",
    noise: float | None = None,
    count: int | None = None,
    test: int = 400,
    probe: Probe = Probe.BACKWARD,
    zero_filled: bool = True,
    ceiling: bool = False,
    samples: int = 256,
    seed: int = 0,
    scale: Scale = Scale(),
    judging: Judging = Judging(),
    sampler: Sampler = Heun(),
    backbone: Backbone = unet.Config(dropout=0.15),
    fit: Fit = Fit(images=96_000).decayed(0.3),
) -> Step:
    """Train a diffusion model from images that were all seen in part or with noise, by Stein's unbiased risk estimate.

    Args:
        images: the images; those that are not held out are seen through the corruption.
        corruption: what the images are seen through: masks, white noise, blur or Fourier lines.
        measured: where images are that arrived damaged, masks and noise beside them; then nothing more happens to them.
        noise: std of the noise of those, in images from -1 to 1, where they do not say; samples end there.
        count: how many of the damaged images to take; all if not given.
        test: how many clean images are held out, to measure with.
        probe: how the divergence is taken: backward, twice through the network, or difference, of two answers of it.
        zero_filled: also train on the rows as they are, zeros where nothing was seen, to compare with.
        ceiling: also train on the same images whole and clean, which shows how far there is to go.
        samples: how many images each model draws, to be judged.
        seed: of every random choice.
        scale: workers of each training step, and CPUs and GPUs of each worker.
        judging: in which features samples are judged, and how.
        sampler: how they are drawn; down to the noise of the rows and no further.
        backbone: the network.
        fit: how it is trained.
    """
    sets = seen_sets(images, corruption, measured, noise, count, test, seed)
    least = (noise or 0.0) if measured else least_level(corruption, images.shape)
    asked = TrainGSURE(sets.rows, backbone, fit, seed, probe, noise)
    models = {"gsure": (step(asked, "model", scale, (sets.census,)), least)}
    if zero_filled:
        filled = step(Fill(sets.rows, noise), "data/filled", images.wide)
        models["zero-filled"] = (step(Train(filled, backbone, fit, seed), "zero_filled", scale, (sets.census,)), 0.0)
    if ceiling:
        models["all clean"] = (step(Train(sets.originals, backbone, fit, seed), "ceiling", scale), 0.0)
    against = "zero-filled" if zero_filled else None
    return sets.report("Diffusion by GSURE", models, {}, against, samples, sampler, judging, scale)
