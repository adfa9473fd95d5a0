"""Rounds: denoise the noisy rows with the model so far, fine-tune on the outcome, and see whether that was worth it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.sample import Ancestral, Heun, Sampler
from pipeline.graph import Scale, Step, step
from pipeline.objectives.ambient import Ambient
from pipeline.physics.corruption import Noisy
from stages.ambient import Learned, TrainAmbient
from stages.corrupt import Corrupt
from stages.denoise import Denoise
from stages.gaussian import FitGaussian
from stages.judge import Drawn, Judge
from stages.noisy import NoisySets
from stages.proximal import Chosen, Proximal
from stages.sample import Sample
from stages.train import Fit


@dataclass(frozen=True)
class Lessons:
    """How noisy images are denoised, and who learns what of the outcome.

    Args:
        share: of the clean images in what is learned from, besides the restored ones (None: by their number).
        stochastic: whether noisy images are denoised by draws from the posterior, not along the probability flow.
        steps: noise levels from the largest to the least, of which denoising takes those below the images' noise.
        residual: the noise that restored images are still taken to hold, as a share of what they held: 0.125 is
            Ambient Dataloops (arXiv 2601.15417), 0 is SFBD.
        direct: whether noisy images also teach directly, above their own noise.
        cap: how near to it, as in the recipe ambient; where restored images teach as well, well above is best.
        only_below: whether restored images teach only where noisy ones cannot.
    """

    share: float | None = None
    stochastic: bool = False
    steps: int = 64
    residual: float = 0.0
    direct: bool = False
    cap: float = 1.5
    only_below: bool = False

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps is {self.steps}: give 2 steps at least")
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}: give the clean images' share, within (0, 1)")
        _ = self.objective  # its complaints are due now
        if not 0 <= self.residual < 1:
            raise ValueError(f"residual is {self.residual}: give the share of the noise that is left, within [0, 1)")
        if self.only_below and not self.direct:
            raise ValueError("only_below leaves other levels to the noisy images: add direct, so that they teach there")

    @property
    def objective(self) -> Ambient:
        """What a round minimises."""
        return Ambient(cap=self.cap)

    @property
    def sampler(self) -> Sampler:
        """Along which noisy rows are denoised."""
        return Ancestral(steps=self.steps) if self.stochastic else Heun(steps=self.steps)


@dataclass(frozen=True)
class Rounds(Lessons):
    """What a round is, and how many there are.

    Args:
        most: the largest number of rounds.
        stop: whether the rounds end when samples, noise added, no longer come nearer to the noisy images.
        ramp: rounds until restored images count in full: in round k each counts for k/ramp of a clean one.
    """

    most: int = 3
    stop: bool = True
    ramp: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most < 1 or self.ramp < 1:
            raise ValueError(f"most is {self.most} and ramp {self.ramp}: give a round at least")


@dataclass(frozen=True)
class Rounded:
    """The model after the best round, those that rounds began with and ended with, and what each restored."""

    model: Step
    models: tuple[Step, ...]
    restored: tuple[Step, ...]


def pretrain(sets: NoisySets, backbone: Backbone, fit: Fit, scale: Scale, label: str = "pretrained") -> Step:
    """A model of the clean images alone. Raises ValueError: there are none."""
    asked = TrainAmbient((Learned(sets.few),), backbone, fit, sets.seed)
    return step(asked, label, scale, (sets.census,))


def fitted(sets: NoisySets, scale: Scale, label: str = "gaussian") -> Step:
    """A Gaussian fitted to the noisy images less their noise, for rounds to begin with where no image is clean."""
    asked = FitGaussian(sets.noisy, seed=sets.seed)  # each row's noise is in the set
    return step(asked, label, replace(scale, workers=1), (sets.census,))


def lessons(sets: NoisySets, restored: Step, rounds: Lessons, factor: float = 1.0) -> tuple[Learned, ...]:
    """What a round learns from, each set at the levels and with the weight that are its own.

    `factor` is on the weight of restored rows; with 0 they are left out.
    """
    noise = rounds.residual * sets.level if rounds.residual else 0.0
    noisy = (Learned(sets.noisy, sets.noise),) if rounds.direct else ()
    found = [Learned(restored, noise)]
    if rounds.direct and (rounds.only_below or rounds.share is not None):  # where both may teach, and where one may
        meet = rounds.objective.least(sets.level)
        found = [Learned(restored, noise, below=meet)]
        found += [] if rounds.only_below else [Learned(restored, noise, above=meet)]
    clean = () if sets.clean is None else (Learned(sets.clean, weight=rounds.share),)
    if rounds.share is not None:
        rest = 1 - rounds.share
        both = 1.0 if rounds.only_below or not noisy else 0.5
        found = [replace(each, weight=rest * (1.0 if each.above is None else both)) for each in found]
        noisy = tuple(replace(each, weight=rest * both) for each in noisy)
    found = [replace(each, factor=factor) for each in found] if factor else []
    return (*clean, *found, *noisy)


def deconvolve(
    sets: NoisySets,
    first: Step,
    rounds: Rounds,
    backbone: Backbone,
    fit: Fit,
    scale: Scale,
    label: str = "round",
    weights: Step | None = None,
) -> Rounded:
    """Rounds of restoring and fine-tuning, from the model `first`, which may be any denoiser of such images.

    What the first round fine-tunes are the `weights` of another, where `first` has none of its kind (None: fresh ones).
    With `rounds.stop` the result is the model whose samples, noise added, are nearest to the noisy images in pixels;
    the one that rounds began with is among them.
    """
    wide, one = sets.images.wide, replace(scale, workers=1)
    if rounds.stop and sets.noise is None:
        raise ValueError("each noisy image has a noise of its own, so none can judge: add --rounds.no-stop")

    def judged(model: Step, k: int, before: Step | None) -> Step:
        at, seed = f"{label}/{k}", sets.seed + k
        drawn = step(Sample(model, 512, seed=seed), f"{at}/samples", one)
        noised = step(Corrupt(drawn, corruption=Noisy(noise=sets.level), seed=seed), f"{at}/noised", wide)
        near = step(Judge((Drawn("noised", noised),), sets.noisy), f"{at}/judged", wide)
        return step(Proximal(near, before), f"{at}/proximal")

    models, restored = [first], []
    told = judged(first, 0, None) if rounds.stop else None
    for k in range(1, rounds.most + 1):
        at, model = f"{label}/{k}", models[-1]
        asked = Denoise(model, sets.noisy, sets.noise, rounds.sampler, sets.seed + k, unless=told)
        restored.append(step(asked, f"{at}/restored", scale))
        rows = lessons(sets, restored[-1], rounds, min(1.0, k / rounds.ramp))
        mine = isinstance(model.stage, TrainAmbient)
        start = model if mine else weights
        # The first round is never one too many, and another kind of model cannot be its result.
        learned = TrainAmbient(rows, backbone, fit, sets.seed + k, start, rounds.objective, told if mine else None)
        models.append(step(learned, at, scale))
        told = judged(models[-1], k, told) if rounds.stop else None
    model = models[-1] if told is None else step(Chosen(tuple(models), told), label)
    return Rounded(model, tuple(models), tuple(restored))


def images_seen(model: Step) -> int:
    """How many images a model has seen, with all that its training began with."""
    found, at = 0, model
    while at is not None:
        if not isinstance(at.stage, TrainAmbient):
            raise ValueError(f"{at.label} is no training whose images could be counted: begin with one")
        found, at = found + at.stage.fit.images, at.stage.onward or at.stage.start
    return found
