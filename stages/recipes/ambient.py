"""ambient: a denoiser of clean images from noisy ones and perhaps a few clean ones, in one training.

Above their own noise the noisy images teach as well as clean ones would, by double Tweedie; below it only clean images
do, and with none of those sampling ends there. pipeline/objectives/ambient.py has the mathematics.
"""

from __future__ import annotations

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.sample import Heun, Sampler
from pipeline.graph import Scale, Step, step
from pipeline.metrics.judging import Judging
from pipeline.objectives.ambient import Ambient, Weighting
from pipeline.objectives.consistency import Consistent
from stages.ambient import Learned, TrainAmbient
from stages.images import Images
from stages.noisy import Harm, careful, noisy_sets
from stages.train import Fit, Train


def ambient(
    images: Images = Images(),
    harm: Harm = Harm(),
    weighting: Weighting = Weighting.FULL,
    cap: float = 4.0,
    consistency: float = 0.0,
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
    """Train one diffusion model from noisy images and, if there are any, clean ones.

    Args:
        images: the images.
        harm: which of them are noisy.
        weighting: whether noise levels near that of a row count fully or fade out.
        cap: how near, with full weight: noise levels at which noise² makes up less than 1 − 1/cap of σ².
        consistency: weight of consistency along the reverse diffusion, which teaches below the noise of all rows where
            no clean image does; 0: nothing does, and samples of noisy images alone end at their noise.
        ceiling: also train on the same images without noise, which shows how far there is to go.
        samples: how many images each model draws, to be judged.
        seed: of every random choice.
        scale: workers of each training step, and CPUs and GPUs of each worker.
        judging: in which features samples are judged, and how.
        sampler: how they are drawn.
        backbone: the network; where clean images alone teach, below the noise and without consistency, it has the
            dropout of clean_backbone.
        clean_backbone: network of the model of the clean images alone, to compare with.
        fit: how it is trained.
        clean_fit: how the model of the clean images alone is trained; longer, it overfits.
    """
    sets = noisy_sets(images, harm, seed)
    rows = (Learned(sets.noisy, sets.noise), *((Learned(sets.clean),) if sets.clean else ()))
    plain = Ambient(weighting=weighting, cap=cap)
    learns = Consistent(weighting=weighting, cap=cap, weight=consistency) if consistency else plain
    network = backbone if consistency else careful(sets, backbone, clean_backbone, plain)
    asked = TrainAmbient(rows, network, fit, seed, objective=learns)
    least = 0.0 if sets.clean or consistency else plain.least(sets.level)
    models = {"ambient": (step(asked, "model", scale, (sets.census,)), least)}
    if sets.clean is not None:
        alone = Train(sets.clean, clean_backbone, clean_fit, seed)
        models["clean only"] = (step(alone, "clean_only", scale, (sets.census,)), 0.0)
    if ceiling:
        models["all clean"] = (step(Train(sets.originals, backbone, fit, seed), "ceiling", scale), 0.0)
    against = "clean only" if sets.clean else None
    return sets.report("Diffusion from noisy images", models, {}, against, samples, sampler, judging, scale)
