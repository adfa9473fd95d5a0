"""Bootstrap: a model of partial views, combined and corrected on a few whole images, for others to begin with."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.graph import Scale, Step, step
from pipeline.physics.corruption import Clean
from stages.compose import Combine, Seen
from stages.corrupt import Corrupt, Part
from stages.images import Images
from stages.residual import Regularisation, TrainResidual
from stages.train import Fit, Train
from stages.views import default_views

LEAST = 8  # whole images, of which some are held out to measure the views with


@dataclass(frozen=True)
class Bootstrap:
    """How models of the default views are trained, and what corrects their combination.

    Args:
        backbone: network of each view's model.
        fit: how it is trained.
        correction: network of the residual, which learns from the whole images what the views miss.
        correction_fit: how it is trained.
        residual: what regularises it.
    """

    backbone: Backbone = unet.Config(dropout=0.3)
    fit: Fit = Fit(images=112_000).decayed(0.3)
    correction: Backbone = unet.Config(dropout=0.5)
    correction_fit: Fit = Fit(images=12_800).decayed(1.0)
    residual: Regularisation = Regularisation(output_l2=3.0)

    def model(self, images: Images, first: int, clean: int, each: int, seed: int, scale: Scale, looked: Step) -> Step:
        """A denoiser of whole images, from the `clean` ones of rank `first` on and, after them, `each` of every view.

        Raises ValueError: there are too few whole images to measure views with.
        """
        if clean < LEAST:
            raise ValueError(f"clean is {clean}: to combine views give at least {LEAST} whole images")
        full, wide, aside = images.ingest("ingest"), images.wide, max(4, clean // 10)
        whole, held, taught = (
            step(Corrupt(full, part, Clean(), seed), f"bootstrap/data/{name}", wide)
            for name, part in (
                ("whole", Part(first, clean, seed)),
                ("held", Part(first, aside, seed)),
                ("taught", Part(first + aside, clean - aside, seed)),
            )
        )
        seen = []
        for k, view in enumerate(default_views(images.shape)):
            part = Part(first + clean + k * each, each, seed)
            rows = step(Corrupt(full, part, view.corruption, seed), f"bootstrap/data/{view.name}", wide)
            learned = Train(rows, self.backbone, self.fit, seed)
            model = step(learned, f"bootstrap/view/{view.name}", scale, (looked,))
            seen.append(Seen(view.map, model))  # pyright: ignore[reportArgumentType]  # a map, as of all default views
        base = step(Combine(tuple(seen), whole, held, draws=32, seed=seed), "bootstrap/base", scale)
        top = TrainResidual(base, taught, held, self.correction, self.residual, self.correction_fit, seed)
        return step(top, "bootstrap/composed", scale)
