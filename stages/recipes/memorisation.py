"""memorisation: does a model give its training images back, and does one that saw them only noisy do so less?

Two models of the same images, one of them as they are, one of them noisy, in equally many images seen. Looked for are
copies among their samples and among reconstructions: training images under so much noise that nothing but memory could
bring them back ("Consistent Diffusion Meets Tweedie", Daras, Dimakis and Daskalakis, arXiv 2404.10177, section 5).
"""

from __future__ import annotations

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.sample import Heun, Sampler
from pipeline.graph import Scale, Step, step
from pipeline.keys import Key
from pipeline.metrics.judging import Judging
from pipeline.physics.corruption import Noisy
from stages.ambient import Learned, TrainAmbient
from stages.corrupt import Corrupt
from stages.denoise import Denoise
from stages.ending import ending
from stages.images import Images
from stages.noisy import Harm, noisy_sets
from stages.train import Fit


def memorisation(
    images: Images = Images(),
    harm: Harm = Harm(clean=0, count=100),
    attack: float = 5.0,
    samples: int = 512,
    seed: int = 0,
    scale: Scale = Scale(),
    judging: Judging = Judging(),
    sampler: Sampler = Heun(),
    backbone: Backbone = unet.Config(dropout=0.0),
    fit: Fit = Fit(images=192_000),
) -> Step:
    """Compare how much a model of clean images and one of the same images, noisy, give of them back.

    Args:
        images: the images.
        harm: how many are learned from, and how noisy the second model sees them.
        attack: σ of the noise from which training images are reconstructed.
        samples: how many images each model draws, to be judged.
        seed: of every random choice.
        scale: workers of each training and denoising step, and CPUs and GPUs of each worker.
        judging: in which features copies are looked for, and how.
        sampler: how samples and reconstructions are drawn.
        backbone: the network of both.
        fit: how both are trained.
    """
    if harm.level is None or attack <= harm.level or attack > sampler.sigma_max:
        raise ValueError(f"attack is {attack}, noise {harm.level}: give more than that, up to sampler.sigma_max")
    if harm.clean:
        raise ValueError(f"clean is {harm.clean}: give 0, as both models learn from the same images")
    sets = noisy_sets(images, harm, seed)
    rows = {"noisy": Learned(sets.noisy, sets.noise), "clean": Learned(sets.originals)}
    fresh = Key(seed).fold("attack").integer() >> 1  # the noise that the second model learned from must not be in it
    attacked = Corrupt(sets.originals, corruption=Noisy(noise=attack), seed=fresh)
    hidden = step(attacked, "data/attacked", images.wide)
    models, rebuilt = {}, {}
    for name, learned in rows.items():
        asked = TrainAmbient((learned,), backbone, fit, seed)
        least = asked.objective.least(learned.noise or 0.0)
        model = step(asked, name, scale, (sets.census,))
        path = ending(sampler, least)
        models[name] = model, least
        rebuilt[f"{name}, from noise"] = step(Denoise(model, hidden, attack, path, seed), f"rebuilt/{name}", scale)
    shown, aside = {"clean": sets.originals}, {f"learned images, noise of σ = {attack:g} added": hidden} | rebuilt
    among = sets.originals
    return sets.report(
        "Memorisation", models, shown, "clean", samples, sampler, judging, scale, among, rebuilt, aside, copies=True
    )
