"""online: noisy images are denoised a part at a time while the model goes on learning from those that are.

Pretrained on a few clean images; then one training, the optimiser kept throughout, between whose parts the restored
images that are oldest are made anew by the averaged weights so far ("SFBD flow", Lu et al., arXiv 2506.02371: Online
SFBD). docs/recipes/online.md says at which rate that comes near the truth.
"""

from __future__ import annotations

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.sample import Heun, Sampler
from pipeline.graph import Scale, Step, step
from pipeline.metrics.judging import Judging
from stages.images import Images
from stages.noisy import Harm, noisy_sets
from stages.online import Online
from stages.online import online as refreshed
from stages.rounds import pretrain
from stages.train import Fit, Train


def online(
    images: Images = Images(),
    harm: Harm = Harm(),
    online: Online = Online(),
    ceiling: bool = False,
    samples: int = 256,
    seed: int = 0,
    scale: Scale = Scale(),
    judging: Judging = Judging(),
    sampler: Sampler = Heun(),
    backbone: Backbone = unet.Config(dropout=0.25),
    fit: Fit = Fit(images=192_000).decayed(0.3),
    clean_fit: Fit = Fit(images=51_200).decayed(0.3),
) -> Step:
    """Train a diffusion model from a few clean and many noisy images, denoising some of them anew again and again.

    Args:
        images: the images.
        harm: which of them are noisy.
        online: how often restored images are made anew, how many of them, and what is learned from them.
        ceiling: also train on the same images without noise, which shows how far there is to go.
        samples: how many images each model draws, to be judged.
        seed: of every random choice.
        scale: workers of each training and denoising step, and CPUs and GPUs of each worker.
        judging: in which features samples are judged, and how.
        sampler: how they are drawn.
        backbone: the network.
        fit: how it is trained after pretraining, over all parts.
        clean_fit: how it is pretrained on the clean images.
    """
    sets = noisy_sets(images, harm, seed)
    first = pretrain(sets, backbone, clean_fit, scale)
    done = refreshed(sets, first, online, backbone, fit, scale)
    models = {"online": (done.model, 0.0), "clean only": (first, 0.0)}
    if ceiling:
        models["all clean"] = (step(Train(sets.originals, backbone, fit, seed), "ceiling", scale), 0.0)
    shown = {"restored first": done.restored[0], "restored last": done.restored[-1]}
    return sets.report(
        "Diffusion by online deconvolution", models, shown, "clean only", samples, sampler, judging, scale
    )
