"""bridge: images damaged by a black box that can be simulated become clean ones, draw by draw, round by round.

A model learns which images could have become a damaged one, from images that are damaged here; the real damaged images
are undone with it; what comes out, with the clean images, is what the next round damages (SFBD-OMNI). The alternation
goes towards the law of clean images that explains the damaged ones, as far as the damage leaves that to be known.
"""

from __future__ import annotations

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.sample import Heun, Sampler
from pipeline.graph import Scale, Step, step
from pipeline.metrics.judging import Judging
from pipeline.physics.blackbox import BlackBox, Jpeg
from pipeline.physics.corruption import Clean, Corruption
from stages.bridge import TrainBridge
from stages.census import Census
from stages.corrupt import Corrupt, Part
from stages.images import Images
from stages.noisy import NoisySets
from stages.sets import Stored
from stages.train import Fit, Share, Train
from stages.undo import Undo


def bridge(
    images: Images = Images(),
    corruption: Corruption = BlackBox(Jpeg(10), noise=0.1),
    damaged: str = "",
    clean: int = 180,
    count: int = 1200,
    test: int = 400,
    rounds: int = 3,
    share: float = 0.2,
    ceiling: bool = False,
    samples: int = 256,
    seed: int = 0,
    scale: Scale = Scale(),
    judging: Judging = Judging(),
    sampler: Sampler = Heun(),
    backbone: Backbone = unet.Config(dropout=0.25),
    clean_backbone: Backbone = unet.Config(dropout=0.6),
    bridge_backbone: Backbone = unet.Config(dropout=0.25),
    fit: Fit = Fit(images=192_000).decayed(0.3),
    clean_fit: Fit = Fit(images=51_200).decayed(0.3),
    bridge_fit: Fit = Fit(images=64_000).decayed(0.3),
) -> Step:
    """Train a diffusion model from clean images and from images damaged by what can be simulated, if not inverted.

    Args:
        images: clean ones; of those left after `clean` and `test`, `count` are damaged where `damaged` names no others.
        corruption: what damages them: any, also black boxes; it is only ever applied.
        damaged: where images are that arrived damaged, by such a corruption.
        clean: how many images are seen clean.
        count: how many damaged ones.
        test: how many clean images are held out, to measure with.
        rounds: how often the damaged images are undone.
        share: of the clean images in what is learned from, besides those that were undone.
        ceiling: also train on the same images undamaged, which shows how far there is to go.
        samples: how many images each model draws, to be judged.
        seed: of every random choice.
        scale: workers of each training step, and CPUs and GPUs of each worker.
        judging: in which features samples are judged, and how.
        sampler: how they are drawn, and how images are undone.
        backbone: the network.
        clean_backbone: network of the model of the clean images alone, to compare with.
        bridge_backbone: the network that is shown damaged images.
        fit: how the network is trained.
        clean_fit: how the model of the clean images alone is trained; longer, it overfits.
        bridge_fit: how a round's bridge is trained.
    """
    if clean < 2 or count < 2 or test < 2 or rounds < 1:
        raise ValueError(f"clean is {clean}, count {count}, test {test}, rounds {rounds}: give at least 2, 2, 2 and 1")
    if not 0 < share < 1:
        raise ValueError(f"share is {share}: give the clean images' share, within (0, 1)")
    if damaged and ceiling:
        raise ValueError("these images arrived damaged and nobody knows them otherwise: leave out ceiling")
    wide, full = images.wide, images.ingest("ingest")
    held = step(Corrupt(full, Part(0, test, seed), Clean(), seed), "data/test", wide)
    few = step(Corrupt(full, Part(test, clean, seed), Clean(), seed), "data/clean", wide)
    if damaged:
        arrived = images.of(damaged).ingest("ingest/damaged")
        many = step(Corrupt(arrived, Part(0, count, seed), Clean(), seed), "data/damaged", wide)
    else:
        many = step(Corrupt(full, Part(test + clean, count, seed), corruption, seed), "data/damaged", wide)
    stored = (Stored("clean", few), Stored("test", held), Stored("damaged", many))
    census = step(Census(stored, seed), "census", wide)
    before: Step | None = None
    rows: tuple[Share, ...] = (Share(few),)
    undone: list[Step] = []
    for k in range(1, rounds + 1):
        asked = TrainBridge(rows, corruption, bridge_backbone, bridge_fit, seed + k, before)
        before = step(asked, f"round/{k}/bridge", scale, (census,))
        undone.append(step(Undo(before, many, sampler, seed + k), f"round/{k}/undone", scale))
        rows = (Share(few, share), Share(undone[-1], 1 - share))
    ours = Train(few, backbone, fit, seed, (Share(undone[-1], 1 - share),), share)
    models = {"bridge": (step(ours, "model", scale), 0.0)}
    models["clean only"] = step(Train(few, clean_backbone, clean_fit, seed), "clean_only", scale, (census,)), 0.0
    if tuple(corruption.out_shape(images.shape)) == images.shape:
        taken = Train(few, backbone, fit, seed, (Share(many, count),), clean)
        models["damage ignored"] = step(taken, "ignored", scale, (census,)), 0.0
    every = step(Corrupt(full, Part(test, clean + count, seed), Clean(), seed), "data/unharmed", wide)
    if ceiling:
        models["all clean"] = step(Train(every, backbone, fit, seed), "ceiling", scale), 0.0
    sets = NoisySets(images, few, many, held, None if damaged else every, census, None, seed)
    shown = {f"undone in round {k}": data for k, data in enumerate(undone, 1)}
    return sets.report(
        "Diffusion from what a black box left", models, shown, "clean only", samples, sampler, judging, scale
    )
