"""halved: would more images help? A model of half of them beside one of all, trained for equally many images seen."""

from __future__ import annotations

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.graph import Scale, Step, step
from pipeline.metrics.judging import Judging
from pipeline.physics.corruption import Clean
from stages.compare import Compare, Contestant, Shown
from stages.corrupt import Corrupt, Part
from stages.evaluate import Evaluate
from stages.images import Images
from stages.judge import Drawn, Judge
from stages.sample import Sample
from stages.train import Fit, Train


def halved(
    images: Images = Images(),
    count: int = 1200,
    test: int = 400,
    samples: int = 256,
    seed: int = 0,
    scale: Scale = Scale(),
    judging: Judging = Judging(),
    backbone: Backbone = unet.Config(dropout=0.15),
    fit: Fit = Fit(images=96_000).decayed(0.3),
) -> Step:
    """Train on half of the images and on all of them, and compare what comes out on images that neither has seen.

    Args:
        images: the images.
        count: how many are all of them.
        test: how many are held out, to measure with.
        samples: how many images each model draws, to be judged.
        seed: of every random choice.
        scale: workers of each training step, and CPUs and GPUs of each worker.
        judging: in which features samples are judged, and how.
        backbone: the network of both.
        fit: how both are trained.
    """
    if count < 4:
        raise ValueError(f"count is {count}: give at least 4 images, of which half are 2")
    full = images.ingest("ingest")
    held = step(Corrupt(full, Part(0, test, seed), Clean(), seed), "data/test", images.wide)
    parts = {"all": Part(test, count, seed), "half": Part(test, count // 2, seed)}
    rows = {name: step(Corrupt(full, part, Clean(), seed), f"data/{name}", images.wide) for name, part in parts.items()}
    contestants = []
    for name, data in rows.items():
        model = step(Train(data, backbone, fit, seed), f"model/{name}", scale)
        drawn = step(Sample(model, samples, seed=seed), f"samples/{name}")
        contestants.append(Contestant(name, step(Evaluate(model, held), f"evaluate/{name}"), drawn))
    drawn_by = tuple(Drawn(c.name, c.samples) for c in contestants)
    judged = step(Judge(drawn_by, held, rows["all"], judging), "judge", images.wide)
    shown = (Shown("all", rows["all"]), Shown("test", held))
    return step(Compare("Would more images help?", tuple(contestants), shown, "half", judgement=judged), "report")
