"""compare: methods for noisy images side by side, at equal clean images and equal images seen, over several seeds.

Every method gets the same split of a seed, the same network and the same number of images in training, and is measured
on the same held-out images with the same noise. To be run before a method is believed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from enum import Enum

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.config import nearest
from pipeline.diffusion.sample import Heun, Sampler
from pipeline.graph import Scale, Step, step
from pipeline.metrics.judging import Judging
from pipeline.objectives.ambient import Ambient, Weighting
from pipeline.objectives.consistency import Consistent
from stages.ambient import Learned, TrainAmbient
from stages.ending import ending
from stages.evaluate import Evaluate
from stages.extractors import extractor
from stages.images import Images
from stages.judge import Drawn, Judge
from stages.noisy import Harm, NoisySets, careful, noisy_sets
from stages.online import Online, online
from stages.rounds import Rounds, deconvolve, fitted, images_seen, pretrain
from stages.sample import Sample
from stages.train import Fit
from stages.versus import Trial, Versus


class Method(Enum):
    """What is compared; `docs/recipes/` says more of each."""

    EARLY = "clean_early"  # the clean images alone, stopped early: what rounds start from
    CLEAN = "clean_only"
    TRUNCATED = "truncated"  # the noisy images alone, down to their noise
    AMBIENT = "ambient"  # both, as published: the weight fades out towards the noise
    OMNI = "omni"  # both, at full weight
    CONSISTENT = "consistent"  # both, and consistency along the reverse diffusion below the noise
    SFBD = "sfbd"  # rounds as published
    ONLINE = "online"  # one training, a part of the restored images made anew now and then
    DATALOOPS = (
        "dataloops"  # rounds whose restored images are taken to hold an eighth of the noise; they go on, not anew
    )
    OMNI_SFBD = "omni_sfbd"  # restored images below the noise, noisy ones above
    MIXED = "mixed"  # restored images everywhere, noisy ones well above their noise
    EM = "em"  # rounds that begin with a Gaussian and draw from the posterior: no clean image is needed
    EM_OMNI = "em_omni"  # the same below the noise, noisy images above
    ALL = "all_clean"  # all the same images, unharmed: the ceiling


ROUNDS = {
    Method.SFBD: {},
    Method.DATALOOPS: {"residual": 0.125, "cap": 4.0},
    Method.OMNI_SFBD: {"direct": True, "only_below": True, "cap": 4.0},
    Method.MIXED: {"direct": True},
}
LAPS = {Method.EM: {}, Method.EM_OMNI: {"direct": True, "only_below": True, "cap": 4.0}}
DEFAULT = "clean_early,clean_only,truncated,ambient,omni,sfbd,online,omni_sfbd,mixed,all_clean"
NONE_CLEAN = "truncated,consistent,em,em_omni,all_clean"  # what does without


def compare(
    images: Images = Images(),
    harm: Harm = Harm(),
    methods: str | None = None,
    seeds: int = 3,
    rounds: int = 3,
    early: float = 0.25,
    samples: int = 256,
    seed: int = 0,
    scale: Scale = Scale(),
    judging: Judging = Judging(),
    sampler: Sampler = Heun(),
    backbone: Backbone = unet.Config(dropout=0.25),
    clean_backbone: Backbone = unet.Config(dropout=0.6),
    fit: Fit = Fit(images=192_000).decayed(0.3),
) -> Step:
    """Compare methods that learn from noisy and a few clean images, over several seeds.

    Args:
        images: the images.
        harm: which of them are noisy.
        methods: which methods, separated by commas; if not given, ten that need a few clean images, or with --clean 0
            the five that need none.
        seeds: how many seeds, each with a split of its own.
        rounds: of the methods that have rounds.
        early: the share of the images seen that pretraining on clean images has, in methods with rounds and alone.
        samples: how many images each model draws, to be judged.
        seed: the first one.
        scale: workers of each training and denoising step, and CPUs and GPUs of each worker.
        judging: in which features samples are judged, and how.
        sampler: how they are drawn.
        backbone: the network of all methods but those of clean images alone.
        clean_backbone: the network of those, whose dropout ambient and omni have as well at levels where the clean
            images alone teach.
        fit: how it is trained; `fit.images` is what each method sees in all, over all rounds.
    """
    chosen = wanted((DEFAULT if harm.clean else NONE_CLEAN) if methods is None else methods)
    if {*chosen} & {*ROUNDS, Method.ONLINE} and not alike(backbone, clean_backbone):
        raise ValueError("rounds go on from a model of clean images: give both backbones alike, but for dropout")
    if seeds < 1 or rounds < 1 or not 0 < early < 1:
        raise ValueError(f"seeds is {seeds}, rounds {rounds}, early {early}: give at least 1 of each, early in (0, 1)")
    first = replace(fit, images=max(fit.batch, round(early * fit.images)))
    each = replace(fit, images=max(fit.batch, (fit.images - first.images) // rounds))
    one, trials, looked = replace(scale, workers=1), [], []
    for n in range(seed, seed + seeds):
        sets = noisy_sets(images, harm, n)
        at = f"seed {n}"
        looked.append(sets.census)
        begun: list[Step] = []

        def start(sets: NoisySets = sets, at: str = at, begun: list[Step] = begun) -> Step:
            if not begun:
                begun.append(pretrain(sets, clean_backbone, first, scale, f"{at}/pretrained"))
            return begun[0]

        made: dict[Method, tuple[Step, float]] = {}
        for method in chosen:
            label = f"{at}/{method.value}"
            if method is Method.EARLY:
                made[method] = start(), 0.0
            elif method in ROUNDS:
                how = Rounds(most=rounds, stop=False, **ROUNDS[method])
                made[method] = deconvolve(sets, start(), how, backbone, each, scale, label).model, 0.0
            elif method in LAPS:
                how = Rounds(most=rounds, stop=False, stochastic=True, **LAPS[method])
                gaussian = fitted(sets, scale, f"{at}/gaussian")
                lap = replace(fit, images=max(fit.batch, fit.images // rounds))
                made[method] = deconvolve(sets, gaussian, how, backbone, lap, scale, label).model, 0.0
            elif method is Method.ONLINE:
                how, rest = Online(refreshes=4 * rounds), replace(fit, images=rounds * each.images)
                made[method] = online(sets, start(), how, backbone, rest, scale, label).model, 0.0
            else:
                asked, least = once(method, sets, backbone, clean_backbone, fit)
                made[method] = step(asked, label, scale, (sets.census,)), least
        trials += measured(made, sets, n, samples, sampler, judging, one)
    names = [method.value for method in chosen]
    against = tuple(name for name in ("clean_early", "clean_only") if name in names) or tuple(names[:1])
    ceiling = "all_clean" if "all_clean" in names and "all_clean" not in against else None
    return step(Versus("Methods for noisy images", tuple(trials), against, ceiling, tuple(looked)), "report")


def alike(backbone: Backbone, other: Backbone) -> bool:
    """Whether two networks have the same weights."""
    free = {field.name for field in dataclasses.fields(other)} & {"dropout", "dropout_below"}  # pyright: ignore[reportArgumentType]
    return replace(other, **{name: getattr(backbone, name, None) for name in free}) == backbone  # pyright: ignore[reportArgumentType]


def wanted(methods: str) -> list[Method]:
    """The methods of a list. Raises ValueError: one is unknown, or there is none."""
    known = {method.value: method for method in Method}
    names = [name.strip() for name in methods.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ValueError(f"there is no method '{name}'{nearest(name, known)}")
    if not names:
        raise ValueError(f"name methods, separated by commas: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def once(
    method: Method, sets: NoisySets, backbone: Backbone, clean_backbone: Backbone, fit: Fit
) -> tuple[TrainAmbient, float]:
    """A method that trains once, and the σ below which its model knows nothing."""
    noisy, clean = Learned(sets.noisy, sets.noise), () if sets.clean is None else (Learned(sets.clean),)
    match method:
        case Method.CLEAN:
            return TrainAmbient((Learned(sets.few),), clean_backbone, fit, sets.seed), 0.0
        case Method.ALL:
            return TrainAmbient((Learned(sets.originals),), backbone, fit, sets.seed), 0.0
        case Method.TRUNCATED:
            asked = TrainAmbient((noisy,), backbone, fit, sets.seed)
        case Method.CONSISTENT:
            return TrainAmbient((*clean, noisy), backbone, fit, sets.seed, objective=Consistent()), 0.0
        case _:
            how = Ambient(weighting=Weighting.FADING) if method is Method.AMBIENT else Ambient()
            network = careful(sets, backbone, clean_backbone, how)
            asked = TrainAmbient((*clean, noisy), network, fit, sets.seed, objective=how)
    knows_all = clean and method is not Method.TRUNCATED
    return asked, 0.0 if knows_all else asked.objective.least(sets.level)


def measured(
    made: dict[Method, tuple[Step, float]],
    sets: NoisySets,
    seed: int,
    samples: int,
    sampler: Sampler,
    judging: Judging,
    scale: Scale,
) -> list[Trial]:
    """Every method's model of one seed, measured and judged."""
    at, drawn, evaluated = f"seed {seed}", {}, {}
    for method, (model, least) in made.items():
        how = ending(sampler, least)
        drawn[method] = step(Sample(model, samples, how, seed), f"{at}/samples/{method.value}", scale)
        evaluated[method] = step(Evaluate(model, sets.test, least=least), f"{at}/evaluate/{method.value}", scale)
    by = tuple(Drawn(method.value, found) for method, found in drawn.items())
    how, eye = extractor(judging, sets.images.shape, lambda: sets.taught, sets.test, scale)
    judged = step(Judge(by, sets.test, sets.clean or sets.noisy, how, eye), f"{at}/judge", sets.images.wide)
    seen = {method: images_seen(model) for method, (model, _) in made.items()}
    return [Trial(m.value, seed, evaluated[m], drawn[m], judged, images) for m, images in seen.items()]
