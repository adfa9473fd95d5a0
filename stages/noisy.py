"""Noisy sets: few clean images, many that hold noise, and some that nobody learns from, as the recipes share them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.graph import Step, step
from pipeline.objectives.ambient import Ambient
from pipeline.physics.corruption import Clean, Noisy
from stages.census import Census
from stages.contest import Contest
from stages.corrupt import Corrupt, Part
from stages.images import Images
from stages.sets import Stored


@dataclass(frozen=True)
class Harm:
    """Which images are clean, which noisy, and which measure.

    Args:
        clean: how many images are seen clean.
        noise: σ of the noisy ones, for pixels in [-1, 1]: 0.2 if not given; with --noisy and none given, each of those
            says its own.
        noisy: where images are that arrived noisy; if not given, those left over are made so.
        count: how many noisy ones to take; all if not given.
        test: how many clean images are held out, to measure with.
    """

    unprefixed = True

    clean: int = 55
    noise: float | None = None
    noisy: str = ""
    count: int | None = None
    test: int = 400

    def __post_init__(self) -> None:
        if self.clean < 0 or self.test < 2:
            raise ValueError(f"clean is {self.clean} and test {self.test}: give clean from 0, and 2 or more to measure")
        if self.clean == 1:
            raise ValueError("clean is 1, and one image has no spread to be learned: give none, or 2 or more")
        if self.noise is not None and not self.noise > 0:
            raise ValueError(f"noise is {self.noise}: give the σ of the noisy images, above 0")

    @property
    def level(self) -> float | None:
        """σ of the noisy images; None: each says its own."""
        return 0.2 if self.noise is None and not self.noisy else self.noise


@dataclass(frozen=True)
class NoisySets(Contest):
    """What a method may learn from, and what measures it; made by `noisy_sets`.

    `clean` is None where there are no clean images; `unharmed` has all originals, where they are known; `noise` None
    says that every noisy row has its own. Of `masked` rows nobody can have copied more than is seen.
    """

    images: Images
    clean: Step | None
    noisy: Step
    test: Step
    unharmed: Step | None
    census: Step
    noise: float | None
    seed: int
    masked: bool = False

    @property
    def few(self) -> Step:
        """The clean images. Raises ValueError where there are none."""
        if self.clean is None:
            raise ValueError("clean is 0 and this method needs clean images to begin with: give some, or use ambient")
        return self.clean

    @property
    def level(self) -> float:
        """σ of the noisy images. Raises ValueError where each has its own."""
        if self.noise is None:
            raise ValueError("each noisy image has a noise of its own, and this needs one for all")
        return self.noise

    @property
    def given(self) -> dict[str, Step | None]:
        return {"clean": self.clean, "masked" if self.masked else "noisy": self.noisy}

    @property
    def taught(self) -> Step:
        return self.unharmed or self.clean or self.noisy

    @property
    def learned(self) -> Step | None:
        return self.unharmed or self.clean if self.masked else self.clean or self.noisy


def careful(sets: NoisySets, backbone: Backbone, alone: Backbone, objective: Ambient) -> Backbone:
    """A network of both sets, with the dropout of that of the clean images `alone` where they alone teach.

    As it is where there are none, where each noisy image has a noise of its own, where it says so itself
    (`dropout_below`), and where either is no U-Net of ours.
    """
    if sets.clean is None or sets.noise is None:
        return backbone
    if not isinstance(backbone, unet.Config) or not isinstance(alone, unet.Config):
        return backbone
    if backbone.dropout_below is not None or backbone.dropout == alone.dropout:
        return backbone
    return replace(backbone, dropout_below=(objective.least(sets.noise), alone.dropout))


def alike(images: Images, others: Images, what: str) -> Images:
    """The others. Raises ValueError: they become rows of another shape than the images."""
    if tuple(images.shape) != tuple(others.shape):
        raise ValueError(
            f"images are {tuple(images.shape)} and {what} ones {tuple(others.shape)} (channels, height, width): bring "
            "them to one, with --size and --resize, or --colour"
        )
    return others


def noisy_sets(images: Images, harm: Harm, seed: int, aside: int = 0) -> NoisySets:
    """The sets of a recipe: no image is in two of them, and `aside` after the clean ones are in none that is noisy."""
    full = images.ingest("ingest")
    clean, test, count, wide = harm.clean, harm.test, harm.count, images.wide
    held = step(Corrupt(full, Part(0, test, seed), Clean(), seed), "data/test", wide)
    few = step(Corrupt(full, Part(test, clean, seed), Clean(), seed), "data/clean", wide) if clean else None
    unharmed = None
    if harm.noisy:
        known = None if harm.level is None else Noisy(noise=harm.level)
        arrived = alike(images, images.of(harm.noisy), "noisy").ingest("ingest/noisy", known=known)
        many = step(Corrupt(arrived, Part(0, count, seed), Clean(), seed), "data/noisy", wide)
    else:
        harmed = Corrupt(full, Part(test + clean + aside, count, seed), Noisy(noise=harm.level or 0.0), seed)
        many = step(harmed, "data/noisy", wide)
        every = Part(test, None if count is None else clean + aside + count, seed)
        unharmed = step(Corrupt(full, every, Clean(), seed), "data/unharmed", wide)
    sets = [("clean", few), ("noisy", many), ("test", held)]
    looked = Census(tuple(Stored(name, data) for name, data in sets if data is not None), seed)
    return NoisySets(images, few, many, held, unharmed, step(looked, "census", wide), harm.level, seed)
