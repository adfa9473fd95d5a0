"""omni: images damaged in ways nobody knows teach at the noise levels at which they cannot be told from clean ones.

A network learns to tell damaged from clean images under noise; each damaged image gets the least noise under which it
fails, and teaches above it (Ambient Diffusion Omni). Good for damage of fine detail (blur, JPEG, low resolution), weak
for what is wrong at large scale (masks, colour, fog), which takes much noise to hide.
"""

from __future__ import annotations

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.sample import Heun, Sampler
from pipeline.graph import Scale, Step, step
from pipeline.metrics.judging import Judging
from pipeline.physics.blur import GaussianBlur
from pipeline.physics.corruption import Clean, Corruption, Through
from stages.ambient import Learned, TrainAmbient
from stages.annotate import Annotate
from stages.census import Census
from stages.corrupt import Corrupt, Part
from stages.images import Images
from stages.noisy import NoisySets
from stages.sets import Stored
from stages.telltale import TrainTelltale
from stages.train import Fit, Share, Train


def omni(
    images: Images = Images(),
    corruption: Corruption | None = None,
    damaged: str = "",
    clean: int = 180,
    count: int = 1200,
    test: int = 400,
    margin: float = 0.05,
    ceiling: bool = False,
    samples: int = 256,
    seed: int = 0,
    scale: Scale = Scale(),
    judging: Judging = Judging(),
    sampler: Sampler = Heun(),
    backbone: Backbone = unet.Config(dropout=0.25),
    clean_backbone: Backbone = unet.Config(dropout=0.6),
    telltale_backbone: Backbone = unet.Config(dropout=0.4),
    fit: Fit = Fit(images=192_000).decayed(0.3),
    clean_fit: Fit = Fit(images=51_200).decayed(0.3),
    telltale_fit: Fit = Fit(images=32_000).decayed(0.3),
) -> Step:
    """Train a diffusion model from clean images and from images that are damaged in ways unknown.

    Args:
        images: clean ones; of those left after `clean` and `test`, `count` are damaged where `damaged` names no others.
        corruption: what damages them, of which the method is told nothing; blur of 0.8 pixels if not given.
        damaged: where images are that arrived damaged.
        clean: how many images are seen clean.
        count: how many damaged ones.
        test: how many clean images are held out, to measure with.
        margin: an image counts as told where its probability to be damaged is above ½ + this.
        ceiling: also train on the same images undamaged, which shows how far there is to go.
        samples: how many images each model draws, to be judged.
        seed: of every random choice.
        scale: workers of each training step, and CPUs and GPUs of each worker.
        judging: in which features samples are judged, and how.
        sampler: how they are drawn.
        backbone: the network.
        clean_backbone: network of the model of the clean images alone, to compare with.
        telltale_backbone: what tells damaged from clean images.
        fit: how the network is trained.
        clean_fit: how the model of the clean images alone is trained; longer, it overfits.
        telltale_fit: how what tells them apart is trained.
    """
    if clean < 2 or count < 4 or test < 2:
        raise ValueError(f"clean is {clean}, count {count}, test {test}: give at least 2, 4 and 2 images")
    if damaged and (ceiling or corruption is not None):
        raise ValueError("these images arrived damaged: leave out corruption and ceiling, which need them whole")
    harm = Through(GaussianBlur(images.shape, 0.8)) if corruption is None else corruption
    if harm.hides(images.shape) or tuple(harm.out_shape(images.shape)) != images.shape:
        raise ValueError(f"{type(harm).__name__} hides or cuts, which no noise makes good: take em or ambient_masks")
    wide, full = images.wide, images.ingest("ingest")
    held = step(Corrupt(full, Part(0, test, seed), Clean(), seed), "data/test", wide)
    few = step(Corrupt(full, Part(test, clean, seed), Clean(), seed), "data/clean", wide)
    source, first = (images.of(damaged).ingest("ingest/damaged"), 0) if damaged else (full, test + clean)
    with_what = Clean() if damaged else harm
    half = count // 2
    parts = [Part(first, half, seed), Part(first + half, count - half, seed)]
    halves = [step(Corrupt(source, p, with_what, seed), f"data/damaged/{n}", wide) for n, p in enumerate(parts)]
    stored = [Stored("clean", few), Stored("test", held), *(Stored(f"damaged {n}", h) for n, h in enumerate(halves))]
    census = step(Census(tuple(stored), seed), "census", wide)
    rows = [Learned(few)]
    for n, other in enumerate(reversed(halves)):  # nobody judges what it learned from, and has by heart
        asked = TrainTelltale(few, other, telltale_backbone, telltale_fit, seed)
        telltale = step(asked, f"telltale/{n}", scale, (census,))
        rows.append(
            Learned(step(Annotate(telltale, halves[n], margin=margin, seed=seed), f"data/annotated/{n}", wide), None)
        )
    models = {"omni": (step(TrainAmbient(tuple(rows), backbone, fit, seed), "model", scale), 0.0)}
    models["clean only"] = step(Train(few, clean_backbone, clean_fit, seed), "clean_only", scale, (census,)), 0.0
    taken = Train(few, backbone, fit, seed, tuple(Share(h, half) for h in halves), clean)
    models["damage ignored"] = step(taken, "ignored", scale, (census,)), 0.0
    every = step(Corrupt(full, Part(test, clean + count, seed), Clean(), seed), "data/unharmed", wide)
    if ceiling:
        models["all clean"] = step(Train(every, backbone, fit, seed), "ceiling", scale), 0.0
    sets = NoisySets(images, few, halves[0], held, None if damaged else every, census, None, seed)
    shown = {"damaged": halves[0], "annotated": rows[1].data}
    return sets.report("Diffusion from unknown damage", models, shown, "clean only", samples, sampler, judging, scale)
