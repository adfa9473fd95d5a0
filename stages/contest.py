"""Contest: the models of a recipe measured on the same held-out images, sampled, judged and reported side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace

from pipeline.diffusion.sample import Sampler
from pipeline.graph import Scale, Step, step
from pipeline.metrics.judging import Judging
from stages.compare import Compare, Contestant, Shown
from stages.ending import ending
from stages.evaluate import Evaluate
from stages.extractors import extractor
from stages.images import Images
from stages.judge import Drawn, Judge
from stages.sample import Sample

CEILING = "all clean"


class Contest(ABC):
    """The sets of a recipe: what is learned from, and `test`, which measures. Subclasses are frozen dataclasses."""

    images: Images
    test: Step
    census: Step
    seed: int
    unharmed: Step | None  # all originals, where they are known

    @property
    def originals(self) -> Step:
        """All images before they were harmed. Raises ValueError where nobody has them."""
        if self.unharmed is None:
            raise ValueError(
                "these images arrived harmed and nobody knows them otherwise: leave out what needs them so"
            )
        return self.unharmed

    @property
    @abstractmethod
    def given(self) -> dict[str, Step | None]:
        """What is learned from, by name, to be shown."""

    @property
    @abstractmethod
    def taught(self) -> Step:
        """What a feature network may be trained on."""

    @property
    @abstractmethod
    def learned(self) -> Step | None:
        """Among what copies are looked for."""

    def report(
        self,
        title: str,
        models: Mapping[str, tuple[Step, float]],
        shown: Mapping[str, Step],
        against: str | None,
        samples: int,
        sampler: Sampler,
        judging: Judging,
        scale: Scale,
        learned: Step | None = None,
        also: Mapping[str, Step] | None = None,
        aside: Mapping[str, Step] | None = None,
        copies: bool = False,
        notes: tuple[str, ...] = (),
    ) -> Step:
        """Every model by its name, and the σ below which it knows nothing, measured, sampled and judged.

        Samples end at that σ with what the model makes of it: truncated sampling. Copies are looked for among `learned`
        (None: as the sets say); what is in `also` is judged like samples, what is in `aside` only shown; `copies`
        and `notes` are as `Compare` has them.
        """
        wide, one = self.images.wide, replace(scale, workers=1)
        how, eye = extractor(judging, self.images.shape, lambda: self.taught, self.test, one)
        contestants = []
        for name, (model, least) in models.items():
            drawn_by = ending(sampler, least)
            drawn = step(Sample(model, samples, drawn_by, self.seed), f"samples/{name}", one)
            measured = step(Evaluate(model, self.test, least=least), f"evaluate/{name}", one)
            contestants.append(Contestant(name, measured, drawn))
        drawn = [Drawn(c.name, c.samples) for c in contestants]
        drawn += [Drawn(name, made) for name, made in (also or {}).items()]
        judged = step(Judge(tuple(drawn), self.test, learned or self.learned, how, eye), "judge", wide)
        pictures = {name: data for name, data in self.given.items() if data is not None} | dict(shown)
        shows = tuple(Shown(name, data) for name, data in pictures.items())
        ceiling = CEILING if CEILING in models else None
        report = Compare(title, tuple(contestants), shows, against, ceiling, census=self.census, judgement=judged)
        besides = tuple(Shown(name, data) for name, data in (aside or {}).items())
        return step(replace(report, aside=besides, copies=copies, notes=notes), "report")
