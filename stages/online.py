"""Online: one course of training in parts, between which some restored images are made anew by the model so far."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.backbones.backbone import Backbone
from pipeline.graph import Scale, Step, step
from pipeline.learning.optim import Cosine
from stages.ambient import TrainAmbient
from stages.denoise import Denoise
from stages.noisy import NoisySets
from stages.refresh import Refresh
from stages.rounds import Lessons, Rounded, lessons
from stages.train import Fit


@dataclass(frozen=True)
class Online(Lessons):
    """How often restored images are made anew, and how many of them.

    Args:
        refreshes: into how many parts the training is divided; before each some noisy images are denoised anew.
        part: the share of the noisy images that has its turn then; before the first part all have.
        adaptive: whether fewer of them are taken over where, noise added, they are little nearer to the noisy images
            than what they replace.
        ramp: the share of the training over which a restored image comes to count as much as a clean one.
    """

    refreshes: int = 12
    part: float = 0.25
    adaptive: bool = False
    ramp: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.refreshes < 1:
            raise ValueError(f"refreshes is {self.refreshes}: give 1 at least")
        if not 0 < self.part <= 1 or not 0 <= self.ramp <= 1:
            raise ValueError(f"part is {self.part} and ramp {self.ramp}: give shares, part above 0")

    def factor(self, done: float) -> float:
        """What a restored image counts once a share `done` of the training is: from 0, linearly, to 1."""
        return min(1.0, done / self.ramp) if self.ramp else 1.0


def divided(fit: Fit, parts: int) -> Fit:
    """One of so many parts of a course, of whole batches, with the whole course's schedule."""
    images = max(1, fit.images // parts // fit.batch) * fit.batch
    optim = replace(fit.optim, schedule=Cosine(parts * images)) if fit.cosine else fit.optim
    return replace(fit, images=images, cosine=False, optim=optim)


def online(
    sets: NoisySets, first: Step, how: Online, backbone: Backbone, fit: Fit, scale: Scale, label: str = "online"
) -> Rounded:
    """Parts of one course, which begins with the weights of `first`; `fit` is the whole of it.

    Weights, their average, the optimiser's moments and the clock are kept from part to part.
    """
    models, buffers, each = [first], [], divided(fit, how.refreshes)
    for k in range(1, how.refreshes + 1):
        at, model = f"{label}/{k}", models[-1]
        asked = Denoise(model, sets.noisy, sets.noise, how.sampler, sets.seed + k)
        refresh = Refresh(asked, buffers[-1] if buffers else None, how.part, how.adaptive, sets.seed)
        buffers.append(step(refresh, f"{at}/restored", scale))
        rows = lessons(sets, buffers[-1], how, how.factor((k - 0.5) / how.refreshes))
        part = TrainAmbient(rows, backbone, each, sets.seed + 1, objective=how.objective, keep=k < how.refreshes)
        models.append(step(replace(part, **{"start" if k == 1 else "onward": model}), at, scale))
    return Rounded(models[-1], tuple(models), tuple(buffers))
